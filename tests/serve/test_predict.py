"""Answers by REST: those of the command line, whatever they are joined with; another question costs no second look."""

import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hybrid import ClassPriors, Policy, PromptSet
from hybrid.run.fitted import Experts


@pytest.fixture
def scored(monkeypatch):
    """Sizes of the batches that networks looked at."""
    sizes, score = [], Experts.score

    def watched(self, prepared):
        sizes.append(len(prepared))
        return score(self, prepared)

    monkeypatch.setattr(Experts, "score", watched)
    return sizes


def hash_of(file):
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def bare(row):
    """A prediction by the command line's keys, its path aside."""
    return {key: value for key, value in row.items() if key not in ("path", "sha256", "labeled")}


def close(one, other):
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, abs=1.01e-6)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    return one == other


def test_uploads_get_the_answers_that_the_command_line_gives(post, photos, served_animals, hybrid):
    flags = ("--prior", "0.3", "--reject", "0.9", "--coverage", "0.9")
    run = ("--run", served_animals / "run", "--prompts", served_animals / "names.txt")
    rows = hybrid("predict", *photos, *run, *flags, "--format", "jsonl").rows
    by_name = {hash_of(row["path"]): row for row in rows}
    answer = post(photos, prior=0.3, reject=0.9, coverage=0.9)
    assert len(answer["predictions"]) == len(photos)
    for file, row in zip(photos, answer["predictions"], strict=True):
        assert row["sha256"] == hash_of(file)
        assert row["path"] == file.name
        assert close(bare(row), bare(by_name[row["sha256"]]))


def test_a_request_asks_for_nodes_of_the_taxonomy(serve, photos, served_animals, tmp_path):
    names = [folder.name for folder in (served_animals / "test").iterdir()]
    (tmp_path / "tree.txt").write_text("".join(f"{name} < drawing\n" for name in names))
    client = serve(taxonomy=str(tmp_path / "tree.txt"))
    files = [("images", ("a.jpg", photos[0].read_bytes()))]
    plain, node = (
        client.post("/v1/predict", files=files, data=data).json()["predictions"][0]
        for data in ({}, {"confident": "0.9999999"})
    )
    assert (plain["leaf"], plain["rank"]) == (None, None)
    assert (node["label"], node["leaf"]) == ("drawing", plain["label"])
    wrong = serve().post("/v1/predict", files=files, data={"confident": "0.9"})
    assert wrong.status_code == 422
    assert "needs a taxonomy" in wrong.text


@pytest.mark.parametrize("flag", ["--prior-file", "--only"])
def test_what_is_known_of_the_classes_acts_in_every_request(serve, photos, served_animals, hybrid, tmp_path, flag):
    names = (served_animals / "names.txt").read_text().split("\n")
    some, file = PromptSet.from_names(names[1::2]), tmp_path / "priors.csv"
    file.write_text("class,weight\n" + "\n".join(f"{name},{n + 1}" for n, name in enumerate(names)))
    policy = {"--prior-file": Policy(class_priors=ClassPriors.read(file)), "--only": Policy(only=some)}[flag]
    given = {"--prior-file": file, "--only": ",".join([*names[1::2], ""])}[flag]
    run = ("--run", served_animals / "run", "--prompts", served_animals / "names.txt", "--reject", "0.9")
    rows = hybrid("predict", *photos, *run, flag, given, "--format", "jsonl").rows
    by_name, client = {hash_of(row["path"]): row for row in rows}, serve(policy=policy)
    files = [("images", (file.name, file.read_bytes())) for file in photos]
    answers = client.post("/v1/predict", files=files, data={"reject": "0.9"}).json()["predictions"]
    assert all(close(bare(row), bare(by_name[row["sha256"]])) for row in answers)
    # A prior of the request's own goes before the file, and not before the list.
    (asked,) = client.post("/v1/predict", files=files[:1], data={"prior": "0.2"}).json()["predictions"]
    kept = () if flag == "--prior-file" else (flag, given)
    (row,) = hybrid("predict", photos[0], *run[:4], "--prior", "0.2", *kept, "--format", "jsonl").rows
    assert close(bare(asked), bare(row))


def test_a_photo_is_looked_at_once_whatever_is_asked_of_it_later(post, photos, scored):
    first = post(photos[:1])["predictions"][0]
    assert scored == [1]
    named = post([], sha256=first["sha256"], prompts=json.dumps(["teapot"]), top_k=100)["predictions"][0]
    assert "teapot" in [one["label"] for one in named["top"]]
    assert len(named["top"]) == 11
    shifted = post([], sha256=first["sha256"], prior=0.999)["predictions"][0]
    assert shifted["p_unseen"] > first["p_unseen"]
    assert post(photos[:1])["predictions"][0] == first
    assert scored == [1]


def test_requests_are_joined_into_batches(serve, photos, scored):
    client = serve(wait_ms=2000)
    data = photos[0].read_bytes()
    batch = client.service.served.experts.batch_size

    def ask(number):
        # A JPEG may have anything behind its end.
        return client.post("/v1/predict", files={"images": (f"{number}.jpg", data + bytes([number]))}).json()

    with ThreadPoolExecutor(batch) as pool:
        answers = list(pool.map(ask, range(batch)))
    assert len({answer["predictions"][0]["sha256"] for answer in answers}) == batch
    assert len({answer["predictions"][0]["label"] for answer in answers}) == 1
    assert [answer["predictions"][0]["path"] for answer in answers] == [f"{n}.jpg" for n in range(batch)]
    assert max(scored) > 1


def test_what_cannot_be_read_is_listed_and_the_rest_is_answered(client, photos):
    files = [("images", ("a.txt", b"no image")), ("images", ("b.jpg", photos[0].read_bytes()))]
    answer = client.post("/v1/predict", files=files).json()
    assert [row["path"] for row in answer["predictions"]] == ["b.jpg"]
    assert answer["unreadable"] == [{"path": "a.txt", "reason": "not an image but text"}]


def test_neighbors_have_hashes_that_give_their_photos(client, post, photos):
    (row,) = post(photos[:1], neighbors=3)["predictions"]
    assert len(row["neighbors"]) == 3
    for near in row["neighbors"]:
        assert near["sha256"] == hash_of(near["path"])
        shown = client.get(f"/v1/photos/{near['sha256']}?w=32")
        assert shown.headers["content-type"] == "image/jpeg"
        assert (
            client.get(
                f"/v1/photos/{near['sha256']}?w=32", headers={"If-None-Match": shown.headers["etag"]}
            ).status_code
            == 304
        )


def test_photos_of_the_index_are_named_by_their_hash_and_have_their_label(client, post, served_animals):
    file = sorted((served_animals / "train").rglob("*.jpg"))[0]
    (row,) = post([], sha256=hash_of(file), neighbors=1)["predictions"]
    assert row["labeled"] == file.parent.name
    unknown = client.post("/v1/predict", files={"": b""}, data={"sha256": "0" * 64})
    assert unknown.status_code == 404


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prior": "2"}, "fraction"),
        ({"prior": "much"}, "takes a number"),
        ({"prior": "0.5", "balance": "half"}, "contradict"),
        ({"prompts": "zebra"}, "JSON list"),
        ({"prompts": '["zebra", "Zebra"]'}, "twice"),
        ({"top_k": "-1"}, "whole number"),
    ],
)
def test_what_is_asked_wrongly_is_said(post, photos, fields, words):
    error = post(photos[:1], rc=422, **fields)["error"]
    assert words in " ".join(map(str, error.values()))
    assert error["fix"]


def test_photos_are_answered_for_by_the_priors_of_their_region_and_month(serve, photos, served_animals, tmp_path):
    first, second = (served_animals / "names.txt").read_text().split("\n")
    file = tmp_path / "priors.csv"
    rows = (f"{first},1,,", f"{second},1,,", f"{first},1,north,3", f"{second},0,north,3", f"{second},1,south,")
    file.write_text("\n".join(("class,weight,region,month", *rows)))
    client = serve(policy=Policy(class_priors=ClassPriors.read(file, unlisted=0.0)))
    photo = next(photo for photo in photos if photo.parent.name == second)
    sent = {"images": (photo.name, photo.read_bytes())}

    def ask(rc=200, **place):
        answer = client.post("/v1/predict", files=sent, data=place)
        assert answer.status_code == rc, answer.text
        return answer.json()

    def answered(**place):
        return ask(**place)["predictions"][0]["label"]

    assert client.get("/v1/run").json()["places"] == {"region": ["north", "south"], "month": [3]}
    assert (answered(), answered(region="south"), answered(region="North", month="3")) == (second, second, first)
    assert "not a month" in ask(422, month="13")["error"]["what"]
    assert "no class priors" in serve().post("/v1/predict", files=sent, data={"region": "north"}).text


def test_a_full_server_says_so_and_when_to_come_again(serve, photos):
    client = serve(waiting=2)
    client.service.places.take(1)
    files = [("images", (file.name, file.read_bytes())) for file in photos[:3]]
    answer = client.post("/v1/predict", files=files)
    assert (answer.status_code, int(answer.headers["retry-after"]) > 0) == (503, True)
    client.service.places.give_back(1)
    assert client.post("/v1/predict", files=files).status_code == 200


def test_kept_uploads_are_bounded(serve, photos):
    client = serve(kept_photos=2)
    for file in photos[:4]:
        client.post("/v1/predict", files={"images": (file.name, file.read_bytes())})
    assert len(client.service.uploads) == 2


def test_explanations_wait_in_a_line_of_their_own(client, photos):
    """Those that wait keep no other request waiting, and too many are refused."""
    pytest.importorskip("captum", reason="the extra explain is not installed")
    service, files = client.service, {"image": (photos[0].name, photos[0].read_bytes())}
    release = threading.Event()
    service._explaining.submit(release.wait)
    with ThreadPoolExecutor(9) as pool:
        asked = [pool.submit(client.post, "/v1/explain", files=files) for _ in range(8)]
        while service._explanations.taken < 8:
            threading.Event().wait(0.01)
        assert client.post("/v1/explain", files=files).status_code == 503
        assert client.get("/v1/run").status_code == 200
        release.set()
        assert {answer.result().status_code for answer in asked} == {200}
