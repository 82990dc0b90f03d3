from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from hybrid.errors import DataError
from hybrid.labels.prompts import PromptClass, PromptSet
from hybrid.labels.space import LabelSpace, UnseenClass, extend, join

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


def test_the_name_of_a_prompt_that_describes_a_seen_class_is_a_name_of_it():
    space = join(SEEN, prompts("striped horse: zebra", "otter: cup of tea"))
    assert space.index_of("Striped_Horse") == 1
    assert space.names == (*SEEN, "otter")
    # A class of that very name wins.
    assert join(("puma", "cougar"), prompts("cat: puma", "lynx: cougar, cat")).index_of("cat") == 0
    assert join(("puma", "cat"), prompts("cat", "lynx: puma")).index_of("cat") == 1


# Classes that join


def unseen(line: str, shots: int = 0, *, named: bool = True) -> UnseenClass:
    return UnseenClass(prompts(line).classes[0], named, shots)


def test_merely_named_then_shown_with_a_name_then_shown_without():
    space = join(SEEN, prompts("otter"))
    wider, places = extend(
        space,
        [
            unseen("creature 7", 2, named=False),
            unseen("okapi: forest giraffe", 5),
            unseen("bat"),
            unseen("creature 8", 1, named=False),
            unseen("yak", 3),
            unseen("emu"),
        ],
    )
    assert wider.names == (*SEEN, "otter", "bat", "emu", "okapi", "yak", "creature 7", "creature 8")
    assert places == (8, 6, 4, 9, 7, 5)
    assert (wider.seen, wider.added, wider.image_only) == (3, 4, 2)
    assert (wider.prompted, wider.named) == (6, 8)
    assert wider.shots == (0, 0, 0, 0, 0, 0, 5, 3, 2, 1)
    assert [wider.images_of(index) for index in range(10)] == list(wider.shots)
    assert [prompt.name for prompt in wider.prompts] == list(wider.names)
    assert wider.is_unseen.tolist() == [False] * 3 + [True] * 7
    assert wider.index_of("Forest-Giraffe") == 6
    assert wider.index_of("creature_7") == 8


def test_nobody_joins():
    space = join(SEEN, prompts("otter"))
    assert extend(space, []) == (space, ())
    assert (space.prompted, space.named, space.images_of(3)) == (4, 4, 0)


@pytest.mark.parametrize("line", ["Otter", "sea otter", "kalan: lontra, otter", "otter: something else"])
@pytest.mark.parametrize("named", [True, False])
def test_a_class_that_a_prompt_names_keeps_its_place(line, named):
    space = join(SEEN, prompts("bat", "otter: sea otter", "emu"))
    wider, places = extend(space, [unseen("yak", 1), unseen(line, 4, named=named)])
    assert wider.names == (*SEEN, "bat", "otter", "emu", "yak")
    assert places == (6, 4)
    assert wider.prompts[4] == PromptClass("otter", ("sea otter",)), "as the prompt says"
    assert (wider.prompted, wider.added, wider.image_only) == (6, 1, 0)
    assert wider.shots == (0, 0, 0, 0, 4, 0, 1)


def test_images_of_two_classes_that_a_prompt_joins_count_together():
    wider, places = extend(join((), prompts("otter: lontra")), [unseen("Otter", 2), unseen("lontra", 3)])
    assert places == (0, 0)
    assert wider.shots == (5,)


@pytest.mark.parametrize("line", ["Zebra", "striped horse", "quagga: ZEBRA", "plains zebra"])
def test_a_class_that_is_seen_has_no_place(line):
    space = join(SEEN, prompts("striped horse: zebra, plains zebra"))
    wider, places = extend(space, [unseen(line, 4), unseen("yak", 1)])
    assert places == (None, 3)
    assert wider.names == (*SEEN, "yak")
    assert wider.shots == (0, 0, 0, 1)


@pytest.mark.parametrize(("first", "second"), [("yak", "YAK"), ("sea-lion", "Sea Lion: otaria")])
def test_two_classes_of_one_name(first, second):
    with pytest.raises(DataError, match="two added classes have one name") as caught:
        extend(join(SEEN, None), [unseen(first, 1), unseen("emu"), unseen(second)])
    assert first in caught.value.got


def test_into_an_empty_space():
    wider, places = extend(LabelSpace((), (), 0), [unseen("a", 1, named=False), unseen("b", 2, named=False)])
    assert places == (0, 1)
    assert (wider.seen, wider.prompted, wider.named, wider.image_only) == (0, 0, 0, 2)
    wider, _ = extend(LabelSpace((), (), 0), [unseen("a"), unseen("b")])
    assert (wider.prompted, wider.named, wider.added, wider.shots) == (2, 2, 0, ())
