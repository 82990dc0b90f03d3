"""Which class stands under what: the formats it comes in, one tree of many lines, and what is no tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybrid.errors import DataError
from hybrid.labels.prompts import PromptClass, PromptSet
from hybrid.labels.taxonomy import ANY, Taxonomy, joined
from hybrid.labels.taxonomy_files import load_taxonomy

SPECIESNET = """\
9c564562-9429-405c-8529-04cff7752282;mammalia;carnivora;felidae;puma;concolor;puma
00049ff0-2ffa-4d82-8cf3-c861fbbfa9d5;mammalia;carnivora;felidae;puma;;puma species
df8514b0-10a5-411f-8ed6-0f415e8153a3;mammalia;carnivora;felidae;;;cat family
0123b31e-944d-4bc3-aa0c-0021a1579f74;mammalia;carnivora;canidae;canis;lupus familiaris;domestic dog
1f689929-883d-4dae-958c-3d57ab5b6c16;;;;;;animal
f1856211-cfb7-4a5b-9158-c0f72fd09ee6;;;;;;blank
"""
# As a download of GBIF has it, with columns that say nothing here.
GBIF = (
    "taxonKey\tscientificName\ttaxonRank\tkingdom\tphylum\tclass\torder\tfamily\tgenus\tspecies\tvernacularName\n"
    "1\tEquus quagga Boddaert, 1785\tSPECIES\tAnimalia\tChordata\tMammalia\tPerissodactyla\tEquidae\tEquus\t"
    "Equus quagga\tPlains Zebra\n"
    "2\tBison bison (Linnaeus, 1758)\tSPECIES\tAnimalia\tChordata\tMammalia\tArtiodactyla\tBovidae\tBison\t"
    "Bison bison\n"
    "3\tEquus\tGENUS\tAnimalia\tChordata\tMammalia\tPerissodactyla\tEquidae\tEquus\t\n"
)
# One tree in each format.
SAME = {
    "lines": "zebra < equid < mammal < animal\nhorse: pony < equid  # and no more\nox < mammal: bull\n",
    "lines in any order": "ox: bull < mammal\nhorse: pony < mammal\nhorse < equid\nequid < mammal\n"
    "zebra < equid < animal\nmammal < animal\n",
    "quotes": '- "zebra" < equid < mammal < animal\n- "horse": pony < "equid"\n- ox < mammal: "bull"\n',
    "parents": "Name,parent,synonyms\nzebra,equid,\nhorse,equid,pony\nequid,mammal,\nox,mammal,bull\nmammal,animal,\n",
    "JSON": '[{"name": "zebra", "under": ["equid", "mammal", "animal"]}, {"name": "horse", "synonyms": "pony", '
    '"parents": "equid"}, {"name": "ox", "parent": "mammal < animal", "aliases": ["bull"]}]',
    "a table of ranks": "order,class,family,common name,synonyms\nanimal,mammal,equid,zebra,\n"
    "animal,mammal,equid,horse,pony\nanimal,mammal,,ox,bull\n".replace("order,class,", "phylum,class,"),
}


@pytest.fixture
def load(tmp_path: Path):
    def load(text: str, name: str = "tree.txt") -> Taxonomy:
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return load_taxonomy(file)

    return load


def chains(taxonomy: Taxonomy) -> set[str]:
    return {taxonomy.chain_of(index) for index in range(len(taxonomy.taxa))}


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_one_tree_in_each_format(load, text):
    taxonomy = load(text)
    assert chains(taxonomy) == {
        "animal",
        "mammal < animal",
        "equid < mammal < animal",
        "zebra < equid < mammal < animal",
        "horse < equid < mammal < animal",
        "ox < mammal < animal",
    }
    for other, name in (("pony", "horse"), ("BULL", "ox")):
        assert [taxonomy.taxa[index].name for index in taxonomy.find([other])] == [name]
    assert all(taxon.parent is None or taxon.parent < index for index, taxon in enumerate(taxonomy.taxa))


def test_prompt_files_say_it_beside_the_names(tmp_path):
    for name, text in SAME.items():
        if name in ("lines in any order", "parents"):  # each line of a prompt file is a class of its own
            continue
        (tmp_path / "p.txt").write_text(text)
        prompts = PromptSet.load(tmp_path / "p.txt")
        zebra, horse, ox = prompts.classes
        assert zebra == PromptClass("zebra")
        assert (horse, ox) == (PromptClass("horse", ("pony",)), PromptClass("ox", ("bull",)))
        assert "zebra < equid < mammal < animal" in chains(prompts.taxonomy)
    typed = PromptSet.load("zebra < equid < mammal, yak")
    assert typed.names == ("zebra", "yak")
    assert chains(typed.taxonomy) == {"mammal", "equid < mammal", "zebra < equid < mammal"}
    assert any("1 of 2 classes stand under others (zebra < equid); put a name that holds" in n for n in typed.notes)
    kept = tmp_path / "kept.txt"
    kept.write_text('"a < b"\na<b\nx <y\n')
    assert PromptSet.load(kept).names == ("a < b", "a<b", "x <y")
    assert PromptSet.load(kept).taxonomy is None


def test_lists_of_speciesnet(load):
    taxonomy = load(SPECIESNET)
    cougar = "puma concolor < puma < felidae < carnivora < mammalia < animal"
    found = {
        "puma": cougar,  # its common name goes before the name of its genus
        "Puma concolor": cougar,
        "puma species": cougar.removeprefix("puma concolor < "),
        "Cat family": "felidae < carnivora < mammalia < animal",
        "domestic_dog": "canis lupus familiaris < canis < canidae < carnivora < mammalia < animal",
        "blank": "blank",
    }
    for name, chain in found.items():
        assert [taxonomy.chain_of(index) for index in taxonomy.find([name])] == [chain]
    ranks = {taxon.name: taxon.rank for taxon in taxonomy.taxa}
    assert ranks == {
        **dict.fromkeys(("puma concolor", "canis lupus familiaris"), "species"),
        **dict.fromkeys(("puma", "canis"), "genus"),
        **dict.fromkeys(("felidae", "canidae"), "family"),
        "carnivora": "order",
        "mammalia": "class",
        "animal": "kingdom",
        "blank": None,
    }
    assert taxonomy.find(["okapi"]) == ()


def test_lists_of_gbif_give_a_class_both_names(load, tmp_path):
    taxonomy = load(GBIF, "gbif.tsv")
    zebra = "Equus quagga < Equus < Equidae < Perissodactyla < Mammalia < Chordata < Animalia"
    for name in ("plains zebra", "Equus_quagga"):
        assert [taxonomy.chain_of(index) for index in taxonomy.find([name])] == [zebra]
    assert taxonomy.find(["Equus quagga Boddaert, 1785"]) == ()
    assert taxonomy.chain_of(*taxonomy.find(["bison"])).startswith("Bison < Bovidae")
    (note,) = taxonomy.notes
    assert note.endswith("species; columns that are not used: taxonKey, taxonRank")
    (tmp_path / "gbif.tsv").write_text(GBIF)
    prompts = PromptSet.load(tmp_path / "gbif.tsv")
    assert prompts.classes == (
        PromptClass("Plains Zebra", ("Equus quagga",)),
        PromptClass("Bison bison"),
        PromptClass("Equus"),
    )
    assert prompts.taxonomy == taxonomy


def test_homonyms_are_told_apart_by_what_they_stand_under(load):
    """Of a bird and a plant; a row that lacks the family is of the same genus."""
    taxonomy = load(
        "kingdom,family,genus,species\nPlantae,Apiaceae,Oenanthe,crocata\nAnimalia,Muscicapidae,Oenanthe,oenanthe\n"
        "Animalia,,Oenanthe,deserti\n",
        "t.csv",
    )
    assert {chain for chain in chains(taxonomy) if chain.startswith("Oenanthe ")} == {
        "Oenanthe (Apiaceae) < Apiaceae < Plantae",
        "Oenanthe (Muscicapidae) < Muscicapidae < Animalia",
        "Oenanthe crocata < Oenanthe (Apiaceae) < Apiaceae < Plantae",
        "Oenanthe oenanthe < Oenanthe (Muscicapidae) < Muscicapidae < Animalia",
        "Oenanthe deserti < Oenanthe (Muscicapidae) < Muscicapidae < Animalia",
    }
    assert taxonomy.notes[-1].endswith("as many taxa: Oenanthe (Apiaceae), Oenanthe (Muscicapidae)")


def test_rows_of_one_taxon_lose_no_name(tmp_path):
    text = "family,genus,species,name\nEquidae,Equus,quagga,plains zebra\nEquidae,Equus,quagga,Burchell's zebra\n"
    (tmp_path / "t.csv").write_text(text + text.splitlines()[1] + "\n")
    prompts = PromptSet.load(tmp_path / "t.csv")
    assert prompts.classes == (PromptClass("plains zebra", ("Equus quagga", "Burchell's zebra")),)
    assert prompts.notes[-1].endswith("lines that repeat an earlier one: line 4")


WRONG = {
    "a circle": ("zebra < equid\nequid < mammal\nmammal < zebra\n", r"in a circle(.|\n)*line 1, line 2, line 3"),
    "under itself": ("zebra < zebra\n", r"in a circle(.|\n)*zebra < zebra \(line 1\)"),
    "two places": (
        "bat < bird < animal\nbat < mammal < animal\n",
        r"'bat' stands in two places(.|\n)*line 1(.|\n)*line 2",
    ),
    "a node in two places": ("a < b < c\nd < b < e\n", r"'b' stands in two places"),
    "the name of the root": (f"a < {ANY}\n", "is the node above all classes"),
    "reserved": ("a < none of these\n", "no class can have that name"),
    "nothing": ("\n \n", "is empty"),
    "no place": ("zebra\nhorse\n", "does not say where any class stands"),
    "an empty end": ("zebra < \n", "line 1: nothing stands on one side"),
    "two colons": ("zebra: a < equid: b\n", "other names in two places of one line"),
}
WRONG_TABLES = {
    "unknown columns": ("foo,bar\na,b\n", r"no column that is known(.|\n)*got: +foo,bar"),
    "a column twice": ("family,genus,Genus\na,b,c\n", r"a column stands there twice(.|\n)*genus"),
    "a cell too many": ("family,genus\na,b,c\n", r"line 2: 3 cells under 2 columns"),
    "a species of two families": (
        "family,genus,species\nEquidae,Equus,quagga\nBovidae,Equus,quagga\n",
        r"'Equus quagga' stands in two places(.|\n)*\(line 2\)(.|\n)*\(line 3\)",
    ),
    "a circle of parents": ("name,parent\na,b\nb,a\n", r"in a circle(.|\n)*a < b < a"),
    "no row": ("family,genus\n", "does not say where any class stands"),
    "a torn list": (SPECIESNET + "x;mammalia;;;;;y\n", r"line 7: not a line of SpeciesNet"),
}


@pytest.mark.parametrize(
    ("text", "message", "name"),
    [(*case, "t.txt") for case in WRONG.values()] + [(*case, "t.csv") for case in WRONG_TABLES.values()],
    ids=[*WRONG, *WRONG_TABLES],
)
def test_what_is_no_tree_is_named(load, text, message, name):
    with pytest.raises(DataError, match=message):
        load(text, name)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load_taxonomy(tmp_path / "none.csv")
    assert load_taxonomy(None) is None


def test_two_files_are_joined(load, tmp_path):
    """A name without a rank means the taxon that the other file calls so."""
    ranked = load(SPECIESNET)
    more = load("kitten < puma\nlynx < felidae\nfox < cat family < mammalia\n", "more.txt")
    both = joined(ranked, more, "both")
    found = {name: both.chain_of(*both.find([name])).split(" < ")[1] for name in ("kitten", "lynx", "fox")}
    assert found == {"kitten": "puma concolor", "lynx": "felidae", "fox": "felidae"}
    assert {taxon.rank for taxon in both.taxa if taxon.name in ("felidae", "mammalia")} == {"family", "class"}
    assert joined(None, more, "") is more
    assert joined(ranked, None, "") is ranked
    with pytest.raises(DataError, match="'felidae' stands in two places"):
        joined(ranked, load("felidae < bird", "wrong.txt"), "both")
