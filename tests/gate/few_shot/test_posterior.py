"""The toolkit's own expert against a second implementation in loops, and against the baselines."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import scipy.optimize
from scipy.special import logsumexp, softmax
from sklearn.covariance import ledoit_wolf

from benchmarks.few_shot.peers import GDA, ZeroShot
from hybrid.gate.few_shot import posterior
from hybrid.gate.few_shot.base import check_shots
from hybrid.gate.few_shot.posterior import WEIGHTS, Posterior

SCALE = 20.0


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def stand_ins(images, labels, texts):
    """Texts, with a class's mean image moved to where texts lie in place of a missing one."""
    classes = range(len(texts))
    means = {c: images[labels == c].mean(axis=0) for c in classes if (labels == c).any()}
    both = [c for c in means if not np.isnan(texts[c, 0])]
    gap = np.mean([texts[c] - means[c] for c in both], axis=0) if both else 0
    return means, np.stack([unit(means[c] + gap) if np.isnan(texts[c, 0]) else texts[c] for c in classes])


def predict(texts, means, target, ridge, slope):
    """Mean image of a class from its text: ridge on the other classes that have images, relative to the center."""
    center = np.mean(list(means.values()), axis=0)
    middle = np.mean([texts[c] for c in means], axis=0)
    strength = ridge * max(np.mean([np.sum((texts[c] - middle) ** 2) for c in means]), 1e-12)
    others = [c for c in means if c != target]
    rows = np.array([texts[c] - middle for c in others]).reshape(-1, len(middle))
    left = np.array([means[c] - center - slope * (texts[c] - middle) for c in others]).reshape(-1, len(middle))
    coefficients = np.linalg.solve(rows.T @ rows + strength * np.eye(len(middle)), rows.T @ left)
    own = texts[target] - middle
    return center + slope * own + own @ coefficients


def choose_map(images, labels, texts):
    """Ridge and slope that predict each class's mean from the other classes with the least squared error."""
    means = {c: images[labels == c].mean(axis=0) for c in range(len(texts)) if (labels == c).any()}
    both = {c: mean for c, mean in means.items() if not np.isnan(texts[c, 0])}
    if len(both) < 6:
        return 1.0, 0.3
    names = list(both)

    # A class that is left out takes nothing to the middle of the texts, nor to the center of the means, but all do.
    def error(ridge, slope):
        return sum(np.sum((predict(texts, both, c, ridge, slope) - both[c]) ** 2) for c in names)

    return min(itertools.product((0.1, 0.3, 1, 3, 10), (0, 0.2, 0.4, 0.6, 0.8)), key=lambda pair: error(*pair))


def text_worth(images, labels, named, means, predicted, center):
    """How many images a text is worth: the variance of images over that of the predicted means."""
    both = [c for c in means if named[c]]
    if len(both) < 2:
        return 1.0
    rows = [row for row, c in enumerate(labels) if c in both]
    from_text = np.mean([np.sum((images[row] - predicted[labels[row]]) ** 2) for row in rows])
    from_center = np.mean([np.sum((images[row] - center) ** 2) for row in rows]) * len(both) / (len(both) - 1)
    explained = min(max(from_center - from_text, 0.15 * from_text), 0.5 * from_text)
    around = sum(np.sum((images[row] - means[labels[row]]) ** 2) for row in rows)
    # The guess counts as much as five images.
    variance = (around + 5 * (from_text - explained)) / (len(rows) - len(both) + 5)
    return min(max(variance / max(from_text - variance, 1e-12), 0.5), 3.0)


def biases(logits, labels, classes):
    """Raise a class that is given less than its images, one class after the other, twenty times."""
    bias = np.zeros(classes)
    count = [np.sum(labels == c) for c in range(classes)]
    for _ in range(20):
        p = np.exp(logits + bias)
        given = (p / p.sum(axis=1, keepdims=True)).sum(axis=0)
        shared = np.mean([given[c] for c in range(classes) if not count[c]] or [0])
        bias = bias + [0.7 * np.log((1 + (count[c] or shared)) / (1 + given[c])) for c in range(classes)]
    return bias - bias.mean()


def by_hand(images, labels, texts, scored, pair):
    """Cosine, centered cosine, discriminant and bias, (4, m, c): one class and one image after the other."""
    images, texts, scored = (np.asarray(part, float) for part in (images, texts, scored))
    dim, classes = texts.shape[1], len(texts)
    is_named = ~np.isnan(texts[:, 0])
    means, full = stand_ins(images, labels, texts)
    center, middle = np.mean(list(means.values()), axis=0), np.mean([full[c] for c in means], axis=0)
    predicted = [predict(full, means, c, *pair) for c in range(classes)]
    worth = text_worth(images, labels, is_named, means, predicted, center) * is_named
    count = np.array([np.sum(labels == c) for c in range(classes)])
    where = [
        (worth[c] * predicted[c] + images[labels == c].sum(axis=0)) / (worth[c] + count[c]) for c in range(classes)
    ]
    left = []
    for row, c in enumerate(labels):
        others = worth[c] + count[c] - 1
        if others > 0:
            mean = (worth[c] * predicted[c] + images[labels == c].sum(axis=0) - images[row]) / others
            left.append((images[row] - mean) / np.sqrt(1 + 1 / others))
    left = np.array(left).reshape(-1, dim)
    size = (left**2).sum() / max(len(left), 1) / dim
    found = size * np.eye(dim)
    if len(left) > 1:
        shrunk = ledoit_wolf(left, assume_centered=True)[0]
        found = 0.7 * shrunk + 0.3 * np.trace(shrunk) / dim * np.eye(dim)
    within = (len(left) * found + 0.2 / dim * np.eye(dim)) / (len(left) + 1)
    precision = np.linalg.inv(within) / (1 + 1 / np.mean(worth + count))
    metric = np.linalg.inv(0.9 * np.eye(dim) + 0.1 * within * dim / np.trace(within))
    scores = np.empty((4, len(scored), classes))
    scores[3] = biases(SCALE / 2 * images @ full.T, labels, classes)
    for row, image in enumerate(scored):
        for c in range(classes):
            direction = full[c] - middle
            length = max(np.sqrt(direction @ metric @ direction), 1e-12)
            scores[0, row, c] = SCALE * image @ full[c]
            scores[1, row, c] = SCALE / 2 * (image - center) @ metric @ direction / length
            # A Gaussian in `dim` dimensions that counts as much as one in 20.
            scores[2, row, c] = 20 / dim * (image @ precision @ where[c] - where[c] @ precision @ where[c] / 2)
    return scores


CASES = {
    "all named": ([], [4, 1, 3, 2, 5]),
    "two without a text": ([1, 4], [4, 1, 3, 2, 5]),
    "one without a photo": ([], [4, 0, 3, 2, 5]),
    "no text": ([0, 1, 2, 3, 4], [4, 1, 3, 2, 5]),
    "one photo each": ([2], [1, 1, 1, 1, 1]),
    "two photos at most": ([2], [1, 1, 2, 2, 2]),
    "one photo in all": ([], [0, 1, 0, 0, 0]),
    "one photo that has another beside it, by its text": ([0, 2, 3, 4], [1, 1, 1, 1, 1]),
}


@pytest.fixture
def cut(world):
    """Take some images of each class and some texts away, and blur the images that are left."""

    def take(unnamed, counts):
        rows = np.sort(np.concatenate([np.flatnonzero(world.labels == c)[:k] for c, k in enumerate(counts)]))
        noise = 0.5 * np.random.default_rng(0).normal(size=world.images.shape)
        texts = world.texts.copy()
        texts[unnamed] = np.nan
        return unit(world.images + noise)[rows], world.labels[rows], texts

    return take


def fit_by_hand(images, labels, texts):
    """Four weights by NLL on images that are held out in turn: the n-th image of its class in fold n mod 5.

    And a fifth number, the probe's share: by the errors there, and those of the nearest class mean.
    """
    pair = choose_map(images, labels, texts)
    rank = np.array([np.sum(labels[:row] == label) for row, label in enumerate(labels)])
    folds = min(5, rank.max() + 1)
    parts, targets, by_mean = [], [], []
    for fold in range(folds):
        # The only image of a class is never held out.
        held = [row for row, c in enumerate(labels) if rank[row] % folds == fold and np.sum(labels == c) > 1]
        kept = np.setdiff1d(np.arange(len(labels)), held)
        parts.append(by_hand(images[kept], labels[kept], texts, images[held], pair))
        targets.append(labels[held])
        means, full = stand_ins(images[kept], labels[kept], texts)
        gap = np.mean([texts[c] - means[c] for c in means if not np.isnan(texts[c, 0])] or [0 * full[0]], axis=0)
        centers = unit(np.stack([means[c] if c in means else full[c] - gap for c in range(len(texts))]))
        by_mean.append((images[held] @ centers.T).argmax(axis=1))
    scores, target = np.concatenate(parts, axis=1), np.concatenate(targets)

    def loss(w):
        logits = np.tensordot(w, scores, axes=1)
        nll = logsumexp(logits, axis=1) - logits[np.arange(len(target)), target]
        return nll.sum() + 15 * np.sum((w - [0.9, 0.15, 0.6, 1.0]) ** 2)

    options = {"method": "SLSQP", "bounds": [(0, None)] * 4, "options": {"ftol": 1e-12}}
    weights = scipy.optimize.minimize(loss, [1.0, 1.0, 1.0, 1.0], **options).x
    wrong = np.sum(np.tensordot(weights, scores, axes=1).argmax(axis=1) != target)
    ratio = (3 + np.sum(np.concatenate(by_mean) != target)) / (2 + wrong)
    return [*weights, 0.25 * min(max((1.5 - ratio) / 0.2, 0), 1)]


def mixed_by_hand(logits, expert, scored):
    """Log of each image's probabilities, of which the probe divides a share among the classes with images."""
    share, probe = expert.weights_[-1], expert.probe_
    if probe is None:
        return logits
    answers = []
    by_probe = scored @ probe.weight[:, :-1].T + probe.weight[:, -1]
    for row, theirs in zip(softmax(logits, axis=1), softmax(4 * by_probe, axis=1), strict=True):
        anew = row.copy()
        anew[probe.shown] = theirs * row[probe.shown].sum()
        answers.append(np.log((1 - share) * row + share * anew))
    return np.array(answers)


@pytest.mark.parametrize(("unnamed", "counts"), CASES.values(), ids=CASES)
@pytest.mark.filterwarnings("error")
def test_scores_against_loops_and_weights_against_another_search(world, cut, unnamed, counts):
    shots = cut(unnamed, counts)
    expert = Posterior(SCALE).fit(*shots)
    expected = by_hand(*shots, world.test, choose_map(*shots))
    np.testing.assert_allclose(expert.model_.scores(world.test.astype(float)), expected, rtol=1e-7, atol=1e-7)
    logits = mixed_by_hand(np.tensordot(expert.weights_[:4], expected, axes=1), expert, world.test.astype(float))
    np.testing.assert_allclose(expert.logits(world.test), logits, rtol=1e-6, atol=1e-9)
    if max(counts) == 1:
        # Nothing can be held out.
        np.testing.assert_array_equal(expert.weights_, [*WEIGHTS, 0.05])
    else:
        np.testing.assert_allclose(expert.weights_, fit_by_hand(*shots), atol=2e-4)
        assert np.abs(expert.weights_[:4] - WEIGHTS).max() > 1e-3


def test_every_class_gives_its_share_of_many_images(monkeypatch):
    """More images than the fit takes, in the order of their classes."""
    rng = np.random.default_rng(0)
    centers = unit(rng.normal(size=(6, 8)))
    labels = np.repeat(np.arange(6), 10)
    images = unit(centers[labels] + 0.2 * rng.normal(size=(60, 8)))
    targets = []
    original = posterior.fit_choice

    def spy(problems, *arguments, **options):
        targets.extend(problem.target for problem in problems)
        return original(problems, *arguments, **options)

    monkeypatch.setattr(posterior, "fit_choice", spy)
    monkeypatch.setattr(posterior, "MOST_IMAGES", 30)
    Posterior(SCALE).fit(images, labels, centers)
    assert np.bincount(targets[0], minlength=6).min() >= 3
    assert len(targets[0]) == 30


def draw(seed, shots):
    """Images of 12 classes around centers of which texts know a part."""
    rng = np.random.default_rng(seed)
    centers = unit(rng.normal(size=(12, 24)))
    offset = unit(rng.normal(size=24))
    texts = unit(centers + 0.15 * rng.normal(size=centers.shape) - 0.7 * offset)
    labels, target = np.repeat(np.arange(12), shots), np.repeat(np.arange(12), 20)
    images, test = (
        unit(centers[of] + 0.5 * offset + 0.25 * np.linspace(0.3, 1.7, 24) * rng.normal(size=(len(of), 24)))
        for of in (labels, target)
    )
    return images, labels, texts, test, target


@pytest.mark.parametrize("shots", [1, 2, 4, 8])
def test_it_is_better_than_zero_shot_and_gda(shots):
    """Accuracy and, as it claims probabilities, NLL; mean over three draws."""
    right, nll = [], []
    for seed in range(3):
        images, labels, texts, test, target = draw(seed, shots)
        for expert in (Posterior, ZeroShot, GDA):
            logits = expert(SCALE).fit(images, labels, texts).logits(test)
            right.append(np.mean(logits.argmax(axis=1) == target))
            nll.append(np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(target)), target]))
    accuracy, loss = np.reshape(right, (3, 3)).mean(axis=0), np.reshape(nll, (3, 3)).mean(axis=0)
    assert accuracy[0] > accuracy[1] + 0.01
    assert accuracy[0] >= accuracy[2] - 0.005
    # One image a class leaves the weights as they are, however sure they make it.
    assert loss[0] < loss[1:].min() or shots == 1


@pytest.mark.parametrize(("shots", "least", "most"), [(1, 0.965, 0.19), (2, 0.983, 0.115)])
def test_texts_that_are_near_to_every_image(shots, least, most):
    """Kinds that differ little, and texts that lie nearer to all images the one than the other."""
    right, nll = [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        common, gap = unit(rng.normal(size=(2, 256)))
        kinds = unit(rng.normal(size=(20, 256)))
        texts = unit(common - gap + 0.5 * kinds + 0.1 * rng.normal(size=(20, 1)) * common)
        labels, target = np.repeat(np.arange(20), shots), np.repeat(np.arange(20), 20)
        images, test = (
            unit(common + 0.3 * kinds[of] + 0.06 * rng.normal(size=(len(of), 256))) for of in (labels, target)
        )
        logits = Posterior(60.0).fit(images, labels, texts).logits(test)
        right.append(np.mean(logits.argmax(axis=1) == target))
        nll.append(np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(target)), target]))
    assert np.mean(right) > least
    assert np.mean(nll) < most


def test_the_map_from_texts_is_the_one_that_predicts_left_out_classes_best():
    chosen = set()
    for seed, shots in ((0, 1), (1, 4), (2, 16)):
        images, labels, texts, *_ = draw(seed, shots)
        found = posterior._text_map(check_shots(images, labels, texts))
        assert (found.ridge, found.slope) == choose_map(images, labels, texts)
        chosen.add(found)
    assert len(chosen) > 1


# Odd input


def test_zero_images_leave_zero_shot(world):
    expert = Posterior(SCALE).fit(world.images[:0], world.labels[:0], world.texts)
    cosine = SCALE * world.test.astype(float) @ world.texts.T.astype(float)
    np.testing.assert_allclose(expert.logits(world.test), 0.9 * cosine, rtol=1e-9)


@pytest.mark.filterwarnings("error")
def test_identical_images_and_texts(world):
    first = [int(np.flatnonzero(world.labels == c)[0]) for c in range(5)]
    for copies in (1, 2, 7):
        images, labels = np.repeat(world.images[first], copies, axis=0), np.repeat(np.arange(5), copies)
        for scale in (1.0, 20.0, 1000.0):
            logits = Posterior(scale).fit(images, labels, world.texts).logits(world.test)
            assert np.isfinite(logits).all()
            assert np.mean(logits.argmax(axis=1) == world.target) > 0.7
    # Gray images, one name for all: nothing to choose by, and no error.
    images, texts = np.repeat(world.images[:1], 6, axis=0), np.repeat(world.texts[:1], 3, axis=0)
    logits = Posterior(SCALE).fit(images, np.repeat(np.arange(3), 2), texts).logits(world.test)
    np.testing.assert_allclose(logits - logits[:, :1], 0, atol=1e-6)


@pytest.mark.filterwarnings("error")
def test_one_class(world):
    """Whatever the weights, it is right: they stay."""
    images = world.images[world.labels == 4]
    for texts in (np.full((1, 12), np.nan), world.texts[4:]):
        expert = Posterior(SCALE).fit(images, np.zeros(5, int), texts)
        assert expert.logits(world.test).shape == (40, 1)
        assert np.isfinite(expert.logits(world.test)).all()
        np.testing.assert_allclose(expert.weights_, [*WEIGHTS, 0], atol=1e-6)


def test_weights_of_before(world):
    """As a bundle has them: all five give the same answers, and four, of an older version, those without a probe."""
    shots = world.images, world.labels, world.texts
    own = Posterior(SCALE).fit(*shots)
    own.weights_[-1] = 0.2
    again, older = (Posterior(SCALE, weights).fit(*shots) for weights in (own.weights_.tolist(), own.weights_[:4]))
    plain = np.tensordot(own.weights_[:4], own.model_.scores(world.test.astype(float)), axes=1)
    np.testing.assert_allclose(again.logits(world.test), mixed_by_hand(plain, again, world.test.astype(float)))
    np.testing.assert_array_equal(older.logits(world.test), plain)
    assert older.probe_ is None


def test_it_needs_nothing_that_takes_a_second_to_import():
    """A run without a head fits it at each start."""
    code = (
        "import sys\nimport numpy as np\nfrom hybrid.gate.few_shot.posterior import Posterior\n"
        "Posterior(20.0).fit(np.eye(4), np.array([0, 0, 1, 1]), np.eye(4)[:2])\n"
        "assert not {'sklearn', 'torch', 'pandas'} & {name.split('.')[0] for name in sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
