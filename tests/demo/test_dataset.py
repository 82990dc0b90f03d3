"""The bundled synthetic dataset: its classes, its drawings, its folders, and that the bundled weights know it."""

from __future__ import annotations

import colorsys
import hashlib
from collections import Counter
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hybrid.encoders
from hybrid.demo.animals import COLORS, KINDS, PARTS, PATTERNS, Animal, all_animals, demo_classes, training_animals
from hybrid.demo.dataset import write_demo
from hybrid.demo.field import FRAMES, REGIONS
from hybrid.demo.painting import draw
from hybrid.errors import ConfigError, DataError
from hybrid.images.sequences import sequenced
from hybrid.images.sources import scan
from hybrid.labels.priors import ClassPriors
from hybrid.labels.prompts import PromptSet
from hybrid.labels.space import join
from hybrid.labels.taxonomy_files import load_taxonomy

# Hue in degrees as a person names it; brown and pink differ from orange and red in other ways.
HUES = {"red": 0, "orange": 25, "yellow": 50, "green": 120, "blue": 215, "purple": 275}
TINY_CLIP = Path(hybrid.encoders.__path__[0]) / "tiny_clip"


def pixels(animal: Animal, seed: int = 0, size: int = 64) -> np.ndarray:
    return np.asarray(draw(animal, np.random.default_rng(seed), size))


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_names_are_unique_and_say_every_attribute() -> None:
    animals = all_animals()
    assert len(animals) == len(COLORS) * len(PATTERNS) * (len(KINDS) * len(PARTS) - 3) == 1880
    assert len({animal.name for animal in animals}) == len(animals)
    assert Animal("yellow", "spotted", "fish", "spikes").name == "spotted yellow fish with spikes"
    assert Animal("red", "plain", "bird", "long tail").name == "plain red bird with a long tail"
    assert Animal("blue", "striped", "snake", "none").name == "striped blue snake"


def test_demo_has_forty_seen_and_ten_unseen_classes_that_the_tiny_clip_is_not_trained_on() -> None:
    demo = demo_classes()
    both = {*demo.seen, *demo.unseen}
    assert (len(demo.seen), len(demo.unseen), len(both)) == (40, 10, 50)
    assert set(training_animals()) == set(all_animals()) - both
    assert len(training_animals()) == 1880 - 50
    assert {animal.kind for animal in demo.unseen} == set(KINDS)
    # Each unseen class has a seen neighbor that differs in one attribute.
    for animal in demo.unseen:
        shared = [sum(a == b for a, b in zip(astuple(animal), astuple(other), strict=True)) for other in demo.seen]
        assert max(shared) == 3
    # The bundled weights were trained around these very classes.
    names = "\n".join(animal.name for animal in (*demo.seen, *demo.unseen))
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == "75dad4d07e856459"


def test_a_drawing_follows_from_its_seed_and_has_the_size_asked_for() -> None:
    animal = demo_classes().seen[0]
    assert draw(animal, np.random.default_rng(1)).tobytes() == draw(animal, np.random.default_rng(1)).tobytes()
    assert np.abs(pixels(animal, 1).astype(int) - pixels(animal, 2)).mean() > 10
    for size in (32, 64, 96):
        image = draw(animal, np.random.default_rng(0), size)
        assert (image.size, image.mode) == ((size, size), "RGB")


def test_different_animals_look_different() -> None:
    """The same seed gives the same pose, so that only the attributes can make a difference."""
    some = {*demo_classes().seen, *demo_classes().unseen, *all_animals()[::4]}
    assert len({pixels(animal, 3, 32).tobytes() for animal in some}) == len(some)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("color", sorted(HUES))
def test_the_drawn_color_is_the_named_one(color: str, kind: str) -> None:
    """The most saturated pixels of plain animals are nearest to the named hue, told by colorsys alone."""
    votes: Counter[str] = Counter()
    for seed in range(6):
        center = pixels(Animal(color, "plain", kind, "none"), seed)[12:52, 12:52].reshape(-1, 3) / 255
        hsv = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in center])
        vivid = hsv[hsv[:, 1] * hsv[:, 2] >= np.quantile(hsv[:, 1] * hsv[:, 2], 0.93)]
        for hue in vivid[:, 0] * 360:
            votes[min(HUES, key=lambda name: abs((hue - HUES[name] + 180) % 360 - 180))] += 1
    assert votes.most_common(1)[0][0] == color, votes


def test_brown_is_dark_orange_and_pink_is_pale_red() -> None:
    def means(color: str) -> np.ndarray:
        fish = Animal(color, "plain", "turtle", "none")
        return np.mean([pixels(fish, seed)[26:36, 28:36].reshape(-1, 3).mean(axis=0) for seed in range(12)], axis=0)

    assert means("brown").sum() < 0.7 * means("orange").sum()
    assert means("pink")[1:].sum() > 2 * means("red")[1:].sum()


def test_write_demo_lays_out_what_it_promises(tmp_path: Path) -> None:
    write_demo(tmp_path, train_per_class=2, val_per_class=1, test_per_class=1)
    demo = demo_classes()
    seen, everything = {a.name for a in demo.seen}, {a.name for a in (*demo.seen, *demo.unseen)}
    for split, names, count in (("train", seen, 2), ("val", seen, 1), ("test", everything, 1)):
        assert {path.name for path in (tmp_path / split).iterdir()} == names
        for folder in (tmp_path / split).iterdir():
            assert sorted(path.name for path in folder.iterdir()) == [f"{i:03d}.jpg" for i in range(count)]
    loose = sorted(path.name for path in (tmp_path / "photos").iterdir())
    assert loose == [f"photo_{i:02d}.jpg" for i in range(1, 21)]
    with Image.open(tmp_path / "photos" / "photo_01.jpg") as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (64, 64), "RGB")
    first, *names = (tmp_path / "prompts.txt").read_text(encoding="utf-8").splitlines()
    assert first.startswith("#")
    assert names == sorted(everything)
    tree = load_taxonomy(tmp_path / "taxonomy.csv")
    chains = {name: tree.chain_of(*tree.find([name])) for name in everything}
    assert chains["plain yellow fish"] == "plain yellow fish < yellow fish < fish < vertebrate < animal"
    assert {chain.count(" < ") for chain in chains.values()} == {4}
    tables = {"prompts.txt", "taxonomy.csv", "field.csv", "priors.csv"}
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "field", "test", "train", "val", *tables}


def test_the_field_has_bursts_in_two_regions(tmp_path: Path) -> None:
    """What the manifest says is what the photos' EXIF data say, and frames of a burst are alike and not the same."""
    write_demo(tmp_path, train_per_class=0, val_per_class=0, test_per_class=0)
    listed = scan([tmp_path / "field.csv"]).records
    found, notes = sequenced(scan([tmp_path / "field"], labeled=False).records, "time:60s")
    assert not notes
    assert {one.path: one.time for one in found} == {one.path: one.time for one in listed}
    by_manifest, by_exif = ({one.path: one.sequence for one in records} for records in (listed, found))
    assert (
        len({*by_manifest.values()})
        == len({*by_exif.values()})
        == len({(s, by_exif[p]) for p, s in by_manifest.items()})
    )
    assert {len([s for s in by_exif.values() if s == one]) for one in by_exif.values()} == {FRAMES}
    assert {one.region for one in listed} == set(REGIONS)
    space = join((), PromptSet.load(tmp_path / "prompts.txt"))
    table = ClassPriors.read(tmp_path / "priors.csv").join(space)
    assert table.notes() == []
    likely = [np.exp(table.log_prior(one.region, None))[space.index_of(one.label)] for one in listed]
    assert np.mean(likely) > 2 / len(space.names), "what is drawn is what the weights say"
    same = [np.asarray(Image.open(one.path)).astype(int) for one in listed[: 2 * FRAMES]]
    near, far = np.abs(same[0] - same[1]).mean(), np.abs(same[0] - same[FRAMES]).mean()
    assert 1 < near < far


def test_write_demo_again_is_identical_and_touches_nothing(tmp_path: Path) -> None:
    counts = {"train_per_class": 1, "val_per_class": 1, "test_per_class": 1}
    write_demo(tmp_path / "a", **counts)
    write_demo(tmp_path / "b", **counts)
    write_demo(tmp_path / "c", **counts, seed=1)
    first = digests(tmp_path / "a")
    assert len(set(first.values())) == len(first)
    assert digests(tmp_path / "b") == first
    images = [name for name in first if name.endswith(".jpg")]
    other = digests(tmp_path / "c")
    assert not [name for name in images if first[name] == other[name]]
    (tmp_path / "a" / images[0]).write_bytes(b"torn")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*.jpg")}
    write_demo(tmp_path / "a", **counts)
    assert digests(tmp_path / "a") == first
    assert [path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp] == [tmp_path / "a" / images[0]]


def test_write_demo_refuses_negative_counts_and_a_folder_with_other_images(tmp_path: Path) -> None:
    mine = tmp_path / "train" / "my cat" / "1.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(DataError, match="did not write"):
        write_demo(tmp_path, train_per_class=1, val_per_class=0, test_per_class=0)
    with pytest.raises(ConfigError, match="negative"):
        write_demo(tmp_path, train_per_class=-1)
    assert digests(tmp_path) == {"train/my cat/1.jpg": hashlib.sha256(b"mine").hexdigest()}


def test_bundled_weights_are_small_load_with_plain_open_clip_and_name_unseen_animals() -> None:
    import open_clip
    import torch

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{TINY_CLIP}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{TINY_CLIP}")
    model.eval()
    demo = demo_classes()
    names = [animal.name for animal in (*demo.unseen, *demo.seen)]
    seeds = [(11, i, n) for i in range(len(demo.unseen)) for n in range(12)]
    images = [preprocess(draw(demo.unseen[seed[1]], np.random.default_rng(seed))) for seed in seeds]
    with torch.no_grad():
        texts = model.encode_text(tokenize([f"a photo of a {name}." for name in names]), normalize=True)
        found = (model.encode_image(torch.stack(images), normalize=True) @ texts.T).argmax(dim=1).numpy()
    assert tokenize(["fish"]).shape == (1, 32)
    assert np.mean(found == np.repeat(np.arange(len(demo.unseen)), 12)) >= 0.7
    assert (TINY_CLIP / "open_clip_model.safetensors").stat().st_size < 8_000_000
