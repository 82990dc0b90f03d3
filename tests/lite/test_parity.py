"""A bundle answers as the run that it was made of, to a rounding error, and without what the run needs."""

import json

import numpy as np
import pytest
from PIL import Image

from hybrid import Policy, PromptSet
from hybrid.lite import load

CLOSE = 1e-5  # ten times what single precision leaves, and a tenth of what is promised


def agree(mine, theirs, photos):
    """The same classes, probabilities and words for every image."""
    assert list(mine.classes_) == list(theirs.classes_)
    for own, other in zip(mine.classify(photos), theirs.classify(photos), strict=True):
        np.testing.assert_allclose(own.answers.hybrid, other.answers.hybrid, atol=CLOSE)
        for one, two in zip(mine.predictions(own), theirs.predictions(other), strict=True):
            found, expected = one.to_dict(), two.to_dict()
            assert found.keys() == expected.keys()
            assert found["p_known"] == pytest.approx(expected["p_known"], abs=CLOSE)
            for key in ("path", "label", "leaf", "rank", "seen", "expert", "set", "warning"):
                assert found[key] == expected[key]


POLICIES = [
    Policy(),
    Policy(prior=0.2, reject=0.9),
    Policy(max_false_accept=0.3),
    Policy(coverage=0.9),
    Policy(transductive=True),
]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_linear_head_with_classes_shown_by_photos(linear, photos, policy):
    agree(load(linear.bundle, policy=policy), linear.by_torch(policy=policy), photos)


def test_a_network_as_the_head(network, photos):
    agree(load(network.bundle), network.by_torch(), photos)


def test_photos_alone_speak_where_there_is_no_head(headless, photos):
    mine = load(headless.bundle)
    agree(mine, headless.by_torch(), photos)
    assert type(mine.fitted.few_shot).__name__ == "Posterior"


@pytest.mark.parametrize("prompts", [["okapi", "zebra", "red panda"], {"okapi": ["forest giraffe"]}])
def test_new_names_go_through_the_text_tower(linear, headless, photos, prompts):
    for exported in (linear, headless):
        agree(load(exported.bundle, prompts=prompts), exported.by_torch(prompts), photos)


def test_a_taxonomy_answers_with_nodes(linear, photos, export):
    prompts = PromptSet.load("okapi < giraffid < mammal\nzebra < equid < mammal\n")
    policy = Policy(confident=0.9)
    agree(load(linear.bundle, prompts=prompts, policy=policy), linear.by_torch(prompts, policy=policy), photos)
    bundle = export(linear.run, prompts, policy=policy, text=False)
    agree(load(bundle), linear.by_torch(prompts, policy=policy), photos)


def test_pictures_and_arrays_are_taken_and_a_class_joins(linear, photos):
    mine, theirs = load(linear.bundle), linear.by_torch()
    name = mine.classes_[-2]  # shown by photos before
    for classifier in (mine, theirs):
        classifier.add_class("okapi", photos[:2])
        classifier.add_class(name, photos[2:4])
        classifier.remove_class("number two")
    pictures = [Image.open(photos[0]), np.asarray(Image.open(photos[5]))]
    np.testing.assert_allclose(mine.predict_proba(pictures), theirs.predict_proba(pictures), atol=CLOSE)
    assert "okapi" in mine.classes_
    assert "number two" not in mine.classes_


def test_the_command_answers_where_no_large_package_can_be_imported(linear, network, headless, photos, lite, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    for exported, more, code in (
        (linear, ("--reject", 0.9), 0),
        (linear, ("--prompts", "okapi,zebra"), 0),
        (network, (broken,), 3),
        (headless, (), 0),
    ):
        done = lite(exported.bundle, *photos[:3], *more, "--format", "jsonl", rc=code)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        prompts = ["okapi", "zebra"] if "--prompts" in more else None
        policy = Policy(reject=0.9) if "--reject" in more else Policy()
        theirs = exported.by_torch(prompts, policy=policy)
        (batch,) = theirs.classify(photos[:3])
        expected = [prediction.to_dict() for prediction in theirs.predictions(batch)]
        assert [row.keys() for row in rows] == [row.keys() for row in expected]
        for row, one in zip(rows, expected, strict=True):
            assert row["label"] == one["label"]
            assert row["probability"] == pytest.approx(one["probability"], abs=CLOSE)
        assert "CPUExecutionProvider" in done.stderr
        assert ("broken.jpg" in done.stderr) == (code == 3)
    table = lite(linear.bundle, photos[0]).stdout.splitlines()
    assert table[0].split() == ["photo", "label", "probability", "p(unseen)", "decided", "by"]
    assert len(table) == 2


def test_the_policy_of_the_export_counts_where_none_is_given(linear, photos, hybrid, lite, tmp_path):
    out = tmp_path / "strict.hybrid"
    hybrid("export", out, "--run", linear.run, "--no-text", "--reject", 0.5)
    rejected = [json.loads(line)["p_known"] for line in lite(out, photos[0], "--format", "jsonl").stdout.splitlines()]
    assert rejected != [None]
    again = hybrid("export", out, "--run", linear.run, "--no-text", "--regions", "slic", rc=1)
    assert "regions" in again.err
