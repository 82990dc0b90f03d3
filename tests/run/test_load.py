"""What a run folder gives, and how classes and what speaks for them are joined; by an encoder of plain vectors."""

import re
from dataclasses import replace

import numpy as np
import pytest

from hybrid.config import EncoderSettings, HeadSettings
from hybrid.encoders.base import unit_norm
from hybrid.errors import ArtifactError, DataError, EncoderError, FewShotError, GateError
from hybrid.gate.decide import FittedGate
from hybrid.gate.gate import Gate
from hybrid.gate.gaussians import ClassGaussians
from hybrid.heads.linear import LinearHead
from hybrid.images.records import ImageRecord
from hybrid.index.store import EmbeddingStore, StoredImage
from hybrid.index.texts import text_key
from hybrid.labels.prompts import PromptClass, PromptSet, Templates
from hybrid.run import load as loading
from hybrid.run.classes import AddedClass, ClassesInfo, RunClasses, SupportClass
from hybrid.run.classes.pending import PendingIndex
from hybrid.run.files import HeadInfo, Layout, SavedPrompts, write_json, write_run
from hybrid.run.heads import HeadDraft
from hybrid.run.load import RunState, assemble, load_run

DIM = 24
BARE = Templates("bare", ("{}",))
SETTINGS = EncoderSettings(model="words", pretrained=None)


def direction(word):
    """A unit vector of its own for each word."""
    seed = np.frombuffer(word.casefold().encode(), np.uint8)
    return unit_norm(np.random.default_rng(seed).normal(size=(1, DIM)))[0]


class WordEncoder:
    """The vector of a text is that of its first word."""

    name = identity = "words"
    fingerprint = "words fp32"
    dim, logit_scale, notes = DIM, 10.0, ("the encoder's note",)

    def __init__(self, unknown=(), *, uses_templates=True):
        self.uses_templates = uses_templates
        self.unknown = set(unknown)
        self.prompted = []

    def can_encode(self, names):
        return [self.uses_templates or name not in self.unknown for name in names]

    def encode_texts(self, texts):
        self.prompted += texts
        if missing := [text for text in texts if text in self.unknown]:
            raise EncoderError(f"no text vector for {len(missing)} names", got=", ".join(missing))
        return np.stack([direction(text.split()[0]) for text in texts])


def shots_of(word, count, seed=0):
    """Embeddings near a word's vector, and contents."""
    noise = np.random.default_rng(seed).normal(size=(count, DIM))
    return unit_norm(direction(word) + 0.1 * noise), tuple(f"{word} {seed} {i}" for i in range(count))


def support(name, count, *, named=True, like=None, synonyms=(), seed=0):
    embeddings, hashes = shots_of(like or name, count, seed)
    return SupportClass(name, synonyms, named, hashes, embeddings.reshape(count, DIM))


SEEN = ("ant", "bee", "cat", "dog", "emu", "fox", "gnu", "hen", "ibex", "jay")


def head_of(classes):
    weight = np.stack([direction(name) for name in classes])
    return LinearHead(weight, np.zeros(len(classes), np.float32), tuple(classes), "words")


def gate_of(classes):
    embeddings = np.concatenate([shots_of(name, 4)[0] for name in classes])
    return FittedGate(Gate(), ClassGaussians.fit(embeddings, np.repeat(np.arange(len(classes)), 4), len(classes)))


def state_of(*support, prompts=None, seen=(), encoder=None, **changes):
    encoder = encoder or WordEncoder()
    return RunState(
        encoder=encoder,
        settings=SETTINGS,
        classes=RunClasses(ClassesInfo(), support, PendingIndex(None, (encoder.fingerprint,)), seen),
        prompts=prompts if prompts is None or isinstance(prompts, PromptSet) else PromptSet.from_names(prompts),
        templates=BARE,
        head=head_of(seen) if seen else None,
        gate=gate_of(seen) if seen else None,
        **changes,
    )


def with_support(state, *support, changed=False):
    classes = replace(state.classes, support=support, index=replace(state.classes.index, changed=changed))
    return replace(state, classes=classes)


# One label space


def test_each_class_has_its_vector_and_its_images():
    okapi, bare = support("okapi", 3), support("creature 7", 2, named=False, like="worm")
    joined = assemble(state_of(bare, okapi, support("yak", 0), prompts=["lion", "okra"], seen=SEEN))
    assert joined.space.names == (*SEEN, "lion", "okra", "yak", "okapi", "creature 7")
    np.testing.assert_allclose(joined.class_vectors, [direction(name) for name in joined.space.names[:-1]], rtol=1e-6)
    assert joined.class_vectors.dtype == np.float32
    assert joined.few_shot is None
    assert joined.support.place.tolist() == [14, 13]
    assert joined.support.counts.tolist() == [2, 3]
    assert (joined.support.prompted, joined.support.named) == (13, 14)
    np.testing.assert_allclose(joined.support.sums, [c.embeddings.sum(axis=0) for c in (bare, okapi)], rtol=1e-6)
    assert joined.notes == ("2 classes shown by labeled photos of the index: okapi (3), creature 7 (2, photos alone)",)


def test_images_of_two_classes_that_a_prompt_joins_are_added():
    prompts = PromptSet((PromptClass("otter", ("lontra",)),))
    otter, lontra = support("otter", 2), support("lontra", 3, like="otter", seed=1)
    hashes, embeddings = (*lontra.hashes, otter.hashes[0]), np.r_[lontra.embeddings, otter.embeddings[:1]]
    double = replace(lontra, hashes=hashes, embeddings=embeddings)
    joined = assemble(state_of(otter, double, prompts=prompts, seen=SEEN))
    assert joined.space.names == (*SEEN, "otter")
    assert joined.support.place.tolist() == [10]
    assert joined.support.counts.tolist() == [5], "the same content once"
    total = otter.embeddings.sum(axis=0) + lontra.embeddings.sum(axis=0)
    np.testing.assert_allclose(joined.support.sums[0], total, rtol=1e-6)
    with pytest.raises(ArtifactError, match="no class is named or shown") as caught:
        assemble(state_of())
    assert "add-class" in caught.value.fix


# Names that the encoder cannot use


def test_a_class_without_a_text_vector_is_known_by_its_images_alone():
    encoder = WordEncoder({"okapi", "yak"}, uses_templates=False)
    joined = assemble(state_of(support("okapi", 2), support("lion", 2), support("yak", 0), seen=SEEN, encoder=encoder))
    assert joined.space.names == (*SEEN, "lion", "okapi"), "of yak nothing is known"
    assert joined.space.image_only == 1
    assert joined.notes[0] == "okapi is known by its photos alone: the encoder has no text vector of this name"
    with pytest.raises(EncoderError, match="no text vector"):
        assemble(state_of(prompts=["okapi"], seen=SEEN, encoder=encoder))


def test_a_name_that_does_not_describe_the_images_is_not_used():
    xyzzy = support("xyzzy", 4, like="cat")
    own = xyzzy.embeddings @ np.stack([direction(name) for name in ("xyzzy", *SEEN)]).T
    assert np.sum((own > own[:, :1]).sum(axis=1) < 3) < 2, "of 4 photos, or the test says nothing"
    joined = assemble(state_of(xyzzy, support("okapi", 4), seen=SEEN))
    assert joined.space.names == (*SEEN, "okapi", "xyzzy")
    assert joined.space.image_only == 1
    assert [note for note in joined.notes if "WARNING" in note] == [
        "WARNING: the name xyzzy does not describe its photos: they alone speak for the class"
    ]
    # One image, or few names, are too little to judge it; one that was asked for is used.
    for state in (
        state_of(support("xyzzy", 1, like="cat"), seen=SEEN),
        state_of(xyzzy, seen=SEEN[:8]),
        state_of(xyzzy, seen=SEEN, prompts=["xyzzy"]),
    ):
        joined = assemble(state)
        assert joined.space.image_only == 0
        assert not any("WARNING" in note for note in joined.notes)


def test_whoever_joins_casts_no_doubt_on_those_that_are_there():
    # The images of "llama" lie nearest to three classes' names; only trained classes may judge it.
    words = ("moth", "newt", "orca")
    vectors = unit_norm(direction("llama") * 0.2 + sum(direction(word) for word in words) + np.zeros((3, DIM)))
    llama = SupportClass("llama", (), True, ("x", "y", "z"), vectors)
    for others in ([], [support(word, 2) for word in words], [support(word, 0) for word in words]):
        assert assemble(state_of(llama, *others, seen=SEEN)).space.image_only == 0


def test_a_class_that_the_prompts_call_something_else_is_told():
    names = PromptSet((PromptClass(SEEN[0], ("beast",)), PromptClass("okapi", ("forest giraffe",))))
    state = state_of(support("beast", 2), support("forest giraffe", 3), seen=SEEN)
    joined = assemble(replace(state, prompts=names))
    assert joined.space.names == (*SEEN, "okapi")
    assert joined.space.images_of(len(SEEN)) == 3
    assert "the prompts call beast a trained class: its photos do not count" in joined.notes
    assert "the prompts call forest giraffe okapi: its photos show that class" in joined.notes
    assert not any("the prompts call" in note for note in assemble(state).notes)


# Without a head


def test_the_expert_without_a_head():
    every = state_of(support("ant", 3), support("bee", 2))
    some = state_of(support("ant", 3), prompts=["bee"])
    none = state_of(prompts=["ant", "bee"])
    assert [type(assemble(s).few_shot).__name__ for s in (every, some, none)] == ["Posterior", "MeanCache", "NoneType"]
    assert "names and photos joined by posterior" in assemble(every).notes[-1]
    assert "names and photos joined by mean-cache" in assemble(some).notes[-1]
    assert "zero-shot only" in assemble(none).notes[-1]
    chosen = assemble(replace(every, few_shot="mean-cache"))
    assert type(chosen.few_shot).__name__ == "MeanCache"
    assert "joined by mean-cache" in chosen.notes[-1]


def test_the_order_of_the_images_changes_nothing():
    classes = [support("ant", 7), support("bee", 5, like="ant", seed=3), support("cat", 2, named=False)]
    images = unit_norm(np.random.default_rng(5).normal(size=(9, DIM)))
    rng = np.random.default_rng(0)
    for name in ("posterior", "mean-cache"):
        expected = assemble(state_of(*classes, few_shot=name)).few_shot.logits(images)
        for _ in range(3):
            mixed = []
            for cls in classes:
                order = rng.permutation(len(cls.hashes))
                hashes = tuple(cls.hashes[i] for i in order)
                mixed.append(replace(cls, hashes=hashes, embeddings=cls.embeddings[order]))
            np.testing.assert_array_equal(assemble(state_of(*mixed, few_shot=name)).few_shot.logits(images), expected)


def test_a_class_without_images_is_left_to_its_name_and_one_without_a_name_to_its_images():
    joined = assemble(state_of(support("ant", 3), prompts=["bee", "cat"]))
    images = np.stack([direction("bee"), direction("cat")])
    zero_shot = 10 * images @ joined.class_vectors.T
    np.testing.assert_allclose(joined.few_shot.logits(images)[:, :2], zero_shot[:, :2], rtol=1e-5)
    joined = assemble(state_of(support("a", 3, named=False), support("b", 3, named=False)))
    assert joined.class_vectors is None
    assert joined.few_shot.logits(np.stack([direction("a"), direction("b")])).argmax(axis=1).tolist() == [0, 1]


def test_nothing_tells_how_images_weigh_against_names():
    bare = support("creature 7", 3, named=False)
    with pytest.raises(FewShotError, match="how photos weigh against names") as caught:
        assemble(state_of(bare, prompts=["ant", "bee"]))
    assert caught.value.got == "photos alone for creature 7"
    assert assemble(state_of(bare, support("ant", 1), prompts=["ant", "bee"])).space.named == 2


# Texts are embedded once


def test_a_class_that_is_there_is_not_embedded_again():
    encoder = WordEncoder()
    made = state_of(prompts=["lion", "okra"], seen=SEEN, encoder=encoder)
    before = assemble(made)
    assert sorted(encoder.prompted) == sorted([*SEEN, "lion", "okra"])
    encoder.prompted.clear()
    after = assemble(with_support(made, support("okapi", 2)))
    assert encoder.prompted == ["okapi"]
    np.testing.assert_array_equal(after.class_vectors[:-1], before.class_vectors)


@pytest.fixture
def layout(tmp_path, monkeypatch):
    """An index of the word encoder: 2 images of ant, 3 of okapi, 2 of yak that are of split test."""
    encoder, layout = WordEncoder(), Layout(tmp_path / "run")
    monkeypatch.setattr(loading, "load_encoder", lambda *given: encoder)
    write_run(layout, SETTINGS, encoder)
    with EmbeddingStore(layout.store) as store:
        for label, count, split in (("ant", 2, None), ("okapi", 3, "train"), ("yak", 2, "test")):
            embeddings, hashes = shots_of(label, count)
            images = [StoredImage(ImageRecord(f"/{h}", "/", label, split, 1, 1), h) for h in hashes]
            store.write_batch(images, dict(zip(hashes, embeddings, strict=True)), encoder.fingerprint)
    return layout


def test_vectors_are_kept_in_the_run_only_while_it_is_read(layout):
    made = read(layout, prompts=["lion"])
    texts = ["a photo of a lion.", "a photo of a okapi."]

    def cached():
        with EmbeddingStore(layout.store) as store:
            return sorted(store.texts([*texts, "a photo of a gnu."], text_key("words fp32")))

    assemble(made)
    assert cached() == texts
    assemble(with_support(made, *made.classes.support, support("gnu", 1), changed=True))
    assert cached() == texts
    made.encoder.prompted.clear()
    assemble(read(layout, prompts=["lion", "okapi"]))
    assert "a photo of a lion." not in made.encoder.prompted


# What a folder gives


def read(layout, prompts=None, templates=None, few_shot=None, regions=None):
    prompts = None if prompts is None else PromptSet.from_names(prompts)
    return load_run(layout.root, prompts, templates, None, "cpu", regions, few_shot)


def test_an_index_without_a_head(layout):
    made = read(layout)
    assert (made.head, made.gate, made.prompts, made.layout) == (None, None, None, layout)
    assert [(c.name, len(c.hashes)) for c in made.classes.support] == [("ant", 2), ("okapi", 3)]
    assert (made.templates.name, made.notes, made.trained_on) == ("simple", ("the encoder's note",), frozenset())
    assert (made.classes.index.changed, made.classes.touched) == (False, frozenset())
    write_json(layout.classes, ClassesInfo(added=(AddedClass(name="Okapi", synonyms=("x",)), AddedClass(name="emu"))))
    made = read(layout)
    assert [c.name for c in made.classes.support] == ["Okapi", "emu", "ant"]
    assert [entry.name for entry in made.classes.info.added] == ["Okapi", "emu"]


def test_what_was_saved_is_asked_for_unless_other_names_are(layout, tmp_path):
    write_json(layout.prompts, SavedPrompts(classes=(PromptClass("lion", ("cat",)),), templates=BARE))
    assert read(layout).prompts == PromptSet((PromptClass("lion", ("cat",)),))
    assert read(layout).templates == read(layout, prompts=["emu"]).templates == BARE
    assert read(layout, prompts=["emu"]).prompts.names == ("emu",)
    assert read(layout, templates="simple").templates.name == "simple"
    write_json(layout.prompts, SavedPrompts(classes=()))
    assert read(layout).prompts is None
    assert read(layout).templates.name == "simple"


def test_no_run(tmp_path, layout):
    with pytest.raises(ArtifactError, match=r"no run at .* and no class is named") as caught:
        read(Layout(tmp_path / "none"))
    assert "--prompts" in caught.value.fix
    made = read(Layout(tmp_path / "none"), prompts=["emu"], few_shot="posterior")
    assert (made.layout, made.classes.support, made.few_shot) == (None, (), "posterior")
    assert not (tmp_path / "none").exists()


def test_another_encoder(layout):
    loaded = loading.load_encoder(SETTINGS, "cpu")
    loaded.fingerprint = "words bf16"  # vectors of another precision serve
    assert [(c.name, len(c.hashes)) for c in read(layout).classes.support] == [("ant", 2), ("okapi", 3)]
    with pytest.raises(ArtifactError, match="regions are votes of a head"):
        read(layout, regions="tiles")
    loaded.identity = "letters"
    with pytest.raises(ArtifactError, match="the run's index was made with another encoder") as caught:
        read(layout)
    assert (caught.value.expected, caught.value.got) == ("words", "letters (words)")


def give_head(layout, fitted, left_out=()):
    parts = {"settings": HeadSettings(kind="linear"), "classes": ("ant", "bee"), "encoder_identity": "words"}
    info = HeadInfo(train_photos=2, val_photos=0, trained_on=("h1", "h2"), left_out=left_out, **parts)
    with HeadDraft(layout) as draft:
        draft.save(head_of(("ant", "bee")), info)
        draft.save_gate(fitted, WordEncoder(), BARE)
        draft.publish()


def test_labels_that_the_head_does_not_know_join(layout):
    give_head(layout, replace(gate_of(("ant", "bee")), reason="few photos"))
    made = read(layout, prompts=["emu"])
    assert [c.name for c in made.classes.support] == ["okapi"]
    assert made.trained_on == {"h1", "h2"}
    assert made.templates == BARE
    assert made.notes[-1] == "WARNING: the gate is the documented prior, not fitted: few photos"
    assert assemble(made).space.names == ("ant", "bee", "emu", "okapi")
    give_head(layout, gate_of(("ant", "bee")), left_out=("okapi",))
    assert read(layout).classes.support == ()
    write_json(layout.classes, ClassesInfo(added=(AddedClass(name="okapi"),)))
    assert [c.name for c in read(layout).classes.support] == ["okapi"]


def test_prompts_are_compared_with_the_classes_of_the_run(layout):
    give_head(layout, gate_of(("ant", "bee")))
    notes = read(layout, prompts=["Ant", "ants", "OKAPI", "emu"]).notes
    assert "prompts that are a class in another spelling: 'Ant' is 'ant', 'OKAPI' is 'okapi'" in notes
    assert "WARNING: prompts that are no class so far, did you mean 'ant' for 'ants'?" in notes
    strict = {"device": "cpu", "strict_names": True}
    assert load_run(layout.root, PromptSet.from_names(["ant", "emu"]), **strict).prompts.names == ("ant", "emu")
    with pytest.raises(DataError, match=r"'okapi' for 'okapis'(.|\n)*strict"):
        load_run(layout.root, PromptSet.from_names(["okapis"]), **strict)
    with pytest.raises(DataError, match="a synonym of 'insect' is the trained class 'ant'"):
        load_run(layout.root, PromptSet((PromptClass("insect", ("Ant",)),)), device="cpu")


def test_saved_prompts_that_are_refused_by_now_still_load(layout):
    give_head(layout, gate_of(("ant", "bee")))
    saved = (PromptClass("insect", ("ant",)), PromptClass("hot dog"), PromptClass("hotdog"))
    write_json(layout.prompts, SavedPrompts(classes=saved))
    made = read(layout)
    assert made.prompts.classes == saved
    space = assemble(made).space
    assert space.names == ("ant", "bee", "hot dog", "hotdog", "okapi")
    assert [space.index_of(name) for name in ("insect", "hot dog", "hotdog", "HotDog")] == [0, 2, 3, 2]


def test_a_label_in_another_spelling_than_the_heads_class_is_told(layout):
    give_head(layout, gate_of(("ant", "bee")))
    with EmbeddingStore(layout.store) as store:
        image = StoredImage(ImageRecord("/more.jpg", "/", "ANT", None, 1, 1), "more")
        store.write_batch([image], {"more": direction("ant")}, "words fp32")
    made = read(layout)
    assert "labels that are one class in several spellings: 'ANT' and 'ant' as ant" in made.notes
    assert [c.name for c in made.classes.support] == ["okapi"]


def test_a_head_without_a_gate_stays_alone(layout):
    give_head(layout, FittedGate(reason="no names"))
    made = read(layout)
    assert made.classes.support == ()
    assert made.gate is None
    assert made.notes[-2:] == (
        "no gate: no names",
        "left out: okapi; only a gate can weigh classes shown by photos against trained ones",
    )
    joined = assemble(made)
    assert joined.space.names == ("ant", "bee")
    assert joined.class_vectors is joined.support is joined.few_shot is None
    assert read(layout, prompts=["ANT"]).prompts.names == ("ANT",)
    with pytest.raises(GateError, match=re.escape("no gate, so trained and named classes")):
        read(layout, prompts=["ant", "emu"])
