"""Labels that people give: they hold in every command, their history stays, and doubtful images never calibrate."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from hybrid import Run
from hybrid.errors import DataError, InUseError, LabelConflictError
from hybrid.heads.training.dataset import split_by_training, training_set
from hybrid.images.records import BytesRecord
from hybrid.index.store import EmbeddingStore
from hybrid.labels.names import NONE
from hybrid.lock import run_lock
from hybrid.run.labels import LabelRequest


@pytest.fixture
def photos(image_folder) -> Path:
    folder = image_folder({"cat": 6, "dog": 6})
    image_folder({"pool": 12}, "unlabeled", seed=1)
    return folder


@pytest.fixture
def run(photos, tmp_path) -> Run:
    made = Run(tmp_path / "run", encoder="tiny")
    made.index(photos)
    made.index(tmp_path / "unlabeled" / "pool", labels=False)
    return made


def labels(run: Run) -> dict[str, int]:
    with EmbeddingStore(run.layout.store, read_only=True) as store:
        counted = Counter(image.record.label for image in store.images() if image.record.label)
        assert store.labels() == dict(sorted(counted.items()))
        assert store.all_labeled == all(image.record.label for image in store.images())
        rows = store.rows(run.info.encoder_fingerprint)
        for label in counted:
            own = {image.sha256 for image in store.images() if image.record.label == label}
            assert {image.sha256 for image in store.images_sharing([label])} == own
            assert set(rows.hashes(rows.ids_labeled([label])).values()) == own
        return dict(counted)


def dataset(run: Run, seed: int = 0):
    with EmbeddingStore(run.layout.store, read_only=True) as store:
        return training_set(store, run.info.encoder_fingerprint, limit_to=None, val_fraction=0.5, seed=seed)


def test_a_label_holds_after_what_the_source_says_until_it_is_taken_back(run, photos):
    wrong = photos / "cat" / "000.jpg"
    summary = run.label(wrong, "dog", by="ann")

    assert (summary.applied, summary.new) == (1, 0)
    assert labels(run) == {"cat": 5, "dog": 7}
    again = run.index(photos)
    assert (again.relabeled, again.unchanged) == (0, 12)
    assert labels(run) == {"cat": 5, "dog": 7}
    assert run.label(wrong, "Dog").unchanged == 1
    (taken,) = run.undo_labels(by="bob")
    assert (taken.label, taken.was, taken.by) == ("dog", "cat", "ann")
    assert labels(run) == {"cat": 6, "dog": 6}
    assert [(row.label, row.by, row.why) for row in run.label_history()] == [
        ("dog", "ann", "person"),
        (None, "bob", "undo"),
    ]
    with pytest.raises(DataError, match="no label to take back"):
        run.undo_labels()


def test_an_older_label_of_a_person_is_in_force_again(run, photos):
    for label in ("dog", "fox"):
        run.label(photos / "cat" / "000.jpg", label)
    run.undo_labels()

    assert labels(run) == {"cat": 5, "dog": 7}
    run.undo_labels()
    assert labels(run) == {"cat": 6, "dog": 6}


def test_sources_that_change_under_a_label_are_followed(run, photos):
    file = photos / "cat" / "000.jpg"
    run.label(file, "fox")
    file.rename(photos / "dog" / "moved.jpg")
    run.index(photos)

    assert labels(run) == {"cat": 5, "dog": 6, "fox": 1}
    run.undo_labels()
    assert labels(run) == {"cat": 5, "dog": 7}


def test_all_or_nothing_where_somebody_else_was_faster(run, photos):
    first, second = photos / "cat" / "000.jpg", photos / "cat" / "001.jpg"
    run.label(first, "dog", by="ann")
    before = run.label_history()

    with pytest.raises(LabelConflictError, match="another label meanwhile") as caught:
        run.label([str(first), str(second)], "fox", was="cat")
    (conflict,) = caught.value.conflicts
    assert (conflict.label, conflict.by) == ("dog", "ann")
    assert run.label_history() == before
    assert run.label(second, "fox", was="cat").applied == 1


def test_a_new_class_joins_by_its_examples_and_leaves_without_its_photos(run, photos):
    run.train(head="linear")
    hashes = {image.sha256 for image in stored(run) if "pool" in image.record.path}
    run.label(sorted(hashes)[:3], "okapi")

    space = run.classifier().space
    assert space.names[space.seen :] == ("okapi",)
    run.remove_class("okapi")
    assert {image.sha256 for image in stored(run) if "pool" in image.record.path} == hashes
    assert labels(run) == {"cat": 6, "dog": 6}


def test_a_class_that_the_head_was_trained_without_joins_when_a_person_names_it(run, photos, image_folder):
    run.index(image_folder({"fox": 4}, "more", seed=2))
    run.train(head="linear", classes=["cat", "dog"])
    assert "fox" not in run.classifier().space.names
    run.label(photos / "cat" / "000.jpg", "fox")

    assert "fox" in run.classifier().space.names


def stored(run: Run):
    with EmbeddingStore(run.layout.store, read_only=True) as store:
        return store.images()


def test_doubtful_photos_train_and_are_never_held_out(run):
    pool = sorted(image.sha256 for image in stored(run) if "pool" in image.record.path)
    for sha256, why in zip(pool, ["margin", "random"] * 6, strict=True):
        run.give_labels([LabelRequest(sha256, "cat", why)])
    chosen = set(pool[::2])

    held_out = set()
    for seed in range(4):
        data = dataset(run, seed)
        assert chosen <= set(data.train.hashes)
        held_out |= set(data.val.hashes)
    assert set(pool[1::2]) <= held_out
    # A head of before does not know them: whatever did not train it calibrates it, but not these.
    cut = split_by_training(data, ("cat", "dog"), frozenset(data.train.hashes) - set(pool))
    assert chosen <= set(cut.train.hashes)


def test_of_photos_that_show_no_class_those_drawn_at_random_calibrate(run):
    pool = sorted(image.sha256 for image in stored(run) if "pool" in image.record.path)
    assert dataset(run).negatives is None
    for sha256, why in zip(pool, ["margin", "random"] * 6, strict=True):
        run.give_labels([LabelRequest(sha256, NONE, why)])

    data = dataset(run)
    assert set(data.negatives.hashes) == set(pool[1::2])
    assert not set(pool) & {*data.train.hashes, *data.val.hashes}
    cut = split_by_training(data, data.classes, frozenset(data.train.hashes))
    assert cut.negatives.hashes == data.negatives.hashes


def test_a_doubtful_photo_that_had_a_label_keeps_its_place(run, photos):
    before = {seed: set(dataset(run, seed).val.hashes) for seed in range(3)}
    sha256 = next(iter(before[0]))
    other = next(image.record.label for image in stored(run) if image.sha256 == sha256)
    run.give_labels([LabelRequest(sha256, {"cat": "dog", "dog": "cat"}[other], "suspect")])

    assert any(sha256 in dataset(run, seed).val.hashes for seed in range(6))


def test_none_of_these_is_no_class(run, photos):
    run.label(photos / "cat" / "000.jpg", "None of these")

    assert labels(run) == {"cat": 5, "dog": 6}
    with EmbeddingStore(run.layout.store, read_only=True) as store:
        (negative,) = store.images_with(store.negatives())
    assert negative.given.label == NONE
    with pytest.raises(DataError, match="none of these"):
        run.add_class("fox", photos / "cat" / "000.jpg")


def test_bytes_are_kept_by_content_for_later_trainings(run, tmp_path, image, photos):
    file = tmp_path / "upload.png"
    image(99).save(file)
    data = file.read_bytes()
    summary = run.label([BytesRecord.of("upload.png", data)], "cat")
    file.unlink()

    (kept,) = (run.folder / "photos").iterdir()
    assert (summary.new, kept.read_bytes(), kept.suffix) == (1, data, ".png")
    assert labels(run)["cat"] == 7
    run.index(photos, replace=True)
    assert labels(run)["cat"] == 7


def test_labels_travel_with_a_copy(run, photos, tmp_path):
    run.train(head="linear")
    run.label(photos / "cat" / "000.jpg", "okapi")
    run.classifier().save(tmp_path / "copy")

    upload = BytesRecord.of("upload.jpg", (photos / "dog" / "000.jpg").read_bytes() + b"end")
    run.label([upload], "cat")
    run.classifier().save(tmp_path / "more")
    (own,) = (image for image in stored(Run(tmp_path / "more")) if "more/photos" in image.record.path)
    assert own.record.read_bytes() == upload.data
    assert [part.state for part in Run(tmp_path / "more").check() if part.name == "labels"] == ["right"]
    Path(own.record.path).write_bytes(b"other")
    assert [part.state for part in Run(tmp_path / "more").check() if part.name == "labels"] == ["damaged"]
    run.undo_labels()

    assert Run(tmp_path / "copy").label_history() == run.label_history()[:1]
    shutil.rmtree(run.folder)
    assert "okapi" in Run(tmp_path / "copy").classifier().space.names


def test_a_label_waits_for_no_training(run, photos, image):
    """While another command writes to the run, labels are given, taken back and kept; photos must wait to join."""
    one = photos / "cat" / "000.jpg"
    noted = run.info.store
    with run_lock(run.folder, "train-head"):
        assert run.label(one, "dog", was="cat").applied == 1
        assert run.label(one, "fox", was="dog").applied == 1
        run.undo_labels()
        with pytest.raises(InUseError):
            Run(run.folder, encoder="tiny", wait=False).label(image(99), "dog")
        assert run.info.store == noted

    assert labels(run) == {"cat": 5, "dog": 7}
    assert all(part.state != "damaged" for part in run.check())
    run.label(one, "cat")
    assert run.info.store.revision > noted.revision


def test_bad_requests_change_nothing(run, photos):
    with pytest.raises(DataError, match="no photo of this content"):
        run.label("0" * 64, "dog")
    with pytest.raises(DataError, match="two labels"):
        run.give_labels([LabelRequest(stored(run)[0].sha256, label) for label in ("dog", "fox")])
    with pytest.raises(DataError):
        run.label(photos / "cat" / "000.jpg", "  ")
    (photos / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    summary = run.label([str(photos / "torn.jpg"), str(photos / "cat" / "001.jpg")], "dog")

    assert [path for path, _ in summary.unreadable] == [str(photos / "torn.jpg")]
    assert len(run.label_history()) == 1


def test_a_damaged_label_is_named(run, photos):
    import sqlite3

    from hybrid.errors import StoreError

    run.label(photos / "cat" / "000.jpg", "dog")
    with sqlite3.connect(run.layout.store) as db:
        db.execute("UPDATE labels SET label = 'cat'")

    with pytest.raises(StoreError, match="label 1 that a person gave is not what was written"):
        stored(run)


def test_classes_by_photos_and_labels_live_together(run, photos, image_folder):
    more = image_folder({"okapi": 3}, "more", seed=3)
    run.add_class("okapi", more)
    run.label(more / "okapi" / "000.jpg", "zebra")
    run.label(photos / "cat" / "000.jpg", "okapi")

    # One of its photos shows another class now, and one of another source shows it.
    assert labels(run) == {"cat": 5, "dog": 6, "okapi": 3, "zebra": 1}
    assert not [part for part in run.check() if part.state == "damaged"]
    run.add_class("okapi", more / "okapi" / "001.jpg", synonyms=["forest giraffe"])
    with pytest.raises(DataError, match="another label"):
        run.add_class("okapi", more / "okapi" / "000.jpg")
    # Asked for once more, a corrected photo stays what its source says, under its label.
    run.add_class("okapi", photos / "cat" / "000.jpg")
    removed = run.remove_class("okapi")
    assert removed.images == 2
    assert labels(run) == {"cat": 6, "dog": 6, "zebra": 1}
    run.undo_labels()
    assert labels(run) == {"cat": 6, "dog": 6, "okapi": 1}


def test_uploads_that_show_a_class_are_kept_and_can_train(run, image_folder):
    uploads = [
        BytesRecord.of("upload.jpg", file.read_bytes())
        for file in sorted(image_folder({"okapi": 3}, "up", seed=4).rglob("*.jpg"))
    ]
    summary = run.add_class("okapi", uploads)

    assert summary.new == 3
    kept = sorted(str(file) for file in run.layout.photos.iterdir())
    assert sorted(i.record.path for i in stored(run) if i.record.label == "okapi") == kept
    assert not [part for part in run.check() if part.state == "damaged"]


def test_what_cannot_be_decoded_is_listed_and_not_kept(run):
    summary = run.label([BytesRecord.of("torn.jpg", b"\xff\xd8\xff"), stored(run)[0].record], "dog")

    assert [path for path, _ in summary.unreadable] == ["torn.jpg"]
    assert summary.applied == 1
    assert not run.layout.photos.exists()


def test_an_evaluation_goes_by_the_labels_that_people_gave(run, photos, image_folder):
    run.train(head="linear")
    test = image_folder({"cat": 3, "dog": 3}, "test", seed=9)
    before = run.evaluate(test)
    run.label(test / "cat" / "000.jpg", "dog")
    run.label(test / "cat" / "001.jpg", NONE)
    (test / "dog" / "copy.jpg").write_bytes((test / "cat" / "000.jpg").read_bytes())
    after = run.evaluate(test)

    assert (before.scored, before.outside) == (6, 0)
    assert (after.scored, after.outside) == (6, 1)
    labels = [after.per_image.names[place] for place in after.per_image.target]
    assert Counter(labels) == {"cat": 1, "dog": 5}
