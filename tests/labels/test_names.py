from __future__ import annotations

from itertools import combinations

import pytest

from hybrid.errors import DataError
from hybrid.labels.names import NameTable, check_name, class_key, class_of, is_reserved, joined_notes
from hybrid.labels.near import NearNames, did_you_mean

FULL_WIDTH = "".join(chr(ord(letter) + 0xFEE0) for letter in "sea") + "\u3000Horse"
SEA_HORSE = "Sea_Horse|sea horse|SEA-HORSE| sea \t horse |sea\u00a0horse|_sea__horse|SeaHorse|seahorse|Sea horse."
ONE_CLASS = [
    (*SEA_HORSE.split("|"), "sea\u200bhorse", "\ufeffsea horse", "sea\u2011horse", "sea - horse", FULL_WIDTH),
    ("Ka\u0308fer", "KÄFER"),
    ("Straße", "STRASSE"),
    ("Bishop_of_Llandaff", "bishop of Llandaff"),
    ("F-16A/B", "f 16a/b"),
    ("737-300", "737\u2013300", "737_300"),
    ("\u22121", "-1"),
    ("Bird\u2019s nest", "bird's nest"),
    ("iPhone", "IPHONE"),
    ("X-ray fish", "x ray fish"),
    ("AnnualCrop", "annual crop"),
    ("海马", "海马。"),
    ("ﾊﾞﾅﾅ", "バナナ"),
    ("قطة", "قـطة"),
    ("خرس\u200cقطبي", "خرسقطبي"),
    ("❤\ufe0f", "❤"),
]
WORDS = "A a A+ A- a+ AB 1 -1 +1 + - C C# C++ . F16 F-16 737-300 737-400 1.2 1,2 12 10-5 10--5 m² m2 ①"
PHRASES = "A B|letter A|letter a|class 1|class -1|737-3 00|x ray|xray|sea horse-|seahorse|海马|海 马"
APART = [
    *WORDS.split(),
    *PHRASES.split("|"),
    *("café", "cafe", "zebra", "zebras", "\u0131", "i", "Δ", "δ"),
    # Emoji that are joined or told apart by characters that cannot be seen.
    *("👩\u200d🚀", "👩🚀", "👍🏻", "👍🏿", "🏴\U000e0067\U000e0065\U000e007f", "🏴\U000e0067\U000e0073\U000e007f"),
]


@pytest.mark.parametrize("spellings", ONE_CLASS, ids=lambda names: names[0])
def test_spellings_of_one_class(spellings):
    assert len({class_key(name) for name in spellings}) == 1
    assert class_key(class_key(spellings[0])) == class_key(spellings[0])


def test_names_that_are_apart():
    alike = [pair for pair in combinations(APART, 2) if class_key(pair[0]) == class_key(pair[1])]
    assert not alike


def test_the_answer_for_no_class_is_reserved_in_any_spelling():
    for name in ("none of these", "None_of_these", "NONE-OF-THESE", "NoneOfThese", "none  of these."):
        assert is_reserved(name)
        with pytest.raises(DataError, match="no class can have that name"):
            check_name(name, "line 3")
    assert check_name("none of those", "here") == "none of those"
    assert check_name(7, "here") == "7"
    for name, message in (
        ("", "line 3 has no class name"),
        (" _ ", "line 3 has no class name"),
        ("\u200b", "line 3 has no class name"),
        ("a\nb", "one line of text"),
        (None, "line 3 is not a class name"),
        (float("nan"), "line 3 is not a class name"),
        (b"ox", "line 3 is not a class name"),
    ):
        with pytest.raises(DataError, match=message):
            check_name(name, "line 3")


def test_the_very_spelling_comes_first():
    table = NameTable(("black bird", "blackbird", "Zebra"))
    names = ("blackbird", "black bird", "Blackbird", "zebra", "horse")
    assert [table.find(name) for name in names] == [1, 0, 0, 2, None]


def test_labels_find_the_name_of_their_class():
    labels = ("sea_horse", "Sea Horse", "zebra", "SeaHorse", "A", "a")
    own = {"A": "A", "a": "a", "zebra": "zebra"}
    found = class_of(labels)
    assert found == own | dict.fromkeys(("sea_horse", "Sea Horse", "SeaHorse"), "Sea Horse")
    assert class_of(labels, ["sea-horse"])["SeaHorse"] == "sea-horse"
    (note,) = joined_notes(found, {"sea_horse": 3, "Sea Horse": 2, "SeaHorse": 1})
    assert note.endswith("'Sea Horse' (2) and 'SeaHorse' (1) and 'sea_horse' (3) as Sea Horse")
    assert joined_notes(own) == ()


def test_near_names():
    for name, near in (
        *(("zebra", "zebras"), ("box", "boxes"), ("bus", "buses"), ("berry", "berries"), ("wolf", "wolves")),
        *(("mouse", "mice"), ("tomato", "tomatoes"), ("sea horse", "sea-horses"), ("café", "cafe"), ("F-16", "F16")),
        *(("zebra", "zbra"), ("zebra", "zebrra"), ("zebra", "zebar"), ("zebra", "zebda"), ("sea horse", "seahrose")),
        *(("x ray", "xray"), ("letter A", "letter a"), ("okapi", "okapi?"), ("sea horse-", "sea horse")),
    ):
        assert NearNames(["llama", name]).find(near) == name
        assert NearNames([near, "llama"]).find(name) == near
    apart = "737-300|737-400 class 1|class 11 class 1|class -1 1.2|12 A|a C|C# cat|bat cat|cart trout|truth mouse|house"
    apart = [tuple(pair.split("|")) for pair in apart.replace("class ", "class_").split()]
    apart += [("letter A", "letter B"), ("type I", "type II"), ("grade A", "grade A+"), ("seashore", "sea horse")]
    for one, other in apart:
        assert NearNames([one]).find(other) is None
    assert NearNames(["horse"]).find("house") == "horse"
    assert NearNames(["horse"], {"house"}.__contains__).find("house") is None, "a word of its own"
    assert NearNames(["horse"], {"horses"}.__contains__).find("horses") == "horse"
    assert did_you_mean(["zebras", "emu"], ["zebra", "yak"]) == "did you mean 'zebra' for 'zebras'?"
    assert did_you_mean(["emu"], ["zebra"]) is None
