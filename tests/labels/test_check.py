from __future__ import annotations

import pytest

from hybrid.errors import DataError
from hybrid.labels.check import check_prompts
from hybrid.labels.prompts import PromptSet, prompt_set

TRAINED = ("Sea_Horse", "zebra", "plain pink rabbit", "plain purple rabbit", "A")


def check(prompts, **options):
    return check_prompts(prompt_set(prompts), TRAINED, ("okapi",), **options)


def test_a_synonym_that_is_a_class_of_its_own_is_an_error_that_names_both():
    for prompts, names in (
        ({"horse": ["Zebra"]}, ("'horse'", "'zebra'", "zebra: horse")),
        ({"sea horse": ["zebra"]}, ("'sea horse'", "'zebra'", "'Sea_Horse'")),
        ({"rabbits": ["plain pink rabbit", "plain_purple_rabbit"]}, ("'rabbits'", "pink rabbit'", "purple rabbit'")),
        ({"ass": ["yak"], "Yak": None}, ("'ass'", "'Yak'")),
        ({"ass": None, "mule": ["ASS"]}, ("'mule'", "'ass'")),
    ):
        with pytest.raises(DataError) as caught:
            check(prompts)
        assert all(name in str(caught.value) for name in names)
    assert check({"zebra": ["plains zebra", "Zebra"], "yak": ["yak", "grunting ox"]}) == ()


def test_notes_on_spellings_and_near_names():
    (note,) = check(["sea-horse", "zebra", "plain_pink_rabbit", "OKAPI", "yak", "a"])
    assert note.endswith("in another spelling: 'sea-horse' is 'Sea_Horse', 'OKAPI' is 'okapi'")
    (note,) = check(["zebras", "okapy", "horse", "plain pink rabbits"])
    assert (
        "did you mean 'zebra' for 'zebras', 'okapi' for 'okapy', 'plain pink rabbit' for 'plain pink rabbits'?" in note
    )
    (note,) = check({"ass": ["donkey"], "mule": ["Donkey"]})
    assert "synonyms of two classes, which count for the first: 'Donkey' (ass, mule)" in note


def test_strict_names():
    assert check(["Sea Horse", "zebra", "yak", "a"], strict=True) == ()
    for prompts in (["sea-horse"], ["zebras"], ["yak", "okapy"], {"ass": ["x"], "mule": ["x"]}):
        with pytest.raises(DataError, match="not spelled as the classes are") as caught:
            check(prompts, strict=True)
        assert "strict-names" in caught.value.fix
    assert check_prompts(PromptSet.load("animals"), ("grizzly bear", "Zebra.")) != ()
