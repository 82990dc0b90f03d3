"""How suspicious the labels of an index are: the audit's probabilities, of models that never met the image."""

from __future__ import annotations

import numpy as np

from hybrid.encoders.base import FloatArray
from hybrid.gate.evidence import zero_shot_logits
from hybrid.index.store import EmbeddingStore
from hybrid.run.fitted import FittedClassifier
from hybrid.tools.audit.audit import labeled_contents, one_spelling
from hybrid.tools.audit.labels import to_judge
from hybrid.tools.audit.probabilities import ZeroShot, class_probabilities, held_out_logits


def suspicion(
    store: EmbeddingStore, fingerprint: str, classifier: FittedClassifier
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Rank the labels of an index: 1 less the probability that other images and the names give each one.

    It is the order of `hybrid audit`, without its cut, which alone needs cleanlab. Photos whose copies carry several
    labels get 1.

    Returns
    -------
    found : dict of content hash to float
    notes : tuple of str
        What is not judged.
    """
    images, _ = one_spelling(store.images())
    hashes = list(dict.fromkeys(image.sha256 for image in images if image.record.label is not None))
    embedded = store.embedded(fingerprint, hashes)
    hashes = [sha256 for sha256 in hashes if sha256 in embedded]
    labeled = labeled_contents(images, hashes, store.embeddings(hashes, fingerprint))
    contested = {
        sha256: 1.0
        for sha256, records in zip(labeled.hashes, labeled.records, strict=True)
        if len({record.label for record in records}) > 1
    }
    judged, notes = to_judge(labeled)
    if not judged.hashes:
        return contested, notes
    names, target = np.unique(np.array(judged.labels, dtype=object), return_inverse=True)
    zero_shot = _zero_shot(classifier, [str(name) for name in names], judged.embeddings)
    probabilities = class_probabilities(held_out_logits(judged.embeddings, target), target, zero_shot)
    scores = 1 - probabilities[np.arange(len(target)), target]
    return contested | dict(zip(judged.hashes, scores.tolist(), strict=True)), notes


def _zero_shot(classifier: FittedClassifier, names: list[str], embeddings: FloatArray) -> ZeroShot | None:
    """What the classifier's texts say, over the labels that it has a text for."""
    vectors, space = classifier.class_vectors, classifier.space
    if vectors is None:
        return None
    places = [space.index_of(name) for name in names]
    named = np.array([place is not None and place < len(vectors) for place in places], np.bool_)
    texts = vectors[[place for place, there in zip(places, named, strict=True) if there and place is not None]]
    if len(texts) < 2:
        return None
    return ZeroShot(zero_shot_logits(embeddings, texts, classifier.encoder.logit_scale), named)
