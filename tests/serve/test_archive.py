"""An archive behind the page: found, reviewed and labeled by its vectors, and never written to."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hybrid import Run
from hybrid.errors import ConfigError
from hybrid.serve import archive as served_archive

pytest.importorskip("pyarrow", reason="needs the extra parquet: pip install 'hybrid-classifier[parquet]'")
from hybrid.cluster.archive import Archive, draw_rows

WRONG = "of another class"


def content(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def made(tmp_path_factory, served_animals, hybrid):
    """An archive of photos that the run has not seen: one is there twice, one has gone since, one has a wrong label."""
    root = tmp_path_factory.mktemp("archived")
    photos = Path(shutil.copytree(served_animals / "test", root / "photos"))
    files = sorted(photos.rglob("*.jpg"))
    names = sorted({file.parent.name for file in files})
    shutil.copy(files[0], photos / "copy.jpg")
    with (root / "photos.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("path", "label"))
        rows.writerows((file, names[-1] if file == files[3] else "") for file in [*files, photos / "copy.jpg"])
    hybrid("embed", "plan", root / "photos.csv", "--out", root / "plan", "--per-shard", 8, "--encoder", "tiny")
    hybrid("embed", "run", root / "plan", "--local")
    hybrid("archive", "build", root / "plan", "--out", root / "archive")
    files[-1].rename(root / "gone.jpg")
    return root, files


@pytest.fixture
def client(serve, made):
    return serve(archive=Archive.open(made[0] / "archive"))


def ask(client, path, rc=200, **asked):
    answer = client.get(path, params=asked)
    assert answer.status_code == rc, answer.text
    return answer.json()


def queue(client, strategy="margin"):
    ask(client, "/v1/queue")
    client.service.review._thread.join(20)
    return ask(client, "/v1/queue", strategy=strategy, limit=1000)


def test_the_queue_is_what_predict_says_of_the_archive(client, made, served_animals, hybrid, decodes, tmp_path):
    root, files = made
    found = queue(client)
    assert not decodes
    assert found["notes"] == [f"all {len(files) + 1} photos of the archive were looked at"]
    assert ask(client, "/v1/run")["archive"]["looked_at"] == len(files) + 1
    hybrid(
        *("predict", "--archive", root / "archive", "--run", served_animals / "run", "--out", tmp_path / "said.jsonl"),
        *("--prompts", served_animals / "names.txt", "--format", "jsonl"),
    )
    said = {row["path"]: row for row in map(json.loads, (tmp_path / "said.jsonl").read_text().splitlines())}
    assert {item["sha256"] for item in found["items"]} == {content(file) for file in files[:-1] if file != files[3]} | {
        content(root / "gone.jpg")
    }
    for item in found["items"]:
        assert item["prediction"]["probability"] == pytest.approx(said[item["path"]]["probability"], abs=1e-6)
    (doubted, *_) = queue(client, "suspect")["items"]
    assert (doubted["sha256"], doubted["drawn"]) == (content(files[3]), "suspect")


def test_a_search_by_text_photo_or_both(client, made):
    root, files = made
    by_text = ask(client, "/v1/search", text="an animal", top_k=500)
    assert len(by_text["hits"]) == len(files)
    assert "exact search among" in by_text["notes"][0]
    first = next(hit for hit in by_text["hits"] if hit["copies"])
    assert {first["path"], *first["copies"]} == {str(files[0]), str(root / "photos" / "copy.jpg")}
    count = min(by_text["hits"].index(first) + 2, len(by_text["hits"]))
    fewer = ask(client, "/v1/search", text="an animal", top_k=count)["hits"]
    assert [hit["sha256"] for hit in fewer] == [hit["sha256"] for hit in by_text["hits"]][:count]  # the copy is no hit
    photo = {"image": ("a.jpg", files[5].read_bytes())}
    by_photo = client.post("/v1/search", files=photo, data={"top_k": 500}).json()["hits"]
    assert (by_photo[0]["itself"], by_photo[0]["path"]) == (True, str(files[5]))
    both = client.post("/v1/search", files=photo, data={"top_k": 500, "text": "an animal"}).json()["hits"]
    text, image = ({hit["sha256"]: hit["score"] for hit in hits} for hits in (by_text["hits"], by_photo))
    mean = np.array([text[hit["sha256"]] + image[hit["sha256"]] for hit in both])
    np.testing.assert_allclose([hit["score"] for hit in both] / mean, both[0]["score"] / mean[0], atol=1e-4)
    shown = client.get(f"/v1/photos/{by_photo[0]['sha256']}")
    assert shown.headers["content-type"] == "image/jpeg"
    assert ask(client, "/v1/search", 422, text="an animal", label="cat")["error"]["what"].startswith("labels narrow")
    gone = ask(client, f"/v1/photos/{content(root / 'gone.jpg')}", 422)["error"]
    assert str(files[-1]) in gone["what"] + str(gone["got"])
    assert ask(client, f"/v1/photos/{'0' * 64}", 404)["error"]["fix"].startswith("post the photo itself, or search")


def test_labels_go_to_the_run_and_nothing_to_the_archive(client, made, decodes):
    root, files = made
    before = {file: content(file) for file in (root / "archive").rglob("*") if file.is_file()}
    gone, wrong = content(root / "gone.jpg"), content(files[3])
    there = {item["sha256"]: item for item in queue(client)["items"] + queue(client, "suspect")["items"]}
    rows = [
        {"sha256": gone, "label": WRONG, "was": None, "why": "margin"},
        {"sha256": wrong, "label": files[3].parent.name, "was": there[wrong]["label"], "why": "suspect"},
    ]
    made_known = client.post("/v1/labels", json={"labels": rows}).json()
    assert (made_known["applied"], made_known["new"], made_known["unreadable"]) == (2, 2, [])
    assert not decodes
    assert not {gone, wrong} & {item["sha256"] for item in queue(client)["items"] + queue(client, "suspect")["items"]}
    assert [one["kind"] for one in ask(client, "/v1/classes")["classes"] if one["name"] == WRONG] == ["support"]
    run = Run(client.run)
    answers = {row.sha256: json.loads(row.answer) for row in run.label_history()}
    assert answers[gone]["label"] == there[gone]["prediction"]["label"]
    (hit,) = (hit for hit in ask(client, "/v1/search", text="an animal", top_k=500)["hits"] if hit["sha256"] == gone)
    assert hit["label"] == WRONG
    again = client.post("/v1/labels", json={"labels": [rows[0] | {"label": "cat"}]})
    assert again.status_code == 409
    assert {file: content(file) for file in (root / "archive").rglob("*") if file.is_file()} == before


def test_an_archive_is_looked_at_in_part(serve, made, monkeypatch):
    monkeypatch.setattr(served_archive, "SAMPLE", 8)
    client = serve(archive=Archive.open(made[0] / "archive"), read_only=True)
    found = queue(client, "random")
    assert found["total"] <= 8
    assert found["notes"][0].startswith("8 of ")
    assert client.post("/v1/labels", json={"labels": [{"sha256": "0" * 64, "label": "cat"}]}).status_code == 403


@pytest.mark.parametrize("sizes", [[50_000] * 2000, [500, 3, 4100], [1]])
def test_rows_are_drawn_from_few_groups_each_with_the_same_probability(sizes):
    drawn = np.array(draw_rows(sizes, 20_000))
    assert len(drawn) == len(np.unique(drawn))
    if sum(sizes) <= 20_000:
        assert drawn.tolist() == list(range(sum(sizes)))
        return
    assert 19_500 < len(drawn) < 20_500
    assert len(np.unique(np.stack([drawn // 50_000, drawn % 50_000 // 4096]), axis=1).T) == 256
    # Of many positions within a group of rows none is preferred.
    assert 0.4 < (drawn % 50_000 % 4096 < 2000).mean() < 0.6


def test_an_archive_of_another_encoder_is_refused(serve, made):
    archive = Archive.open(made[0] / "archive")
    other = replace(archive, info=replace_fingerprint(archive.info))
    with pytest.raises(ConfigError, match="holds vectors of another encoder than the run"):
        serve(archive=other)


def replace_fingerprint(info):
    import msgspec

    return msgspec.structs.replace(info, fingerprint="other")


def test_a_head_that_reads_pixels_has_no_queue_and_is_searched_all_the_same(client, monkeypatch):
    head = client.service.served.fitted.head
    monkeypatch.setattr(head, "encoder_identity", None)
    refused = client.get("/v1/queue").json()["error"]
    assert refused["what"].startswith("the head of this run reads pixels")
    assert "train-head --head linear" in refused["fix"]
    assert ask(client, "/v1/search", text="an animal")["hits"]
