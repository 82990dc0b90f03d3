"""Who may ask, and how much."""

import pytest

PAGES = (
    "/v1/run",
    "/v1/classes",
    "/openapi.json",
    "/docs",
    "/docs/start.js",
    "/docs/swagger-ui-bundle.js",
    "/metrics",
    "/",
)


def test_every_answer_forbids_what_a_page_does_not_need(client):
    for path in (*PAGES, "/nothing", "/static/nothing.js", "/v1/photos/1"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'; "), path
        assert "unsafe" not in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
    for path in PAGES:
        assert client.get(path).status_code == 200, path


def test_the_report_is_framed_by_this_server_alone(client):
    assert client.get("/v1/report").json()["error"]["fix"]
    (client.run / "report.html").write_text("<title>report</title>")
    answer = client.get("/v1/report")
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"
    assert "sandbox allow-scripts" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "", "127.0.0.1.evil.example", "[", "127.0.0.1@evil"]
)
def test_another_name_for_this_machine_is_refused(client, host):
    assert client.get("/v1/run", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9000"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_another_sites_page_cannot_send_anything(client, headers):
    assert client.post("/v1/refit", json={"what": "gate"}, headers=headers).status_code == 403


def test_this_servers_page_can(client):
    own = {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}
    assert client.post("/v1/refit", json={"what": "nothing"}, headers=own).status_code == 422


def test_a_token_is_needed_where_there_is_one(serve):
    client = serve(token="secret", host="0.0.0.0")
    assert client.get("/healthz").status_code == 200
    for path in PAGES:
        refused = client.get(path)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer"), path
    assert client.get("/v1/run", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/v1/run", headers={"Authorization": "Bearer secret"}).status_code == 200
    assert client.get("/?token=wrong", follow_redirects=False).status_code == 401
    answer = client.get("/?token=secret", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert client.get("/v1/run").status_code == 200  # by the cookie


def test_too_much_is_refused(serve, photos):
    client = serve(photo_bytes=10_000, photos=2, body_bytes=50_000)
    small = photos[0].read_bytes()[:100]
    for files, status in (
        ([("images", ("a", bytes(10_001)))], 413),
        ([("images", ("a", small))] * 3, 413),
        ([("images", ("a", bytes(9_000)))] * 2, 200),
    ):
        assert client.post("/v1/predict", files=files).status_code == status
    assert client.post("/v1/predict", content=bytes(50_001)).status_code == 413

    def stream():
        for _ in range(60):
            yield bytes(1000)

    form = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post("/v1/predict", content=stream(), headers=form).status_code in (400, 413)
    assert client.post("/v1/predict", content=b"broken", headers=form).status_code == 400
    assert client.post("/v1/predict", json={}).status_code == 415
    assert client.post("/v1/refit", content=b"{", headers={"Content-Type": "application/json"}).status_code == 422


def test_no_address_in_a_request_is_opened(client, photos):
    for name in (str(photos[0]), "../index.sqlite", "http://127.0.0.1/x"):
        assert client.get(f"/v1/photos/{name}").status_code in (404, 422)
        assert client.post("/v1/predict", files={"": b""}, data={"sha256": name}).status_code == 422
        row = client.post("/v1/predict", files={"images": (name, b"text")}).json()["unreadable"][0]
        assert (row["path"], row["reason"]) == (name, "not an image but text")
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py"):
        assert client.get(path).status_code == 404
