"""The OpenAPI page comes from the package alone, and its policy lets it work."""


def test_the_openapi_page_lists_the_requests(reading):
    reading.browser.get(f"{reading.server.url}/docs")
    reading.see(".opblock-summary-path", "/v1/predict")
    errors = [entry for entry in reading.browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []
