"""The run changes: by this server, by another process; who is answered then goes on with one state of it."""

import json

import pytest


@pytest.fixture
def name(client):
    """A class that is not there yet, and shows two of the photos."""
    return "purple thing"


def files(photos):
    return [("images", (file.name, file.read_bytes())) for file in photos]


def test_a_class_joins_by_uploads_and_leaves(client, post, photos, name):
    before = client.get("/v1/classes").json()
    added = client.post("/v1/classes", data={"name": name, "named": "false"}, files=files(photos[-2:])).json()
    assert (added["images"], added["new"]) == (2, 2)
    after = client.get("/v1/classes").json()
    assert after["revision"] == added["revision"] != before["revision"]
    (own,) = [one for one in after["classes"] if one["name"] == name]
    assert (own["kind"], own["images"], own["named"]) == ("support", 2, False)
    assert post(photos[-1:])["predictions"][0]["label"] == name
    left = client.delete(f"/v1/classes/{name}").json()
    assert left["name"] == name
    assert name not in [one["name"] for one in client.get("/v1/classes").json()["classes"]]


def test_a_class_joins_by_its_name_alone(client):
    client.post("/v1/classes", data={"name": "okapi", "synonyms": json.dumps(["forest giraffe"])}, files={"": b""})
    (own,) = [one for one in client.get("/v1/classes").json()["classes"] if one["name"] == "okapi"]
    assert (own["kind"], own["images"], own["synonyms"]) == ("prompted", 0, ["forest giraffe"])


def test_a_trained_class_stays(client):
    trained = client.get("/v1/classes").json()["classes"][0]["name"]
    refused = client.delete(f"/v1/classes/{trained}")
    assert refused.status_code == 422
    assert "head was trained on" in refused.json()["error"]["what"]


def test_what_another_process_does_is_seen(serve, photos, hybrid):
    client = serve(check_seconds=0)
    old = client.service.served
    hybrid("add-class", "okapi", photos[0], "--run", client.run)
    assert client.service.reload().revision != old.revision
    assert client.get("/v1/run").json()["revision"] == client.service.served.revision
    assert "okapi" in [one["name"] for one in client.get("/v1/classes").json()["classes"]]
    # Whoever was being answered when it was swapped ends on the old one.
    assert "okapi" not in old.fitted.space.names


def test_embeddings_outlive_a_class_that_joins(client, post, photos):
    post(photos[:1])
    items = client.service.served.scores_key
    client.post("/v1/classes", data={"name": "okapi"}, files={"": b""})
    assert client.service.served.scores_key == items


def test_a_run_in_use_is_said_to_be_so(client):
    from hybrid.lock import run_lock

    with run_lock(client.run, "train-head"):
        refused = client.post("/v1/classes", data={"name": "okapi"}, files={"": b""})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")


def test_a_run_that_cannot_be_read_any_more_answers_on(client, post, photos):
    first = post(photos[:1])
    (client.run / "run.json").write_text("{")
    client.service._try_to_reload()
    assert post(photos[:1]) == first
    assert any("cannot be read" in note for note in client.get("/v1/run").json()["notes"])


def test_typed_names_are_not_written_into_a_run_that_is_only_read(serve, photos):
    client = serve(read_only=True)
    before = (client.run / "index.sqlite").read_bytes()
    sent = files(photos[:1])
    assert client.post("/v1/predict", data={"prompts": '["teapot", "kettle"]'}, files=sent).status_code == 200
    assert client.post("/v1/classes", data={"name": "okapi"}, files=sent).status_code == 403
    assert (client.run / "index.sqlite").read_bytes() == before


def test_searches_find_photos_by_text_and_by_photo(client, served_animals):
    file = sorted((served_animals / "val").rglob("*.jpg"))[0]
    label = file.parent.name
    found = client.get("/v1/search", params={"text": label, "top_k": 3, "label": label}).json()["hits"]
    assert [hit["label"] for hit in found] == [label] * 3
    hits = client.post("/v1/search", files={"image": (file.name, file.read_bytes())}, data={"top_k": 2}).json()["hits"]
    assert (hits[0]["itself"], hits[0]["path"], hits[0]["rank"]) == (True, str(file), 1)


def test_the_queue_lists_photos_with_their_answers(client):
    client.get("/v1/queue")
    client.service.review._thread.join()
    page = client.get("/v1/queue", params={"strategy": "suspect", "limit": 3}).json()
    assert page["ready"] == {"done": 72, "total": 72}
    assert len(page["items"]) == 3
    assert all(item["label"] and item["prediction"]["top"] for item in page["items"])
    assert client.get("/v1/queue", params={"strategy": "luck"}).status_code == 422


def test_trained_classes_name_what_they_are_taken_for(client):
    served = client.service.served
    held_out = served.fitted.gate.calibration_set
    classes = client.get("/v1/classes").json()["classes"]
    answers = served.fitted.answer(held_out.embeddings, held_out.head_logits).hybrid.argmax(axis=1)
    wrong = int((answers != held_out.target).sum())
    assert sum(pair["count"] for one in classes for pair in one["confusions"]) == wrong
    assert all(pair["label"] != one["name"] for one in classes for pair in one["confusions"])


def test_a_server_of_names_alone_says_what_it_lacks(tmp_path, photos):
    from starlette.testclient import TestClient

    from hybrid import Run
    from hybrid.serve.app import create_app
    from hybrid.serve.model import Asked
    from hybrid.serve.service import Service
    from hybrid.serve.settings import ServeSettings

    run = tmp_path / "none"
    service = Service(lambda: Run(run, encoder="tiny", wait=False), Asked(prompts="zebra,okapi"), ServeSettings())
    with TestClient(create_app(service), base_url="http://127.0.0.1:8000") as client:
        answer = client.post("/v1/predict", files=files(photos[:1]), data={"neighbors": "3"}).json()
        assert (answer["predictions"][0]["expert"], answer["predictions"][0]["neighbors"]) == ("zero-shot", [])
        said = client.get("/v1/run").json()
        assert (said["head"], said["images"], said["can"]["train"], said["can"]["reject"]) == (None, 0, False, False)
        for path in ("/v1/queue", "/v1/labels", "/v1/progress", "/v1/search?text=zebra"):
            refused = client.get(path)
            assert refused.status_code == 404, path
            assert "hybrid build-index" in refused.json()["error"]["fix"]
    assert not run.exists()
