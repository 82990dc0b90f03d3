"""The methods beside the product's gate, each against a calculation by hand."""

import math

import numpy as np
import pytest

from benchmarks.gzsl import peers


def opinions(head, zero_shot, target, hubness=None):
    zero_shot = np.array(zero_shot, float)
    hub = np.zeros(zero_shot.shape[1]) if hubness is None else np.array(hubness, float)
    return peers.Opinions(np.array(head, float), zero_shot, hub, np.array(target, np.intp))


def softmax(values):
    exact = np.exp(np.array(values) - max(values))
    return exact / exact.sum()


def random_task(seed=0, seen=6, unseen=3, images=80):
    """Noisy experts that know the class; an episode hides two of the seen classes from its head."""
    rng = np.random.default_rng(seed)

    def noisy(s, c, target, played=None):
        truth = np.eye(c)[target]
        head = 3 * truth[:, :s] + rng.normal(size=(len(target), s))
        return peers.Opinions(head, 3 * truth + rng.normal(size=(len(target), c)), 0.3 * rng.normal(size=c), target)

    val = rng.integers(seen, size=images)
    episodes = tuple(noisy(seen - 2, seen, val) for _ in range(3))
    test = rng.integers(seen + unseen, size=images)
    return peers.Task(noisy(seen, seen, val), episodes, noisy(seen, seen + unseen, test))


@pytest.mark.parametrize("name", peers.PEERS)
def test_every_answer_is_a_distribution(name):
    task = random_task()
    log_p, p_unseen = peers.PEERS[name](task)
    assert log_p.shape == (80, 9)
    np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1, atol=1e-9)
    assert ((p_unseen >= 0) & (p_unseen <= 1)).all()
    if name != "cosmo":  # its smoothing gives each group more than the gate does, then all is normalized
        np.testing.assert_allclose(np.exp(log_p[:, 6:]).sum(axis=1), p_unseen, atol=1e-9)


def test_clip():
    task = peers.Task(None, (), opinions([[9, 0]], [[1, 2, 3]], [0]))
    log_p, p_unseen = peers.clip(task)
    np.testing.assert_allclose(np.exp(log_p[0]), softmax([1, 2, 3]))
    assert p_unseen[0] == pytest.approx(softmax([1, 2, 3])[2])


def test_concatenation_aligns_the_experts_on_the_seen_classes():
    one = opinions([[5, 1]], [[20, 24, 25]], [0])
    # Head relative to its mean 3: 2 and -2. Zero-shot relative to its mean over the seen classes, 22: 3.
    np.testing.assert_allclose(peers.concatenate(one), [[2, -2, 3]])
    moved = opinions([[105, 101]], [[-20, -16, -15]], [0])
    np.testing.assert_allclose(peers.concatenate(moved), [[2, -2, 3]])
    log_p, p_unseen = peers.concatenation(peers.Task(None, (), one))
    np.testing.assert_allclose(np.exp(log_p[0]), softmax([2, -2, 3]))
    assert p_unseen[0] == pytest.approx(softmax([2, -2, 3])[2])


def test_stacking_subtracts_gamma_from_the_seen():
    log_p, _ = peers.stack(opinions([[5, 1]], [[20, 24, 25]], [0]), gamma=1.5)
    np.testing.assert_allclose(np.exp(log_p[0]), softmax([0.5, -3.5, 3]))


def test_gamma_by_hand():
    # Margins of the best seen over the best unseen class: seen images 3 and 2, unseen images 1 and -1 (all right
    # within their groups). Every gamma between 1 and 2 makes all four right; 1.5 is the middle.
    head = [[4, -4], [-4, 4], [4, -4], [-4, 4]]
    best_unseen = np.array([1, 2, 3, 5])
    zero_shot = np.column_stack([np.zeros(4), np.zeros(4), best_unseen, best_unseen - 9.0])
    zero_shot[3, 2:] = zero_shot[3, [3, 2]]
    episode = opinions(head, zero_shot, [0, 1, 2, 3])
    assert peers.stacking_gamma([episode]) == pytest.approx(1.5)
    # A second episode with all margins larger by .6 leaves 1.6 to 2 for both.
    other = opinions(head, zero_shot - [0, 0, 0.6, 0.6], [0, 1, 2, 3])
    assert peers.stacking_gamma([episode, other]) == pytest.approx(1.8)


def quality_of(episodes, answers):
    """Harmonic mean of seen and unseen accuracy over episodes of four seen and two unseen classes."""
    seen, unseen = [], []
    for episode, answer in zip(episodes, answers, strict=True):
        right = answer.argmax(axis=1) == episode.target
        each = [right[episode.target == c].mean() for c in range(6)]
        seen.append(np.mean(each[:4]))
        unseen.append(np.mean(each[4:]))
    return peers.harmonic(np.mean(seen), np.mean(unseen))


def test_gamma_is_the_best_of_a_fine_grid():
    episodes = random_task(seed=3).episodes

    def quality(gamma):
        return quality_of(episodes, [peers.stack(e, gamma)[0] for e in episodes])

    best = max(quality(g) for g in np.linspace(-8, 8, 801))
    assert quality(peers.stacking_gamma(episodes)) >= best - 1e-12


def test_mass_gate_by_hand(monkeypatch):
    # Head scale .5 and zero-shot scale 2, as if the fit had found them.
    scales = iter([[0.5], [2.0]])
    monkeypatch.setattr(peers, "fit_weights", lambda *_: next(scales))
    test = opinions([[2, 0]], [[0.5, 1, 1.5]], [0])
    log_p, p_unseen = peers.mass(peers.Task(test, (), test))
    joint = softmax([1, 2, 3])
    head, zero_shot = softmax([1, 0]), joint[:2] / joint[:2].sum()
    mean = np.sqrt(head * zero_shot)
    np.testing.assert_allclose(np.exp(log_p[0]), [*(joint[:2].sum() * mean / mean.sum()), joint[2]])
    assert p_unseen[0] == pytest.approx(joint[2])


def test_stacking_stands_at_the_validation_temperatures():
    task = random_task(seed=5)
    val = task.validation
    (head,) = peers.fit_weights([val.head[None]], [val.target], [1.0])
    (zero_shot,) = peers.fit_weights([val.zero_shot[None]], [val.target], [1.0])
    assert abs(head - 1) > 0.01

    def scaled(part):
        return opinions(head * part.head, zero_shot * part.zero_shot, part.target)

    gamma = peers.stacking_gamma([scaled(e) for e in task.episodes])
    expected = peers.stack(scaled(task.test), gamma)
    for found, wanted in zip(peers.calibrated_stacking(task), expected, strict=True):
        np.testing.assert_allclose(found, wanted)


def test_weights_are_the_minimum_of_the_nll():
    rng = np.random.default_rng(2)
    target = rng.integers(4, size=300)
    logits = 2 * np.eye(4)[target] + rng.normal(size=(300, 4))
    (found,) = peers.fit_weights([logits[None]], [target], [1.0])

    def loss(weight):
        log_p = weight * logits - np.log(np.exp(weight * logits).sum(axis=1, keepdims=True))
        return -log_p[np.arange(300), target].sum() + (weight - 1) ** 2

    grid = np.linspace(0.01, 5, 5000)
    assert found == pytest.approx(grid[np.argmin([loss(w) for w in grid])], abs=2e-3)
    noise = rng.normal(size=(2, 300, 4))
    noise[1] -= np.eye(4)[target]
    assert peers.fit_weights([noise], [target], [0.5, 0.5])[1] == 0  # worse than nothing, and never negative


def test_cosmo_smoothing_by_hand():
    one = opinions([[math.log(3), 0]], [[0, 0, math.log(2), 0]], [0])
    # Head .75 .25; zero-shot .2 .2 .4 .2; gate .4: seen .6 (p + .4 / 2), unseen .4 (p + .6 / 2).
    mixed = np.array([0.6 * 0.95, 0.6 * 0.45, 0.4 * 0.7, 0.4 * 0.5])
    np.testing.assert_allclose(np.exp(peers.smooth(one, np.array([0.4]))[0]), mixed / mixed.sum())


def test_cosmo_features_by_hand():
    one = opinions([[3 * math.log(3), 0]], [[0, 0, math.log(2), 0]], [0])
    # Largest first, zero-shot's unseen ones unnormalized, the head's at temperature 3, both padded to five.
    np.testing.assert_allclose(peers.cosmo_features(one), [[0.4, 0.2, 0, 0, 0, 0.75, 0.25, 0, 0, 0]], atol=1e-12)


def test_cosmo_bias_is_the_best_of_its_grid():
    episodes = random_task(seed=1).episodes
    rng = np.random.default_rng(0)
    odds = [2.0 * e.is_unseen - 3 + rng.normal(size=len(e.target)) for e in episodes]

    def quality(bias):
        gates = [1 / (1 + np.exp(-o - bias)) for o in odds]
        return quality_of(episodes, [peers.smooth(e, gate) for e, gate in zip(episodes, gates, strict=True)])

    best = max(quality(b) for b in peers.COSMO_BIASES)
    assert quality(peers.cosmo_bias(episodes, odds)) == pytest.approx(best)


def test_hubness_by_hand():
    texts = np.array([[1.0, 0], [0, 1]])
    angles = np.linspace(0, 1.5, 30)
    images = np.column_stack([np.cos(angles), np.sin(angles)])
    expected = [0.25 * 50 * np.cos(angles[:10]).mean(), 0.25 * 50 * np.sin(angles[-10:]).mean()]
    np.testing.assert_allclose(peers.hubness(texts, images, 50.0), expected)
    np.testing.assert_allclose(peers.hubness(texts, images[:1], 50.0), [12.5, 0])


def test_gate_features_by_hand():
    found = peers.gate_features(np.array([[1.0, 2, 3, 0]]), np.array([[math.log(4), 0]]))
    mass = math.log((math.exp(3) + 1) / (math.exp(1) + math.exp(2)))
    np.testing.assert_allclose(found, [[mass, math.log(0.8)]])


def test_hierarchical_takes_the_hub_away_and_balances():
    task = random_task(seed=4)
    without = peers.Task(*(strip(part) for part in (task.validation, task.episodes, task.test)))
    plain, balanced = peers.hierarchical(task), peers.hierarchical_hubness(without)
    np.testing.assert_array_equal(plain[0], peers.hierarchical(without)[0])
    assert not np.allclose(balanced[0], peers.hierarchical_hubness(task)[0])
    # A third of the episodes' images plays the unseen ones: the balanced fit believes in them more.
    assert (balanced[1] > plain[1]).mean() > 0.9
    # Neither changes what is likely within a group.
    for columns in (slice(0, 6), slice(6, 9)):
        inside = [log_p[:, columns] - log_p[:, columns].max(axis=1, keepdims=True) for log_p in (plain[0], balanced[0])]
        np.testing.assert_allclose(*inside, atol=1e-9)


def strip(part):
    if isinstance(part, tuple):
        return tuple(strip(one) for one in part)
    return opinions(part.head, part.zero_shot, part.target)
