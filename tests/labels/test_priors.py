from __future__ import annotations

import numpy as np
import pytest

from hybrid.errors import ConfigError, DataError
from hybrid.gate.policy import Policy
from hybrid.labels.priors import ClassPriors
from hybrid.labels.prompts import PromptClass, PromptSet
from hybrid.labels.space import join

SPACE = join(["zebra", "lion"], PromptSet((PromptClass("okapi", ("forest giraffe",)), PromptClass("red kangaroo"))))


@pytest.fixture
def read(tmp_path):
    def read(text: str, unlisted: float = 0.01) -> ClassPriors:
        file = tmp_path / "priors.csv"
        file.write_bytes(text.encode("utf-8-sig"))
        return ClassPriors.read(file, unlisted)

    return read


def prior(table, region=None, month=None):
    return np.exp(table.log_prior(region, month))


def test_weights_by_hand(read):
    """12, 3 and 5 of 20.01, by a name, a synonym and another spelling; a class that is not listed has 0.01."""
    table = read("class,weight\nZebra,12\nforest_giraffe,3\n\nlion,5\ntiger,7\n").join(SPACE)
    assert prior(table) == pytest.approx(np.array([12, 5, 3, 0.01]) / 20.01)
    unknown, unlisted = table.notes()
    assert "names of no class, which count for nothing: tiger" in unknown
    assert "classes that are not listed" in unlisted
    assert unlisted.endswith("have the weight 0.01 (those that are: 3 to 12): red kangaroo")
    assert ClassPriors.of({"zebra": 1, "lion": 1, "okapi": 1, "red kangaroo": 1}).join(SPACE).notes() == []


def test_the_most_specific_row_counts(read):
    rows = (
        "Class; Weight; Month; Region",
        "lion;1;;",
        "lion;2;6;",
        "lion;3;;Kenya",
        "lion;4;6;Kenya",
        "zebra;8;;kenya ",
        "red kangaroo;6;;New South  Wales",
    )
    table = read("\n".join(rows), unlisted=0).join(SPACE)
    for place, weights in {
        ("Kenya", 6): [8, 4, 0, 0],
        ("KENYA", 7): [8, 3, 0, 0],
        ("new south wales", None): [0, 1, 0, 6],
        ("Chad", 6): [0, 2, 0, 0],
        (None, None): [0, 1, 0, 0],
    }.items():
        assert prior(table, *place) == pytest.approx(np.array(weights) / sum(weights)), place
    assert table.image_notes([("Chad", 3), (None, None)]) == []


def test_images_without_weights_are_told(read):
    table = read("class,weight,region,month\nzebra,1,Kenya,\nlion,1,Kenya,2\n").join(SPACE)
    assert table.log_prior("Chad", 2) is table.log_prior(None, 2) is None
    (note,) = table.image_notes([("Chad", 2), ("Chad", 2), ("Kenya", 5), (None, None), (None, 1)])
    assert "has no weights for 4 of the photos, which are answered without it" in note
    assert note.endswith("in Chad in month 2 (2), without region and month (1), in month 1 (1)")


def test_zero_is_never(read):
    table = read("class,weight\nzebra,1\nlion,0\n", unlisted=0).join(SPACE)
    assert np.exp(table.log_prior(None, None)).tolist() == [1, 0, 0, 0]
    assert any("weight 0 means never, whatever a photo shows: lion" in note for note in table.notes())
    # Where only other classes have a weight, nothing is left.
    table = read("class,weight,region\nzebra,1,\ntiger,1,Chad\nzebra,0,Chad\n", unlisted=0).join(SPACE)
    with pytest.raises(DataError, match="every class has weight 0 in Chad"):
        table.log_prior("Chad", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a file of class priors"),
        ("class,weight\n", "has no class"),
        ("name,weight\nzebra,1\n", "not a file of class priors.*'name'"),
        ("class,weight,regoin\nzebra,1,Kenya\n", "not a file of class priors.*did you mean.*region"),
        ("class,weight,weight\nzebra,1,1\n", "not a file of class priors"),
        ("zebra,1\n", "not a file of class priors"),
        ("class,weight\nzebra,many\n", "line 2: this weight is not a number"),
        ("class,weight\nzebra,\n", "line 2: this weight is not a number"),
        ("class,weight\nzebra,nan\n", "line 2: this weight is not a number"),
        ("class,weight\nzebra,inf\n", "line 2: this weight is not a number"),
        ("class,weight\nlion,1\nzebra,-1\n", "line 3: this is not a weight"),
        ("class,weight\n,1\n", "line 2"),
        ("class,weight\nzebra,1,2\n", "line 2: more fields"),
        ("class,weight,month\nzebra,1,13\n", "line 2: this is not a month"),
        ("class,weight,month\nzebra,1,0\n", "line 2: this is not a month"),
        ("class,weight,month\nzebra,1,June\n", "line 2: this month is not a month"),
        ("class,weight,month\nzebra,1,1.5\n", "line 2: this month is not a month"),
        ("class,weight\nzebra,1\nlion,2\nZebra,3\n", "listed twice.*line 2: zebra,1.*line 4: Zebra,3"),
        ("class,weight,region\nzebra,1,Kenya\nzebra,2,kenya\n", "listed twice in kenya"),
        ("class,weight,region\nzebra,1,\nlion,0,Chad\nzebra,0,Chad\n", "all weights in chad are 0.*lion, zebra"),
        ('class,weight\n"zebra,1\n', "neither a table"),
        ("class,weight\nokapi,1\nforest giraffe,2\n", None),
        ("class,weight\ntiger,1\n", None),
    ],
)
def test_what_is_not_right_is_an_error_that_says_where(read, text, message):
    if message is not None:
        with pytest.raises(DataError, match=f"(?s){message}"):
            read(text)
        return
    priors = read(text)
    with pytest.raises(DataError, match=r"listed twice|names none of the classes"):
        priors.join(SPACE)


def test_weights_of_classes_that_are_not_listed(read):
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="--unlisted is a weight"):
            read("class,weight\nzebra,1\n", unlisted=wrong)


@pytest.mark.parametrize("other", [{"prior": 0.2}, {"balance": "natural"}, {"max_seen_loss": 0.01}])
def test_a_file_takes_the_place_of_other_priors(other):
    with pytest.raises(ConfigError, match=r"--prior-file and --.* contradict"):
        Policy(class_priors=ClassPriors.of({"zebra": 1}), **other)
