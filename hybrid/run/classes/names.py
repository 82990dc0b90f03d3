"""Whether the name of a class describes its images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from hybrid.encoders.base import Encoder, FloatArray
from hybrid.errors import listing
from hybrid.index.texts import TextCache, embed_classes
from hybrid.labels.prompts import PromptClass, Templates
from hybrid.run.classes.entries import AddedClass
from hybrid.run.classes.support import SupportClass

# A name fits its images if it is among the best three names for at least half of them. By chance alone, one of ten
# names is so for three images in ten; of fewer names, to be among the best three says little.
BEST = 3
ENOUGH_NAMES = 10


def usable(entry: AddedClass, encoder: Encoder) -> tuple[AddedClass, tuple[str, ...]]:
    """Give the entry as the encoder can use it, and a note where that is without its name."""
    if not entry.named or encoder.can_encode([entry.name])[0]:
        return entry, ()
    note = f"photos alone speak for {entry.name}: the encoder has no text vector of this name"
    return replace(entry, named=False), (note,)


def fit_notes(
    own: SupportClass,
    classes: Sequence[SupportClass],
    seen: Sequence[str],
    encoder: Encoder,
    templates: Templates,
    texts: TextCache,
) -> tuple[str, ...]:
    """Tell where the name of a class does not describe its images: zero-shot, other names are nearer.

    Parameters
    ----------
    own : SupportClass
    classes : sequence of SupportClass
        All that the head does not know.
    seen : sequence of str
    """
    if not own.named or not own.hashes:
        return ()
    rivals = [*map(PromptClass, seen), *(c.prompt for c in classes if c.named and c is not own)]
    can_encode = encoder.can_encode([prompt.name for prompt in rivals])
    prompts = [own.prompt, *(prompt for prompt, can in zip(rivals, can_encode, strict=True) if can)]
    similarity = own.embeddings @ embed_classes(encoder, prompts, templates, texts).T
    if name_fits(similarity):
        return ()
    good = int(describes(similarity).sum())
    nearest = Counter(prompts[i].name for i in similarity.argmax(axis=1) if i).most_common(BEST)
    return (
        f"WARNING: the name {own.name} does not seem to describe its photos: among the best {BEST} of {len(prompts)} "
        f"names for {good} of {len(similarity)}; nearest: {listing([name for name, _ in nearest])}. It may "
        "mislead: where trained classes are nearer, photos alone speak for the class (or add it with --no-name); a "
        "--synonym that the encoder knows may help",
    )


def name_fits(similarity: FloatArray) -> bool:
    """Tell whether a class's name describes its images, or too little is known to doubt it.

    Parameters
    ----------
    similarity : (k, n) float32
        Of its k images to n names, its own first.
    """
    images, names = similarity.shape
    return bool(images < 2 or names < ENOUGH_NAMES or 2 * int(describes(similarity).sum()) >= images)


def describes(similarity: FloatArray) -> NDArray[np.bool_]:
    """Tell for which images (n,) the first class is among the best three, from similarities (n, n_classes)."""
    better = (similarity > similarity[:, :1]).sum(axis=1)
    return np.asarray(better < BEST)
