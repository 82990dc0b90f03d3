"""Three ways to know a class, side by side: the head was trained on some, others are named, others shown by K images.

Classes, images and head are those of benchmarks.gzsl: of the classes with a text vector a quarter is unseen by the
head. K train images of unseen classes are drawn by `scene.draw`. Scored on the test images of all
classes at once, at the product's default operating point.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.few_shot.scene import draw
from benchmarks.kit.output import mean
from benchmarks.kit.product import calibrated, train_probe
from benchmarks.kit.vectors import Data, Split, cut
from hybrid.evaluation.metrics import score_system
from hybrid.gate.evidence import Scorer
from hybrid.gate.fit import fit_gate, fit_support
from hybrid.gate.gate import Gate
from hybrid.gate.gaussians import ClassGaussians
from hybrid.gate.support import SupportImages
from hybrid.heads.linear import LinearHead

UNSEEN_FRACTION = 0.25
FIGURES = ("harmonic_mean", "seen", "unseen", "ece", "ece_debiased", "nll")
# Of the unseen classes, which are shown, and whether a name speaks for them too.
WAYS = {
    "named, all shown": (1, True),
    "named, every other shown": (2, True),
    "photos alone, all shown": (1, False),
}
# Way: figure: K (0: names alone): value.
Way = dict[str, dict[str, dict[str, float | None]]]


def measure(data: Data, shots: Sequence[int], seeds: Sequence[int]) -> dict[str, Any]:
    """Run every seed; what the JSON holds under "three_way"."""
    results = [run_seed(data, shots, seed) for seed in seeds]
    return {
        "unseen_fraction": UNSEEN_FRACTION,
        "ways": mean(results),
        "per_seed": {str(seed): result for seed, result in zip(seeds, results, strict=True)},
    }


def run_seed(data: Data, shots: Sequence[int], seed: int) -> Way:
    """Fit the product once, then show the unseen classes by more and more images."""
    split = cut(data, UNSEEN_FRACTION, seed)
    head = train_probe(split)
    gate, gaussians = fit(split, head)
    unseen = np.array(split.unseen)
    images = data.images["train"]
    rows = np.flatnonzero(np.isin(images.target, unseen))
    embeddings, labels = images.embeddings[rows], np.searchsorted(unseen, images.target[rows])
    table: Way = {way: {figure: {} for figure in FIGURES} for way in WAYS}
    for count in (0, *shots):
        chosen = draw(labels, len(unseen), count, seed)
        for way, (step, named) in WAYS.items():
            if count == 0 and not named:
                continue
            support = np.arange(0, len(unseen), step)
            own = [embeddings[chosen[labels[chosen] == c]] for c in support]
            scores = score(split, head, gate, gaussians, own, support, named)
            for figure, value in scores.items():
                table[way][figure][str(count)] = value
    return table


def fit(split: Split, head: LinearHead) -> tuple[Gate, ClassGaussians]:
    """Fit the gate as `hybrid` does, on images of seen classes alone."""
    found = calibrated(split, head)
    return fit_support(fit_gate(found.validation, found.episodes), found.named, found.image_only), found.gaussians


def score(
    split: Split,
    head: LinearHead,
    gate: Gate,
    gaussians: ClassGaussians,
    images: Sequence[NDArray[Any]],
    support: NDArray[np.intp],
    named: bool,
) -> dict[str, float | None]:
    """Score the test images, where `images` show the unseen classes `support`."""
    seen = len(split.seen)
    texts = split.texts if named else split.texts[:seen]
    with_images = any(len(own) for own in images)
    known = SupportImages.gather(images, (seen + support).tolist(), len(texts), len(texts)) if with_images else None
    scorer = Scorer(gaussians, texts, split.logit_scale, known)
    fused = gate.fuse(scorer(split.test.embeddings, head.logits([], split.test.embeddings)))
    unseen = np.arange(fused.log_probabilities.shape[1]) >= seen
    probabilities = np.exp(fused.log_probabilities)
    found = score_system(probabilities, split.test.target, unseen, p_unseen=fused.p_unseen, images_per_second=None)
    return {figure: getattr(found, figure) for figure in FIGURES}
