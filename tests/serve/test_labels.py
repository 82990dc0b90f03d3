"""Labels by REST: those of the library, all or none, told apart from what others did meanwhile."""

import hashlib

import pytest

from hybrid import Run
from hybrid.labels.names import NONE


@pytest.fixture
def images(served_animals):
    """Photos of the index: hash, label."""
    files = sorted((served_animals / "train").rglob("*.jpg"))
    return [(hashlib.sha256(file.read_bytes()).hexdigest(), file.parent.name) for file in files]


@pytest.fixture
def label(client):
    def label(*rows, rc=200, by="Ada"):
        answer = client.post("/v1/labels", json={"labels": list(rows), "by": by})
        assert answer.status_code == rc, answer.text
        return answer.json()

    return label


def row(image, label, **more):
    return {"sha256": image[0], "label": label, "was": image[1]} | more


def in_force(client):
    return {one.sha256: one for one in Run(client.run).label_history()}


def test_labels_are_given_listed_and_taken_back(client, label, images):
    given = label(row(images[0], images[-1][1], why="suspect"), row(images[1], NONE))
    assert (given["applied"], given["unchanged"], len(given["ids"])) == (2, 0, 2)
    written = in_force(client)
    assert (written[images[0][0]].label, written[images[0][0]].why) == (images[-1][1], "suspect")
    assert {one.by for one in written.values()} == {"Ada"}
    listed = client.get("/v1/labels").json()
    assert listed["total"] == 2
    assert [one["id"] for one in listed["labels"]] == given["ids"][::-1]
    assert (
        client.post("/v1/predict", files={"": b""}, data={"sha256": images[0][0], "neighbors": 1}).json()[
            "predictions"
        ][0]["labeled"]
        == images[-1][1]
    )
    undone = client.post("/v1/labels/undo", json={"ids": given["ids"][:1]}).json()["undone"]
    assert [(one["sha256"], one["was"]) for one in undone] == [images[0]]
    assert client.post("/v1/labels/undo", json={"ids": given["ids"][:1]}).status_code == 404
    assert client.post("/v1/labels/undo", json={}).json()["undone"][0]["sha256"] == images[1][0]


def test_who_comes_second_is_told_by_whom_and_nothing_is_written(client, label, images):
    label(row(images[0], images[-1][1]))
    refused = label(row(images[1], NONE), row(images[0], NONE), by="Bob", rc=409)
    (conflict,) = refused["conflicts"]
    assert (conflict["sha256"], conflict["label"], conflict["by"]) == (images[0][0], images[-1][1], "Ada")
    assert client.get("/v1/labels").json()["total"] == 1


def test_a_new_class_joins_at_once_by_an_upload_that_is_kept(client, label, photos):
    data = photos[-1].read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    missing = client.post("/v1/labels", json={"labels": [{"sha256": sha256, "label": "okapi"}]})
    assert missing.status_code == 404
    client.post("/v1/predict", files={"images": ("mine.jpg", data)})
    given = label({"sha256": sha256, "label": "okapi", "was": None, "why": "try"})
    assert given["new"] == 1
    (own,) = [one for one in client.get("/v1/classes").json()["classes"] if one["name"] == "okapi"]
    assert (own["kind"], own["images"]) == ("support", 1)
    assert [file.read_bytes() for file in (client.run / "photos").iterdir()] == [data]


def test_labels_of_trained_classes_leave_the_classifier_as_it_is(client, label, images):
    before = client.service.served
    client.get("/v1/queue")
    client.service.review._thread.join()
    label(row(images[0], images[-1][1], why="suspect"))
    assert client.service.served is before
    items = client.get("/v1/queue", params={"strategy": "suspect", "limit": 1000}).json()["items"]
    assert images[0][0] not in [item["sha256"] for item in items]
    assert client.get("/v1/progress").json()["labels"] == 1


@pytest.mark.parametrize("wrong", [{"why": "luck"}, {"label": " "}, {"sha256": "x"}, {"label": None}])
def test_what_is_no_label_is_refused(label, images, wrong):
    assert label(row(images[0], NONE) | wrong, rc=422)["error"]["fix"]


def test_labels_need_a_server_that_may_write(serve, images):
    refused = serve(read_only=True).post("/v1/labels", json={"labels": [row(images[0], NONE)]})
    assert refused.status_code == 403
