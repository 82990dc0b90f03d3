from __future__ import annotations

import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest

from hybrid.errors import DataError
from hybrid.labels import prompts
from hybrid.labels.names import class_key, spoken_form
from hybrid.labels.prompts import PromptClass, PromptSet, Templates, class_texts, load_templates

BUNDLED = {
    "animals": 50,
    "caltech101": 100,
    "cifar10": 10,
    "cifar100": 100,
    "flowers102": 102,
    "food101": 101,
    "nouns": 2947,
    "pets37": 37,
}


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes) -> Path:
        path = tmp_path / "mine.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def test_prompt_file(write):
    text = """\ufeff# my animals

zebra: striped horse ,  plains zebra,   # two more names
  sea_horse   # not a horse
C# fan
Ka\u0308fer:
\t# indented comment
"""
    loaded = PromptSet.load(write(text.replace("\n", "\r\n")))
    assert loaded.classes == (
        PromptClass("zebra", ("striped horse", "plains zebra")),
        PromptClass("sea_horse"),
        PromptClass("C# fan"),
        PromptClass("Käfer"),
    )
    assert loaded.names == ("zebra", "sea_horse", "C# fan", "Käfer")
    assert PromptSet.load(str(write("ox"))).names == ("ox",)


def test_wrong_prompt_file(write, tmp_path):
    for content, message in (
        ("", "names no class"),
        ("# only this\n\n", "names no class"),
        ("a\nSea_Horse\n# x\nsea horse: y\n", r"'sea horse' is listed twice: line 2 and line 4"),
        ("a\n: b\n", "line 2 has no class name"),
        ("Käfer".encode("latin1"), r"not UTF-8(.|\n)*0xe4 at position 1"),
    ):
        with pytest.raises(DataError, match=message):
            PromptSet.load(write(content))
    with pytest.raises(DataError, match=r"does not exist(.|\n)*animals, caltech101, cifar10(.|\n)*nothing"):
        PromptSet.load("animal")
    with pytest.raises(DataError, match="a folder"):
        PromptSet.load(tmp_path)


def test_from_names():
    assert PromptSet.from_names(["ox", "Red Fox"]).classes == (PromptClass("ox"), PromptClass("Red Fox"))
    assert PromptSet.from_names(name for name in ()).names == ()
    with pytest.raises(DataError, match="'red-fox' is listed twice"):
        PromptSet.from_names(["Red Fox", "red-fox"])
    with pytest.raises(DataError, match="no class name"):
        PromptSet.from_names(["ox", " "])


def test_bundled_prompt_files():
    assert {file.stem for file in prompts._bundled_folder().glob("*.txt")} == set(BUNDLED)
    for name, count in BUNDLED.items():
        loaded = PromptSet.load(name)
        assert len(loaded.classes) == count
        for entry in loaded.classes:
            forms = [spoken_form(text) for text in (entry.name, *entry.synonyms)]
            assert len(forms) == len(set(forms)), "a synonym that says nothing new"
        names = {class_key(cls.name): cls for cls in loaded.classes}
        for entry in loaded.classes:
            owners = {names[key].name for text in entry.synonyms if (key := class_key(text)) in names}
            assert owners <= {entry.name}, "a synonym that is another class"
    nouns = PromptSet.load("nouns").names
    assert list(nouns) == sorted(nouns)
    assert all(name == spoken_form(name) and name.isascii() for name in nouns)


def test_a_file_comes_before_the_bundled_name_but_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("animals").mkdir()
    assert len(PromptSet.load("animals").classes) == 50
    Path("animals").rmdir()
    Path("animals").write_text("ox")
    assert PromptSet.load("animals").names == ("ox",)


def test_inside_a_wheel_the_prompts_lie_within_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(prompts, "__file__", str(tmp_path / "hybrid" / "labels" / "prompts.py"))
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "mine.txt").write_text("from the repository")
    assert PromptSet.load("mine").names == ("from the repository",)
    (tmp_path / "hybrid" / "_prompts").mkdir(parents=True)
    (tmp_path / "hybrid" / "_prompts" / "mine.txt").write_text("from the wheel")
    assert PromptSet.load("mine").names == ("from the wheel",)


def test_simple_and_imagenet_templates():
    assert load_templates("simple") == Templates("simple", ("a photo of a {}.",))
    # Only this module of open_clip, by its file: importing the package would take seconds, for torch.
    package = find_spec("open_clip")
    assert package is not None
    theirs = runpy.run_path(str(Path(package.origin).parent / "zero_shot_metadata.py"))
    texts = tuple(template("{}") for template in theirs["OPENAI_IMAGENET_TEMPLATES"])
    assert load_templates("imagenet").texts == texts
    assert len(texts) == 80


def test_template_file(write):
    path = write("# plain\n{}\n\na {} # of mine\n{0} and {}\n")
    assert load_templates(path) == Templates(str(path), ("{}", "a {}", "{0} and {}"))
    for content, message in (
        ("# none\n", "holds no template"),
        ("a {}\n\na photo\n", "line 3: a template needs exactly one {}"),
        ("{} {}\n", "line 1: a template needs exactly one {}"),
        (b"\xff{}\n", "not UTF-8"),
    ):
        with pytest.raises(DataError, match=message):
            load_templates(write(content))
    with pytest.raises(DataError, match="imagenet, simple"):
        load_templates("simpel")


def test_class_texts():
    prompt = PromptClass("sea_horse", ("hippocampus", "sea horse"))
    templates = Templates("mine", ("a {}.", "{0} {}", "a {}."))
    assert class_texts(prompt, templates) == (
        "a sea horse.",
        "{0} sea horse",
        "a hippocampus.",
        "{0} hippocampus",
    )
    assert class_texts(PromptClass("{}"), Templates("bare", ("{}",))) == ("{}",)
