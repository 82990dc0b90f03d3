"""`write_demo`: the demo's images as class folders, a folder of unlabeled images and a prompt file."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hybrid.demo.animals import RANKS, Animal, DemoClasses, demo_classes
from hybrid.demo.field import Frame, files, frames
from hybrid.demo.painting import draw
from hybrid.errors import ConfigError, DataError, listing
from hybrid.files import atomic_write

_QUALITY = 92
_LOOSE_SEEN, _LOOSE_UNSEEN = 12, 8
_TAXONOMY_HEAD = f"{','.join(RANKS)},common_name\n"
_PROMPTS_HEAD = "# The 50 animals of the demo: 40 have training photos, 10 are known by these names alone.\n"


@dataclass(frozen=True, slots=True)
class _Image:
    path: Path
    animal: Animal
    seed: tuple[int, ...]
    frame: Frame | None = None


def write_demo(
    folder: Path,
    *,
    train_per_class: int = 30,
    val_per_class: int = 6,
    test_per_class: int = 14,
    seed: int = 0,
) -> None:
    """Write the demo's data.

    The layout is ``train/CLASS/NNN.jpg`` and ``val/CLASS/NNN.jpg`` for the seen classes,
    ``test/CLASS/NNN.jpg`` for the seen and the unseen ones, ``photos/photo_NN.jpg`` without labels,
    ``prompts.txt`` with all names, and ``taxonomy.csv`` with what each stands under; and what cameras in two regions
    saw, ``field/CAMERA/IMG_NNNN.jpg`` with times in their EXIF data, ``field.csv`` that says what they show, and
    ``priors.csv`` with how often each animal is there. Running it again writes the same bytes, and leaves a file alone
    that holds them already.

    Parameters
    ----------
    folder : Path
        Where to write; created if missing.
    train_per_class, val_per_class, test_per_class : int
        Images of each class in the three splits; the images that two sizes share are the same.
    seed : int, default 0
        Another seed draws other images of the same classes.

    Raises
    ------
    ConfigError
        If a count is negative.
    DataError
        If the folder holds images that are not part of this demo.
    """
    counts = {"train": train_per_class, "val": val_per_class, "test": test_per_class}
    if min(counts.values()) < 0 or seed < 0:
        got = f"{counts}, seed {seed}"
        raise ConfigError("the demo's counts and seed must not be negative", got=got, fix="use 0 or more")
    demo = demo_classes()
    field = list(frames(demo, seed))
    images = [*_labeled(folder, demo, counts, seed), *_loose(folder, demo, seed)]
    images += [_Image(folder / frame.path, frame.animal, frame.seed, frame) for frame in field]
    _refuse_foreign(folder, {image.path for image in images})
    for parent in {image.path.parent for image in images}:
        parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for _ in pool.map(_write_image, images):
            pass
    for path, content in files(folder, demo, field).items():
        _write(path, content)
    names = sorted(animal.name for animal in (*demo.seen, *demo.unseen))
    _write(folder / "prompts.txt", (_PROMPTS_HEAD + "".join(f"{name}\n" for name in names)).encode())
    lines = sorted(",".join((*animal.lineage, animal.name)) for animal in (*demo.seen, *demo.unseen))
    _write(folder / "taxonomy.csv", (_TAXONOMY_HEAD + "".join(f"{line}\n" for line in lines)).encode())


def _labeled(folder: Path, demo: DemoClasses, counts: dict[str, int], seed: int) -> Iterator[_Image]:
    for stream, (split, count) in enumerate(counts.items()):
        for animal in (*demo.seen, *demo.unseen) if split == "test" else demo.seen:
            for i in range(count):
                path = folder / split / animal.name / f"{i:03d}.jpg"
                yield _Image(path, animal, (seed, stream, zlib.crc32(animal.name.encode()), i))


def _loose(folder: Path, demo: DemoClasses, seed: int) -> list[_Image]:
    rng = np.random.default_rng((seed, 3))
    seen = [demo.seen[i] for i in rng.permutation(len(demo.seen))[:_LOOSE_SEEN]]
    unseen = [demo.unseen[i] for i in rng.permutation(len(demo.unseen))[:_LOOSE_UNSEEN]]
    animals = [*seen, *unseen]
    order = rng.permutation(len(animals))
    return [_Image(folder / "photos" / f"photo_{i:02d}.jpg", animals[k], (seed, 4, i)) for i, k in enumerate(order, 1)]


def _refuse_foreign(folder: Path, expected: set[Path]) -> None:
    """Stop before writing among images that the demo would then count as its own."""
    images = [path for part in ("train", "val", "test", "photos", "field") for path in (folder / part).rglob("*.jpg")]
    foreign = sorted(str(path.relative_to(folder)) for path in images if path not in expected)
    for name, head in (("prompts.txt", _PROMPTS_HEAD), ("taxonomy.csv", _TAXONOMY_HEAD)):
        if (folder / name).is_file() and not (folder / name).read_bytes().startswith(head.encode()):
            foreign.append(name)
    if foreign:
        raise DataError(
            f"{folder} holds files that this demo did not write",
            expected="an empty folder, or one that the demo wrote with the same counts",
            got=listing(foreign, 3),
            fix="choose another folder, or delete this one",
        )


def _write_image(image: _Image) -> None:
    packed = io.BytesIO()
    drawn = image.frame.draw() if image.frame else draw(image.animal, np.random.default_rng(image.seed))
    drawn.save(packed, "JPEG", quality=_QUALITY, **({"exif": image.frame.exif} if image.frame else {}))
    _write(image.path, packed.getvalue())


def _write(path: Path, content: bytes) -> None:
    """Write a file in one step; one that holds the content already keeps its time stamp."""
    if path.is_file() and path.read_bytes() == content:
        return
    with atomic_write(path, sync=False) as part:
        part.write_bytes(content)
