from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from hybrid.errors import DataError
from hybrid.label_space import join
from hybrid.prompts import PromptClass, PromptSet

SEEN = ("Sea_Horse", "zebra", "cup")


def prompts(*lines: str) -> PromptSet:
    """Prompt lines as a prompt file has them: ``name: synonym, synonym``."""
    parts = (line.partition(":") for line in lines)
    return PromptSet(
        tuple(
            PromptClass(name.strip(), tuple(s.strip() for s in rest.split(",") if s.strip())) for name, _, rest in parts
        )
    )


def test_seen_come_first_in_the_heads_order_then_unseen_in_the_files_order():
    space = join(SEEN, prompts("otter", "cup", "axolotl: water monster", "zebra", "bat"))
    assert space.names == (*SEEN, "otter", "axolotl", "bat")
    assert space.seen == 3
    assert space.is_unseen.tolist() == [False] * 3 + [True] * 3
    assert [prompt.name for prompt in space.prompts] == list(space.names)
    assert len(space.names) == len(space.prompts)


@pytest.mark.parametrize("line", ["sea horse", "SEA-HORSE: hippocampus", "hippocampus: fish horse, sea_horse"])
def test_a_prompt_finds_its_seen_class_by_name_or_synonym(line):
    space = join(SEEN, prompts(line, "otter"))
    assert space.names == (*SEEN, "otter")
    assert space.prompts[0] == prompts(line).classes[0]
    assert space.prompts[1] == PromptClass("zebra")


@pytest.mark.parametrize(
    "lines", [("zebra", "plains animal: zebra"), ("striped horse: zebra", "horse of stripes: ZEBRA"), ("a: cup", "cup")]
)
def test_two_prompts_for_one_seen_class(lines):
    with pytest.raises(DataError, match="two prompts describe the seen class") as caught:
        join(SEEN, prompts("otter", *lines))
    assert all(line.partition(":")[0] in caught.value.got for line in lines)
    assert "one line" in caught.value.fix


def test_a_prompts_own_name_wins_over_its_synonym():
    space = join(("puma", "cougar"), prompts("cougar: puma"))
    assert space.names == ("puma", "cougar")
    assert space.prompts == (PromptClass("puma"), PromptClass("cougar", ("puma",)))
    assert space.index_of("puma") == 0
    assert space.index_of("cougar") == 1


@pytest.mark.parametrize(
    ("label", "index"),
    [
        ("Sea_Horse", 0),
        ("sea  horse", 0),
        ("hippocampus", 0),
        ("ZEBRA", 1),
        ("cup", 2),
        ("water-monster", 3),
        ("axolotl", 3),
        ("chair", None),
        ("", None),
    ],
)
def test_index_of(label, index):
    space = join(SEEN, prompts("sea horse: hippocampus", "axolotl: water monster"))
    assert space.index_of(label) == index


def test_a_name_wins_over_another_class_synonym_wherever_it_stands():
    space = join(("cat",), prompts("lynx: bobcat, wild cat", "bobcat: lynx", "wildcat: cat of the wild"))
    assert [space.index_of(name) for name in ("cat", "lynx", "bobcat", "wild cat", "wildcat")] == [0, 1, 2, 1, 3]


def test_of_two_classes_with_one_synonym_the_first_has_it():
    assert join((), prompts("a: x", "b: x")).index_of("x") == 0


def test_without_prompts_all_classes_are_seen():
    space = join(SEEN, None)
    assert space.names == SEEN
    assert space.prompts == tuple(PromptClass(name) for name in SEEN)
    assert not space.is_unseen.any()
    assert space.index_of("sea horse") == 0


def test_without_a_head_all_classes_are_unseen():
    space = join((), prompts("otter", "bat: flying fox"))
    assert space.names == ("otter", "bat")
    assert space.seen == 0
    assert space.is_unseen.all()
    assert space.index_of("flying fox") == 1


def test_no_class_at_all():
    with pytest.raises(DataError, match="no class") as caught:
        join((), None)
    assert "--prompts" in caught.value.fix


def test_it_is_frozen_and_equal_by_value():
    space = join(SEEN, prompts("otter"))
    space.index_of("otter")
    assert space == join(SEEN, prompts("otter"))
    with pytest.raises(FrozenInstanceError):
        space.seen = 1
