"""The published methods beside the product's gate, each on the same opinions.

Every method takes a `Task` and answers its test images: log-probabilities over all classes (n, c), and p(unseen) (n,).
None sees an image of an unseen class: what they fit, they fit on validation images of seen classes, and on episodes in
which a fifth of the seen classes plays the unseen ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logsumexp
from scipy.special import log_softmax as scipy_log_softmax
from sklearn.linear_model import LogisticRegression

from hybrid.errors import GateError
from hybrid.evaluation.metrics import Curve, seen_unseen_curve

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

HUBNESS, HIGHEST = 0.25, 10
# Features of COSMO's gate as in the code that its authors published; log-odds that its operating point is chosen from.
COSMO_K, COSMO_TEMPERATURE = 5, 3.0
COSMO_BIASES = np.linspace(-8.0, 8.0, 321)


@dataclass(frozen=True)
class Opinions:
    """What head and zero-shot say of n images; the first s of c classes are seen.

    Attributes
    ----------
    head : (n, s)
        Logits of a head that was trained on the seen classes.
    zero_shot : (n, c)
        Cosine of image and text times the encoder's logit scale.
    hubness : (c,)
        See `hubness`.
    target : (n,) int
        Class index.
    """

    head: Floats
    zero_shot: Floats
    hubness: Floats
    target: Ints

    @property
    def seen(self) -> int:
        """Number of seen classes."""
        return int(self.head.shape[1])

    @property
    def is_unseen(self) -> NDArray[np.bool_]:
        """(n,) bool."""
        return np.asarray(self.target >= self.seen)


@dataclass(frozen=True)
class Task:
    """Validation images over the seen classes, episodes over the same images, and the images to answer."""

    validation: Opinions
    episodes: tuple[Opinions, ...]
    test: Opinions


Answer = tuple[Floats, Floats]


def hubness(texts: NDArray[Any], images: NDArray[Any], logit_scale: float) -> Floats:
    """Give lambda times the mean of each text's highest similarities to labeled images, in logits, (c,).

    After CSLS (Conneau et al. 2018, Word Translation Without Parallel Data).
    """
    highest = np.sort(np.asarray(images, np.float64) @ np.asarray(texts, np.float64).T, axis=0)[-HIGHEST:]
    return np.asarray(HUBNESS * logit_scale * highest.mean(axis=0))


def clip(task: Task) -> Answer:
    """Zero-shot alone."""
    return _with_mass(log_softmax(task.test.zero_shot), task.test.seen)


def concatenate(opinions: Opinions) -> Floats:
    """Head logits of the seen and zero-shot logits of the unseen classes, (n, c).

    Logits mean something only up to a constant an image, and a head's and CLIP's are far apart (CLIP's cosines times
    100 would always win): both are taken relative to their mean over the seen classes, which both have scored.
    """
    zero_shot = opinions.zero_shot - opinions.zero_shot[:, : opinions.seen].mean(axis=1, keepdims=True)
    head = opinions.head - opinions.head.mean(axis=1, keepdims=True)
    return np.concatenate([head, zero_shot[:, opinions.seen :]], axis=1)


def concatenation(task: Task) -> Answer:
    """Softmax over the logits of both experts, as people do it."""
    return _with_mass(log_softmax(concatenate(task.test)), task.test.seen)


def calibrated_stacking(task: Task) -> Answer:
    """Chao et al. 2016: the concatenation with gamma subtracted from the seen classes' scores.

    The paper stacks scores of one model. Here they come from two, so each is put at its validation temperature first.
    Of nine runs (three files, three unseen fractions, seeds 0 to 2) that raised the harmonic mean on five, by 2 to 7
    points, lowered it on three, by .1 to 2 points, and left one as it was.
    """
    scaled = at_temperature(task)
    return stack(scaled.test, stacking_gamma(scaled.episodes))


def at_temperature(task: Task) -> Task:
    """Scale the logits of both experts by what minimizes their NLL on the validation images (Guo et al. 2017)."""
    validation = task.validation
    (head,) = fit_weights([validation.head[None]], [validation.target], [1.0])
    (zero_shot,) = fit_weights([validation.zero_shot[None]], [validation.target], [1.0])

    def scale(opinions: Opinions) -> Opinions:
        return replace(opinions, head=head * opinions.head, zero_shot=zero_shot * opinions.zero_shot)

    return Task(scale(validation), tuple(map(scale, task.episodes)), scale(task.test))


def stack(opinions: Opinions, gamma: float) -> Answer:
    scores = concatenate(opinions)
    scores[:, : opinions.seen] -= gamma
    return _with_mass(log_softmax(scores), opinions.seen)


def stacking_gamma(episodes: Sequence[Opinions]) -> float:
    """Find the gamma with the highest harmonic mean of seen and unseen accuracy, each the mean over the episodes."""
    curves: list[Curve] = []
    for episode in episodes:
        unseen = np.arange(episode.zero_shot.shape[1]) >= episode.seen
        curves.append(seen_unseen_curve(concatenate(episode), episode.target, unseen))
    levels = np.unique(np.concatenate([curve.bias[1:] for curve in curves]))
    at = [np.searchsorted(curve.bias, levels, side="right") - 1 for curve in curves]
    seen = np.mean([curve.seen[i] for curve, i in zip(curves, at, strict=True)], axis=0)
    unseen = np.mean([curve.unseen[i] for curve, i in zip(curves, at, strict=True)], axis=0)
    # Each level holds up to the next one: among the best, the middle of the widest.
    width = np.append(np.diff(levels), 0.0)
    best = np.lexsort((width, harmonic(seen, unseen)))[-1]
    return float(levels[best] + width[best] / 2)


def mass(task: Task) -> Answer:
    """Gate of the first release: p(unseen) is the zero-shot mass, both experts count equally among the seen classes.

    Each expert stands at its validation temperature; their opinions are joined by a normalized geometric mean.
    """
    test = at_temperature(task).test
    joint = log_softmax(test.zero_shot)
    log_seen = logsumexp(joint[:, : test.seen], axis=1, keepdims=True)
    among_seen = log_softmax((log_softmax(test.head) + joint[:, : test.seen] - log_seen) / 2)
    return _with_mass(np.concatenate([log_seen + among_seen, joint[:, test.seen :]], axis=1), test.seen)


def cosmo(task: Task) -> Answer:
    """COSMO: confidence-based gate and adaptive smoothing (Atzmon & Chechik 2019), after the authors' code.

    As there: the gate is a logistic regression (C = 1) on the 5 largest probabilities of the seen expert at
    temperature 3 and of the zero-shot expert on unseen classes; its operating point has the highest harmonic mean on
    held-out classes; each expert is smoothed by a uniform prior as strongly as the gate points to the other one.

    Otherwise: five episodes take the place of one fixed validation split, and the gate is fitted on all their images
    (there on two thirds); the operating point is a bias on the gate's log-odds (there a threshold and a slope on its
    probability; run that way, harmonic means stayed within .003, but slopes that drive p(unseen) to 0 or 1 cost this
    row AUSUC and NLL); the answer is normalized, so that it is a
    distribution; its AUSUC biases the answer's scores like every other row's (there the threshold is swept).
    """
    features = np.concatenate([cosmo_features(e) for e in task.episodes])
    is_unseen = np.concatenate([e.is_unseen for e in task.episodes])
    gate = LogisticRegression(max_iter=5000).fit(features, is_unseen)
    bias = cosmo_bias(task.episodes, [gate.decision_function(cosmo_features(e)) for e in task.episodes])
    p_unseen = expit(gate.decision_function(cosmo_features(task.test)) + bias)
    return smooth(task.test, p_unseen), p_unseen


def cosmo_features(opinions: Opinions) -> Floats:
    seen = np.exp(log_softmax(opinions.head / COSMO_TEMPERATURE))
    unseen = np.exp(log_softmax(opinions.zero_shot))[:, opinions.seen :]
    blocks = []
    for block in (unseen, seen):
        top = -np.sort(-block, axis=1)[:, :COSMO_K]
        # A fold may hold fewer classes than the label space: what is missing has probability zero.
        blocks.append(np.pad(top, ((0, 0), (0, COSMO_K - top.shape[1]))))
    return np.concatenate(blocks, axis=1)


def smooth(opinions: Opinions, p_unseen: Floats) -> Floats:
    """Mix both experts with adaptive smoothing; log-probabilities (n, c)."""
    gate, seen = p_unseen[:, None], opinions.seen
    among_seen = np.exp(log_softmax(opinions.head))
    unseen = np.exp(log_softmax(opinions.zero_shot))[:, seen:]
    mixed = np.concatenate(
        [(1 - gate) * (among_seen + gate / seen), gate * (unseen + (1 - gate) / unseen.shape[1])], axis=1
    )
    return np.asarray(np.log(np.maximum(mixed / mixed.sum(axis=1, keepdims=True), 1e-300)))


def cosmo_bias(episodes: Sequence[Opinions], odds: Sequence[Floats]) -> float:
    """Find the bias on the gate's log-odds with the highest harmonic mean; of equal ones the smallest bias."""
    accuracies = [
        _smoothed_accuracies(e, expit(o + COSMO_BIASES[:, None])) for e, o in zip(episodes, odds, strict=True)
    ]
    seen, unseen = np.mean(accuracies, axis=0)
    best = np.lexsort((-np.abs(COSMO_BIASES), np.round(harmonic(seen, unseen), 9)))[-1]
    return float(COSMO_BIASES[best])


def _smoothed_accuracies(opinions: Opinions, gates: Floats) -> tuple[Floats, Floats]:
    """Seen and unseen mean per-class accuracy of `smooth` for each of the gates (k, n); (k,) each.

    Smoothing adds the same to all classes of a group: no gate changes which one is the best of its group.
    """
    target, seen = opinions.target, opinions.seen
    among_seen = np.exp(log_softmax(opinions.head))
    unseen = np.exp(log_softmax(opinions.zero_shot))[:, seen:]
    score_unseen = gates * (unseen.max(axis=1) + (1 - gates) / unseen.shape[1])
    to_unseen = score_unseen > (1 - gates) * (among_seen.max(axis=1) + gates / seen)
    right = np.where(to_unseen, unseen.argmax(axis=1) + seen == target, among_seen.argmax(axis=1) == target)
    each = np.stack([right[:, target == label].mean(axis=1) for label in np.unique(target)])
    is_unseen = np.unique(target) >= seen
    return each[~is_unseen].mean(axis=0), each[is_unseen].mean(axis=0)


def hierarchical(task: Task) -> Answer:
    """Seen expert, unseen expert and a gate on logits, fitted at natural frequency."""
    return _hierarchical(task, hub=False, balanced=False)


def hierarchical_hubness(task: Task) -> Answer:
    """The same on hubness-corrected logits, both groups weighing the same in the gate's fit."""
    return _hierarchical(task, hub=True, balanced=True)


def _hierarchical(task: Task, *, hub: bool, balanced: bool) -> Answer:
    def zero_shot(opinions: Opinions) -> Floats:
        return opinions.zero_shot - opinions.hubness if hub else opinions.zero_shot

    validation, test = task.validation, task.test
    scores = np.stack([zero_shot(validation), log_softmax(validation.head)])
    a, b = fit_weights([scores], [validation.target], [0.5, 0.5])
    held = [e.is_unseen for e in task.episodes]
    unseen = [zero_shot(e)[rows, e.seen :][None] for e, rows in zip(task.episodes, held, strict=True)]
    (t,) = fit_weights(unseen, [e.target[rows] - e.seen for e, rows in zip(task.episodes, held, strict=True)], [1.0])
    features = np.concatenate([gate_features(zero_shot(e), e.head) for e in task.episodes])
    # Regularised in units of a feature's spread, as weakly as one image.
    spread = np.maximum(features.std(axis=0), 1e-9)
    model = LogisticRegression(max_iter=5000, tol=1e-8, class_weight="balanced" if balanced else None)
    model.fit(features / spread, np.concatenate(held))
    odds = model.decision_function(gate_features(zero_shot(test), test.head) / spread)
    logits = zero_shot(test)
    among_seen = log_softmax(a * logits[:, : test.seen] + b * log_softmax(test.head))
    among_unseen = log_softmax(t * logits[:, test.seen :])
    log_p = [among_seen - np.logaddexp(0, odds)[:, None], among_unseen - np.logaddexp(0, -odds)[:, None]]
    return np.concatenate(log_p, axis=1), expit(odds)


def gate_features(zero_shot: Floats, head: Floats) -> Floats:
    """Log-odds of "unseen" by zero-shot mass, and the head's largest log-probability, (n, 2)."""
    seen = head.shape[1]
    log_mass = logsumexp(zero_shot[:, seen:], axis=1) - logsumexp(zero_shot[:, :seen], axis=1)
    return np.column_stack([log_mass, log_softmax(head).max(axis=1)])


def fit_weights(scores: Sequence[Floats], targets: Sequence[Ints], start: Sequence[float]) -> Floats:
    """Weights of stacked scores (k, n, c), none below zero, by NLL of the softmax of their weighted sum.

    A normal prior around `start` that weighs as much as an image keeps the weights finite where all images are right.
    """
    origin = np.array(start)
    images = sum(len(target) for target in targets)

    def loss(weights: Floats) -> tuple[float, Floats]:
        value, gradient = float(((weights - origin) ** 2).sum()), 2 * (weights - origin)
        for stacked, target in zip(scores, targets, strict=True):
            log_p, rows = log_softmax(np.tensordot(weights, stacked, axes=1)), np.arange(len(target))
            value -= float(log_p[rows, target].sum())
            gradient -= stacked[:, rows, target].sum(axis=1) - np.einsum("nc,knc->k", np.exp(log_p), stacked)
        return value / images, gradient / images

    found = minimize(loss, origin, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(origin))
    if not found.success:
        raise GateError("a peer's weights did not converge", got=str(found.message))
    return np.asarray(found.x)


def log_softmax(logits: NDArray[Any]) -> Floats:
    return np.asarray(scipy_log_softmax(logits, axis=1), np.float64)


def harmonic(seen: Any, unseen: Any) -> Any:
    return 2 * seen * unseen / np.maximum(seen + unseen, 1e-12)


def _with_mass(log_p: Floats, seen: int) -> Answer:
    return log_p, np.minimum(np.exp(log_p[:, seen:]).sum(axis=1), 1.0)


PEERS: dict[str, Callable[[Task], Answer]] = {
    "clip": clip,
    "concatenation": concatenation,
    "calibrated_stacking": calibrated_stacking,
    "cosmo": cosmo,
    "mass": mass,
    "hierarchical": hierarchical,
    "hierarchical_hubness": hierarchical_hubness,
}
