from __future__ import annotations

from dataclasses import FrozenInstanceError
from itertools import product

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


def test_a_prompt_finds_its_seen_class_by_name_or_synonym():
    for line in ("sea horse", "SEA-HORSE: hippocampus", "hippocampus: fish horse, sea_horse"):
        space = join(SEEN, prompts(line, "otter"))
        assert space.names == (*SEEN, "otter")
        assert space.prompts[0] == prompts(line).classes[0]
        assert space.prompts[1] == PromptClass("zebra")
        space.index_of("otter")
        assert space == join(SEEN, prompts(line, "otter")), "equal by value"
    with pytest.raises(FrozenInstanceError):
        space.seen = 1


def test_two_prompts_for_one_seen_class():
    for lines in (
        ("zebra", "plains animal: zebra"),
        ("striped horse: zebra", "horse of stripes: ZEBRA"),
        ("a: cup", "cup"),
    ):
        with pytest.raises(DataError, match="two prompts describe the seen class") as caught:
            join(SEEN, prompts("otter", *lines))
        assert all(line.partition(":")[0] in caught.value.got for line in lines)
        assert "one line" in caught.value.fix


def test_index_of():
    space = join(SEEN, prompts("sea horse: hippocampus", "axolotl: water monster"))
    labels = ("Sea_Horse", "sea  horse", "hippocampus", "ZEBRA", "cup", "water-monster", "axolotl", "chair", "")
    assert [space.index_of(label) for label in labels] == [0, 0, 0, 1, 2, 3, 3, None, None]
    # A name wins over another class's synonym wherever it stands, a prompt's own too.
    space = join(("cat",), prompts("lynx: bobcat, wild cat", "bobcat: lynx", "wild dog: cat of the wild"))
    assert [space.index_of(name) for name in ("cat", "lynx", "bobcat", "wild cat", "wilddog")] == [0, 1, 2, 1, 3]
    space = join(("puma", "cougar"), prompts("cougar: puma"))
    assert space.prompts == (PromptClass("puma"), PromptClass("cougar", ("puma",)))
    assert [space.index_of(name) for name in ("puma", "cougar")] == [0, 1]
    # Of two classes with one synonym the first has it.
    assert join((), prompts("a: x", "b: x")).index_of("x") == 0
    # The name of a prompt that describes a seen class is a name of it, unless a class has that very name.
    space = join(SEEN, prompts("striped horse: zebra", "otter: cup of tea"))
    assert (space.index_of("Striped_Horse"), space.names) == (1, (*SEEN, "otter"))
    assert join(("puma", "cougar"), prompts("cat: puma", "lynx: cougar, cat")).index_of("cat") == 0
    assert join(("puma", "cat"), prompts("cat", "lynx: puma")).index_of("cat") == 1


def test_without_prompts_or_without_a_head():
    space = join(SEEN, None)
    assert space.names == SEEN
    assert space.prompts == tuple(PromptClass(name) for name in SEEN)
    assert not space.is_unseen.any()
    assert space.index_of("sea horse") == 0
    space = join((), prompts("otter", "bat: flying fox"))
    assert (space.names, space.seen) == (("otter", "bat"), 0)
    assert space.is_unseen.all()
    assert space.index_of("flying fox") == 1
    with pytest.raises(DataError, match="no class") as caught:
        join((), None)
    assert "--prompts" in caught.value.fix


def test_classes_of_an_old_run_that_are_one_by_now_stay_two():
    seen = ("black bird", "blackbird", "zebra", "zebra.")
    space = join(seen, PromptSet((PromptClass("blackbird", ("merle",)), PromptClass("Black_Bird")), check=False))
    assert space.names == seen
    assert [space.index_of(name) for name in (*seen, "merle", "Blackbird")] == [0, 1, 2, 3, 1, 0]
    assert [prompt.name for prompt in space.prompts] == ["Black_Bird", "blackbird", "zebra", "zebra."]


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


def test_a_class_that_a_prompt_names_keeps_its_place():
    space = join(SEEN, prompts("bat", "otter: sea otter", "emu"))
    for line, named in product(("Otter", "sea otter", "kalan: lontra, otter", "otter: something else"), (True, False)):
        wider, places = extend(space, [unseen("yak", 1), unseen(line, 4, named=named)])
        assert wider.names == (*SEEN, "bat", "otter", "emu", "yak")
        assert places == (6, 4)
        assert wider.prompts[4] == PromptClass("otter", ("sea otter",)), "as the prompt says"
        assert (wider.prompted, wider.added, wider.image_only) == (6, 1, 0)
        assert wider.shots == (0, 0, 0, 0, 4, 0, 1)
    # Images of two classes that a prompt joins count together.
    wider, places = extend(join((), prompts("otter: lontra")), [unseen("Otter", 2), unseen("lontra", 3)])
    assert (places, wider.shots) == ((0, 0), (5,))


def test_a_class_that_is_seen_has_no_place():
    space = join(SEEN, prompts("striped horse: zebra, plains zebra"))
    for line in ("Zebra", "striped horse", "quagga: ZEBRA", "plains zebra"):
        wider, places = extend(space, [unseen(line, 4), unseen("yak", 1)])
        assert places == (None, 3)
        assert wider.names == (*SEEN, "yak")
        assert wider.shots == (0, 0, 0, 1)
    with pytest.raises(DataError, match="two added classes have one name") as caught:
        extend(join(SEEN, None), [unseen("yak", 1), unseen("emu"), unseen("yak: otaria")])
    assert "yak" in caught.value.got


def test_nobody_joins_and_into_an_empty_space():
    space = join(SEEN, prompts("otter"))
    assert extend(space, []) == (space, ())
    assert (space.prompted, space.named, space.images_of(3)) == (4, 4, 0)
    wider, places = extend(LabelSpace((), (), 0), [unseen("a", 1, named=False), unseen("b", 2, named=False)])
    assert places == (0, 1)
    assert (wider.seen, wider.prompted, wider.named, wider.image_only) == (0, 0, 0, 2)
    wider, _ = extend(LabelSpace((), (), 0), [unseen("a"), unseen("b")])
    assert (wider.prompted, wider.named, wider.added, wider.shots) == (2, 2, 0, ())
