from __future__ import annotations

import os
import re
import runpy
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from hybrid.errors import DataError
from hybrid.labels import prompts
from hybrid.labels.names import class_key, spoken_form
from hybrid.labels.prompts import PromptClass, PromptSet, Templates, class_texts, load_templates, prompt_set
from hybrid.labels.space import join
from hybrid.labels.tree import plant

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
SPECIES = {
    "birds-europe": 295,
    "birds-north-america": 284,
    "mammals-africa": 198,
    "mammals-europe": 149,
    "mammals-north-america": 159,
    "reptiles-amphibians-europe": 139,
    "trees-europe": 138,
    "wildflowers-europe": 196,
}


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes) -> Path:
        path = tmp_path / "mine.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.mark.parametrize("name", SPECIES)
def test_lists_of_species(name):
    loaded = PromptSet.load(name)
    assert loaded.notes == ()
    binomials = [cls.synonyms[0] for cls in loaded.classes]
    assert all(re.fullmatch("[A-Z][a-z]+ [a-z]+(-[a-z]+)?", binomial) for binomial in binomials)
    assert len(set(binomials)) == len(binomials)
    assert loaded.taxonomy is not None
    ranks = {taxon.rank for taxon in loaded.taxonomy.taxa}
    assert ranks == {"class", "order", "family", "genus", "species"}
    families = [taxon.name for taxon in loaded.taxonomy.taxa if taxon.rank == "family"]
    assert all(family.endswith("aceae" if name.startswith(("trees", "wild")) else "idae") for family in families)
    # Each species has its place: under all of its ranks, and nowhere else.
    tree = plant(loaded.taxonomy, join((), loaded))
    assert tree.notes == ()
    assert set(tree.depth[tree.node]) == {5 - (tree.ranks[0] == "class")}
    assert tree.sums(np.full((1, len(loaded.classes)), 1 / len(loaded.classes)))[0, 0] == pytest.approx(1)
    assert "no checklist" in (prompts._bundled_folder() / f"{name}.txt").read_text(encoding="utf-8")


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
    with pytest.raises(DataError, match=r"does not exist(.|\n)*animals, birds-europe(.|\n)*cifar10(.|\n)*nothing"):
        PromptSet.load("animal")
    with pytest.raises(DataError, match="a folder"):
        PromptSet.load(tmp_path)


READ = {
    "JSON": '["llama", "sea horse"]',
    "JSON with other names": '{"llama": null, "sea horse": []}',
    "JSON of numbers and names": '{"0": "llama", "1": "sea horse"}',
    "JSON of names and numbers": '{"llama": 0, "sea horse": 1}',
    "JSON of categories": '{"info": {}, "categories": [{"id": 1, "name": "llama"}, {"name": "sea horse"}]}',
    "JSON lines": '{"name": "llama"}\n{"name": "sea horse"}\n',
    "a Python list": "['llama', 'sea horse']",
    "one line": "llama, sea horse",
    "semicolons": "llama; sea horse;\n",
    "tabs": "llama\tsea horse",
    "bullets": "# Animals\n- llama\n* sea horse",
    "other bullets": "\u2022 llama\n+ sea horse",
    "boxes": "- [ ] llama\n- [x] sea horse",
    "numbers": "1. llama\n2) sea horse",
    "numbers and tabs": "1\tllama\n2\tsea horse",
    "quotes": "\"llama\",\n'sea horse'",
    "other quotes": "\u201cllama\u201d\n«sea horse»",
    "YAML": "names:\n  - llama\n  - sea horse",
    "a table of one column": "class\nllama\nsea horse\n",
    "a table": "id,Name\n1,llama\n2,sea horse\n",
    "a table with numbers": "label,name\n0,llama\n1,sea horse\n",
    "a table with semicolons": "label;n\nllama;3\nsea horse;4\n",
    "a manifest": "path,label\na.jpg,llama\nb.jpg,llama\nc.jpg,sea horse\n",
    "Windows": "\ufeffllama\r\nsea horse\r\n",
    "old Macs": "llama\rsea horse",
    "spaces": "\tllama \n\n  sea horse\t",
}
OTHER_NAMES = {
    "lines": "zebra: striped horse, plains zebra\nyak",
    "quoted": '- "zebra": "striped horse", plains zebra\n- yak',
    "JSON": '{"zebra": ["striped horse", "plains zebra"], "yak": ""}',
    "JSON list": '[{"label": "zebra", "synonyms": ["striped horse", "plains zebra"]}, "yak"]',
    "a table": 'name,synonyms\nzebra,"striped horse, plains zebra"\nyak,\n',
    "tabs": "Class\tprompt\nzebra\tstriped horse|plains zebra\nyak\t\n",
}


@pytest.mark.parametrize("text", READ.values(), ids=READ)
def test_lists_as_programs_and_people_write_them(write, text):
    assert PromptSet.load(write(text)).names == ("llama", "sea horse")


@pytest.mark.parametrize("text", OTHER_NAMES.values(), ids=OTHER_NAMES)
def test_other_names_in_each_format(write, text):
    expected = (PromptClass("zebra", ("striped horse", "plains zebra")), PromptClass("yak"))
    assert PromptSet.load(write(text)).classes == expected


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_encodings(write, encoding):
    assert PromptSet.load(write("llama\nKäfer: 甲虫\n".encode(encoding))).names == ("llama", "Käfer")


def test_names_that_look_like_something_else_stand_in_quotes(write):
    names = ("ratio 1:2", "C #5", "#tag", "tench, Tinca tinca", "[REC]", "1. FC Union", "- x")
    assert PromptSet.load(write("\n".join(f'"{name}"' for name in names))).names == names
    plain = (
        "F-16A/B",
        "7 up",
        "bird's nest",
        "'s-Hertogenbosch",
        "Acer [cultivar]",
        "+",
        "-",
        "C#",
        "St. Bernard",
        "🐴",
    )
    loaded = PromptSet.load(write("\n".join(plain)))
    assert (loaded.names, loaded.notes) == (plain, ())
    loaded = PromptSet.load(write("ratio 1:2\nC #5\n#tag\n"))
    assert loaded.classes == (PromptClass("ratio 1", ("2",)), PromptClass("C"))
    for note, word in zip(loaded.notes, ("#tag", "'ratio 1' with the other name '2'", "only 'C' is read"), strict=True):
        assert word in note
        assert "quotes" in note


def test_lines_that_are_not_clear_are_refused_by_name(write):
    for text, message in (
        ("llama\ntench, Tinca tinca", "line 2: several names, or one that holds a comma(.|\n)*quotes"),
        ("llama, zebra\nyak, ox", "line 1: several names"),
        ("id,species\n1,zebra\n", "line 1: several names(.|\n)*a header"),
        ("a; b, c", "both commas and semicolons"),
        ("zebra\tstriped horse\nyak\tox", "a tab within a line"),
        ("name,id\nzebra,1,2", "line 2: 3 cells under 2 columns"),
        ("name,id\nzebra,1\n,2", "line 3 has no class name"),
        ("names:\n  0: person\n", "looks like YAML"),
        ("names: ['person', 'car']\nnc: 2", "line 1: not a class name"),
        ("classes = [\n'a',\n]", "line 1: not a class name"),
        ("<ul>\n<li>zebra</li>", "line 1: not a class name"),
        ("zebra\n---\nyak", "line 2: not a class name"),
        ("https://example.org/zebra", "not a class name"),
        ('"Weird Al" Yankovic', "line 1: what stands in quotes is not all of the name"),
        ('["llama", "zebra"', "begins like JSON and is not"),
        ("[REC]\nzebra", r'begins like JSON(.|\n)*"\[REC\]"'),
        ('["llama", null]', "entry 2: not a class name"),
        ('[["a", "b"]]', "entry 1: not a class name"),
        ('{"0": ["n01440764", "tench"]}', "numbers with several names"),
        ('{"a": "x", "a": "y"}', "listed twice"),
        ("[" * 200_000, "nested too deep"),
        ('{"a":' * 200_000, "nested too deep"),
        ("zebra\nNone_of_these", "line 2: 'None_of_these' is what an image of no class is answered with"),
        ("zebra: none of these", "no class can have that name"),
        ("hot dog\nHotDog", "'HotDog' is listed twice"),
        ("ze\x07bra", "line 1: a class name is one line of text"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not a text file(.|\n)*a PNG image"),
        (b"PK\x03\x04\x14\x00", "not a text file(.|\n)*xlsx"),
        (b"a\x00\x00\x00b\xff", "not a text file"),
    ):
        with pytest.raises(DataError, match=message):
            PromptSet.load(write(text))


def test_what_is_no_file_or_too_large_is_refused_before_it_is_read(tmp_path, write):
    large = tmp_path / "large.txt"
    with large.open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(DataError, match=r"field larger than field limit(.|\n)*one name per line"):
        PromptSet.load(write("a" * 140_000))
    with pytest.raises(DataError, match=r"too large(.|\n)*3,072 MiB"):
        PromptSet.load(large)
    os.mkfifo(tmp_path / "pipe")
    for file in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(DataError, match="is not a file"):
            PromptSet.load(file)


def test_names_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("ox")
    for typed, names in (
        ("llama,zebra", ("llama", "zebra")),
        ("llama, sea horse ,", ("llama", "sea horse")),
        ("F-16A/B,F-18", ("F-16A/B", "F-18")),
        ("llama,", ("llama",)),
        ('"C #5", zebra # and more', ("C #5", "zebra")),
        ("llama # a, b\n", ("llama",)),
        ('"Washington, D.C.",Boston', ("Washington, D.C.", "Boston")),
        ('["llama", "zebra"]', ("llama", "zebra")),
        ("llama\nzebra", ("llama", "zebra")),
        ("prompts.txt", ("ox",)),
    ):
        assert PromptSet.load(typed).names == names
    assert PromptSet.load("zebra: striped horse").classes == (PromptClass("zebra", ("striped horse",)),)
    for typed, message in (
        ("promts.txt", "does not exist(.|\n)*did you mean prompts.txt"),
        ("prompts", "did you mean prompts.txt"),
        ("animal", "did you mean animals"),
        ("llama", 'does not exist(.|\n)*to name a class itself: "llama,"'),
        ("a.txt,b.txt", "does not exist"),
        ("C:\\x.txt", "does not exist"),
        ("animals,pets37", "one file or bundled list"),
        (",", "names no class"),
        (" ", "blank"),
        ("x" * 5000, "does not exist"),
        ("a\0b", "does not exist"),
        ("a,a", "listed twice"),
    ):
        with pytest.raises(DataError, match=message):
            PromptSet.load(typed)


def test_names_in_python():
    zebra, ox = PromptClass("zebra", ("striped horse",)), PromptClass("ox")
    for given in (PromptSet((zebra, ox)), {"zebra": "striped horse", "ox": None}, [zebra, "ox"], iter((zebra, ox))):
        assert prompt_set(given).classes == (zebra, ox)
    assert prompt_set({"b", "a", "c"}).names == ("a", "b", "c")
    assert prompt_set([1, 2]).names == ("1", "2")
    assert prompt_set(None) is None
    for given, message in (
        (5, "prompts are class names"),
        (b"ox", "prompts are class names"),
        (["ox", None], "name 2 is not a class name"),
        (["ox", ["a"]], "name 2 is not a class name"),
        ({"ox": 5}, "other names are a list"),
        ({3.5: None}, "3.5 is not a class name"),
    ):
        with pytest.raises(DataError, match=message):
            prompt_set(given)


def test_from_names():
    assert PromptSet.from_names(["ox", "Red Fox"]).classes == (PromptClass("ox"), PromptClass("Red Fox"))
    assert PromptSet.from_names(name for name in ()).names == ()
    with pytest.raises(DataError, match="'red-fox' is listed twice"):
        PromptSet.from_names(["Red Fox", "red-fox"])
    with pytest.raises(DataError, match="no class name"):
        PromptSet.from_names(["ox", " "])


def test_bundled_prompt_files():
    assert {file.stem for file in prompts._bundled_folder().glob("*.txt")} == {*BUNDLED, *SPECIES}
    for name, count in (BUNDLED | SPECIES).items():
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


def test_classes_that_are_none():
    for classes in (("ox",), (PromptClass(3),), (PromptClass("ox", (3,)),)):
        with pytest.raises(DataError, match="names that are texts"):
            PromptSet(classes)
    with pytest.raises(DataError, match="a list of names"):
        PromptSet.from_names("ox")


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
