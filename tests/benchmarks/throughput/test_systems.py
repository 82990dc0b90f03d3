"""The systems of the throughput benchmark do their work, small, in this process."""

import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.throughput import decode as decoders
from benchmarks.throughput import ours, peers
from benchmarks.throughput.images import class_names, draw
from benchmarks.throughput.processes import Setup

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(5):
        (folder / f"{number}.jpg").write_bytes(draw((96, 80), number))
    return tuple(sorted(str(file) for file in folder.iterdir()))


@pytest.fixture
def setup(tmp_path):
    return Setup("cpu", "tiny", Path(), Path(), class_names(6, "animals"), tmp_path, "fp32", batch=4, workers=0)


@pytest.fixture
def tiny_peer(setup, monkeypatch):
    """open_clip's side of the same weights."""
    import open_clip

    from hybrid.encoders.clip import TINY_FOLDER

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{TINY_FOLDER}")
    monkeypatch.setattr(peers, "load_open_clip", lambda setup: (model.eval(), transform))
    monkeypatch.setattr(decoders, "load_open_clip", lambda setup: (model.eval(), transform))
    tokenizer = open_clip.get_tokenizer(f"local-dir:{TINY_FOLDER}")
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: tokenizer)
    return model


def kept(monkeypatch, module=peers):
    """What a system has answered, at its check."""
    found = []
    monkeypatch.setattr(module, "_check", lambda answers, images: found.append((answers, images)))
    return found


def test_both_ways_of_open_clip_give_the_encoder_s_vectors(setup, files, tiny_peer, monkeypatch):
    found = kept(monkeypatch)
    peers.open_clip_dataloader(setup)(files, None)
    peers.open_clip_readme(setup)(files, None)
    encoder = ours.load(setup)
    read = ours.reader(setup)
    expected = encoder.encode_images([read(Path(file).read_bytes()) for file in files])
    for answers, images in found:
        assert images == 5
        similarity = (answers.numpy() * expected).sum(axis=1)
        assert similarity.min() > 0.999
        np.testing.assert_allclose(np.linalg.norm(answers.numpy(), axis=1), 1, atol=1e-5)


def test_predict_of_open_clip_and_ours_agree(setup, files, tiny_peer, monkeypatch):
    found = kept(monkeypatch)
    peers.open_clip_predict(setup)(files, None)
    classifier = ours.zero_shot(setup)
    batches = list(classifier.classify(list(files)))
    probabilities = np.concatenate([batch.answers.hybrid for batch in batches])
    assert found[0][0].shape == (5, 6)
    np.testing.assert_allclose(found[0][0].numpy(), probabilities, atol=0.02)
    assert probabilities.std() > 0.01


def test_a_system_that_loses_images_is_an_error():
    with pytest.raises(RuntimeError, match="2 answers for 3 photos"):
        peers._check([1, 2], 3)


def test_build_index_starts_from_nothing_at_every_pass(setup, files):
    from hybrid.index.store import EmbeddingStore

    work = ours.hybrid_build_index(setup)
    work(files, None)
    work(files[:2], None)
    stores = sorted(setup.work.glob("*.sqlite"))
    assert len(stores) == 2
    sizes = []
    for file in stores:
        with EmbeddingStore(file) as store:
            sizes.append([image.record.path for image in store.images()])
    assert [sorted(paths) for paths in sizes] == [list(files), list(files[:2])]


def test_build_index_must_encode_every_image(setup, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"no photo")
    work = ours.hybrid_build_index(setup)
    with pytest.raises(RuntimeError, match="0 of 1 photos"):
        work((str(tmp_path / "broken" / "a.jpg"),), None)


def test_the_ceiling_does_as_many_images_in_batches(setup, monkeypatch):
    encoder = ours.load(setup)
    batch = ours.ready_batch(encoder, 4)
    assert tuple(batch.shape) == (4, 3, 64, 64)
    assert batch.std() > 0.5
    sizes, embed = [], encoder.embed
    monkeypatch.setattr(encoder, "embed", lambda part: sizes.append(len(part)) or embed(part))
    monkeypatch.setattr(ours, "load", lambda setup: encoder)
    ours.hybrid_ceiling(setup)(tuple("abcdefghij"), None)
    assert sizes == [4, 4, 2]


def test_predict_answers_every_image(setup, files, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    work = ours.hybrid_predict(setup)
    work(files, None)
    with pytest.raises(RuntimeError, match="photos without an answer"):
        work((*files, str(broken)), None)


def test_predict_with_a_head_asks_both(setup, files, monkeypatch):
    monkeypatch.setattr(ours, "HEAD", "test_resnet")
    classifier = ours.with_head(ours.zero_shot(setup), setup)
    batch = next(iter(classifier.classify(list(files))))
    assert batch.answers.supervised.shape == batch.answers.zero_shot.shape == (5, 6)


@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")
@pytest.mark.parametrize("name", decoders.DECODERS)
def test_every_decoder_takes_a_image(name, setup, files, tiny_peer):
    package = {"simplejpeg": "simplejpeg", "pyvips": "pyvips"}.get(name.split(",")[0].split()[0])
    if package is not None:
        pytest.importorskip(package, reason=f"{package} is not installed")
    threads = torch.get_num_threads()
    try:
        decoders.decode_alone(setup)(files, name)
    finally:
        torch.set_num_threads(threads)


def test_ours_ends_at_what_open_clip_s_transform_ends_at(setup, files, tiny_peer):
    data = Path(files[0]).read_bytes()
    mine, theirs = ours.to_input(setup)(data), decoders.open_clip_transform(setup)(data)
    assert mine.shape == (1, *theirs.shape)
    assert (mine[0] - theirs).abs().mean() < 0.05


def test_fidelity_compares_with_the_model_s_own_preprocessing(setup, tmp_path):
    file = tmp_path / "large.jpg"
    file.write_bytes(draw((1200, 900), 0))
    found = decoders.fidelity(setup, [str(file)], (1.0, None))
    assert found[None][0] > 0.9999
    assert found[1.0][0] < found[None][0]


def test_rerun_takes_the_encoder_s_part_and_reads_nothing_twice(files, tmp_path, monkeypatch):
    from hybrid.images.records import ImageRecord

    reads = []
    plain = ImageRecord.read_bytes
    monkeypatch.setattr(ImageRecord, "read_bytes", lambda self: reads.append(self.path) or plain(self))
    found = ours.unchanged_rerun(Path(files[0]).parent, tmp_path, repeats=2)
    assert sorted(reads) == sorted(2 * files)
    for one in found:
        assert 0 < one["encoder"] < one["first"]
        assert one["rerun"] > 0  # on so few files and a busy machine, not always below `first`


def test_timed_notes_every_call_and_puts_the_method_back():
    class Slow:
        def work(self, seconds):
            time.sleep(seconds)
            return seconds

    slow = Slow()
    with ours.timed(slow, "work") as spent:
        assert slow.work(0.01) == 0.01
        slow.work(0)
    slow.work(0)
    assert len(spent) == 2
    assert spent[0] >= 0.01
    assert "work" not in vars(slow)
