"""Names of an added class: whether they are free, and whether they fit its images."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from hybrid.encoders.base import Encoder, FloatArray
from hybrid.errors import DataError, EncoderError, listing
from hybrid.images.naming import clean_label
from hybrid.index.store import EmbeddingStore
from hybrid.index.texts import embed_classes
from hybrid.labels.prompts import PromptClass, Templates, class_key
from hybrid.run.classes.support import AddedClass, ClassesInfo, SupportClass

# A name fits its images if it is among the best three names for at least half of them. By chance alone, one of ten
# names is so for three images in ten; of fewer names, to be among the best three says little.
BEST = 3
ENOUGH_NAMES = 10


def entry_of(
    info: ClassesInfo,
    name: str,
    synonyms: Sequence[str],
    named: bool | None,
    seen: Sequence[str],
    labels: Sequence[str],
) -> AddedClass:
    """Give the entry of ``classes.json`` as it shall be.

    Parameters
    ----------
    info : ClassesInfo
    name, synonyms, named
        As for `add_class`.
    seen : sequence of str
        Classes of the head.
    labels : sequence of str
        Of the index; one of the same `class_key` says how the class is spelled.

    Raises
    ------
    DataError
        If the head knows the class, or a name is blank, unprintable or another class's.
    """
    name, key = _clean(name), class_key(name)
    if key in {class_key(label) for label in seen}:
        raise DataError(
            f"the head was trained on {name}; more photos of it count only when it is trained again",
            fix=f"hybrid build-index with a class folder {name!r} of them, then hybrid train-head",
        )
    before = next((e for e in info.added if class_key(e.name) == key), AddedClass(name=name))
    spelled = next((label for label in sorted(labels) if class_key(label) == key), before.name)
    # By key, so that no synonym stands twice or repeats the name.
    others = {class_key(s): s for s in map(_clean, synonyms)} or {class_key(s): s for s in before.synonyms}
    others.pop(key, None)
    owners = {class_key(label): label for label in (*seen, *labels)}
    for entry in info.added:
        owners |= {class_key(s): entry.name for s in (*entry.synonyms, entry.name)}
    taken = sorted({owners[k] for k in (key, *others) if k in owners and class_key(owners[k]) != key})
    if taken:
        raise DataError(
            f"a name of {spelled} is also a name of another class",
            got=listing(taken),
            fix="leave that name out, or first: hybrid remove-class OTHER",
        )
    return AddedClass(name=spelled, synonyms=tuple(others.values()), named=before.named if named is None else named)


def try_name(
    entry: AddedClass, encoder: Encoder, templates: Templates, store: EmbeddingStore
) -> tuple[AddedClass, list[str]]:
    """Give the entry as the encoder can use it, and a note where that is without its name."""
    if not entry.named:
        return entry, []
    try:
        embed_classes(encoder, [PromptClass(entry.name, entry.synonyms)], templates, store)
    except EncoderError as error:
        if encoder.uses_templates:
            raise
        return replace(entry, named=False), [f"photos alone speak for {entry.name}: {error.what}"]
    return entry, []


def fit_notes(
    own: SupportClass,
    classes: Sequence[SupportClass],
    seen: Sequence[str],
    encoder: Encoder,
    templates: Templates,
    store: EmbeddingStore,
) -> list[str]:
    """Tell where the name of a class does not describe its images: zero-shot, other names are nearer.

    Parameters
    ----------
    own : ShownClass
    classes : sequence of ShownClass
        All that the head does not know.
    seen : sequence of str
    """
    if not own.named or not own.hashes:
        return []
    prompts = [PromptClass(c.name, c.synonyms) for c in classes if c.named and c is not own]
    prompts = [p for p in [*map(PromptClass, seen), *prompts] if _can_name(p, encoder, templates, store)]
    prompts = [PromptClass(own.name, own.synonyms), *prompts]
    similarity = own.embeddings @ embed_classes(encoder, prompts, templates, store).T
    if name_fits(similarity):
        return []
    good = int(describes(similarity).sum())
    nearest = Counter(prompts[i].name for i in similarity.argmax(axis=1) if i).most_common(BEST)
    return [
        f"WARNING: the name {own.name} does not seem to describe its photos: among the best {BEST} of {len(prompts)} "
        f"names for {good} of {len(similarity)}; nearest: {listing([name for name, _ in nearest])}. It may "
        "mislead: where trained classes are nearer, photos alone speak for the class (or add it with --no-name); a "
        "--synonym that the encoder knows may help"
    ]


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


def _can_name(prompt: PromptClass, encoder: Encoder, templates: Templates, store: EmbeddingStore) -> bool:
    """Tell whether there is a vector of a name: an encoder that computes has one of every name."""
    return encoder.uses_templates or try_name(AddedClass(name=prompt.name), encoder, templates, store)[0].named


def _clean(name: str) -> str:
    """A name as it is kept; DataError where it is blank or not one line of text."""
    clean = clean_label(name) or ""
    if not class_key(clean):
        raise DataError("the class has no name", expected="a name such as: zebra", got=repr(name))
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in clean):
        raise DataError("a class name is one line of text", got=f"{clean!a}, with characters that control it")
    return clean
