"""`Run`: the folder that holds index, head, gate and settings, as an object that does what the commands do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid.config import EncoderSettings, Regions, convert
from hybrid.encoders import load_encoder
from hybrid.encoders.base import Encoder, Identified, decoder_of, expand_user
from hybrid.encoders.presets import expand
from hybrid.encoders.registry import split_prefix
from hybrid.errors import ArtifactError, ConfigError, DataError, check_installed
from hybrid.heads.training.progress import OnStep, show_nothing
from hybrid.images.decoders import choose_decoder
from hybrid.images.detections import Crops, Detections
from hybrid.images.inputs import Images, MemoryRecord, to_records
from hybrid.images.records import ImageRecord, Stamp
from hybrid.images.sources import Scan, scan
from hybrid.index.given import GivenLabel, user
from hybrid.index.schema import is_blank
from hybrid.index.store import EmbeddingStore
from hybrid.index.texts import TextBar, no_bar
from hybrid.labels.names import check_not_reserved
from hybrid.run.classes.change import AddSummary, RemoveSummary, add_class, remove_class
from hybrid.run.files import HeadInfo, Layout, RunInfo, check_store, note_store, read_info, read_run, write_run
from hybrid.run.heads import adopt_head, read_head_info, writing
from hybrid.run.held_out import held_out
from hybrid.run.labels import HASH, UNSET, LabelRequest, LabelSummary, Unset, give_labels, take_back
from hybrid.run.pull import local_run

if TYPE_CHECKING:
    from hybrid.classifier import HybridClassifier, Prompts
    from hybrid.evaluation.results import Evaluation
    from hybrid.export.bundle import ExportSummary
    from hybrid.gate.policy import Policy
    from hybrid.index.build import IndexSummary
    from hybrid.labels.taxonomy import Taxonomy
    from hybrid.run.check import Part
    from hybrid.run.load import RunState
    from hybrid.tools.audit.audit import Audit
    from hybrid.tools.audit.quality import QualityLimits
    from hybrid.tools.explain.explain import Explained
    from hybrid.tools.search.search import Hit

Sources = str | Path | Sequence[str | Path]


def _silent(line: str) -> None:
    """Say nothing."""


def _no_progress(count: int) -> None:
    """Show nothing."""


class Run:
    """A run: opened, or created by the first `index`.

    Parameters
    ----------
    folder : str or Path
        Or ``hf://OWNER/NAME[@REVISION]``, a run on the model hub, to read from.
    encoder : str, optional
        An open_clip model, model folder, ``hf-hub:REPO``, ``tiny`` (bundled), ``precomputed:FILE.npz``, or a short name
        of `hybrid.encoders.presets.PRESETS`. Default: the run's own, else ViT-B-32-256.
    pretrained : str, optional
        open_clip tag or checkpoint file. Default: that of the default encoder, where this is it.
    precision : str, optional
        ``auto``, ``fp32``, ``bf16`` or ``fp16``: how the encoder computes.
    device : str
        See `hybrid.device.resolve`.
    decoder : str
        What decodes images: ``auto``, ``cpu``, ``nvjpeg``, ``libjpeg-turbo`` or ``pillow``. ``auto``: what the run's
        index was made with, else nvJPEG on CUDA.
    say : callable, optional
        Called with each note for people, such as what was loaded on which device and why. Default: they are not shown.
    wait : bool
        Wait where another command writes to the run; False: ArtifactError then.
    text_bar : callable, optional
        Opens a bar where `classifier` has many texts to encode. Default: none is shown.

    Examples
    --------
    >>> run = Run("runs/animals", encoder="tiny")
    >>> run.index("photos/train")
    >>> run.train(head="linear")
    >>> run.classifier(prompts=["okapi", "zebra"]).predict("photos/new")
    """

    def __init__(
        self,
        folder: str | Path = "runs/default",
        *,
        encoder: str | None = None,
        pretrained: str | None = None,
        precision: str | None = None,
        device: str = "auto",
        decoder: str = "auto",
        say: Callable[[str], None] = _silent,
        wait: bool = True,
        text_bar: TextBar = no_bar,
    ) -> None:
        self.folder, self.device, self.decoder, self.wait = local_run(folder), device, decoder, wait
        self.layout = Layout(self.folder)
        self._given = (*expand(encoder, pretrained), precision)
        self._say, self._text_bar = say, text_bar

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def info(self) -> RunInfo:
        """Which encoder the index was made with; ArtifactError where there is no run yet."""
        return read_run(self.layout)

    @property
    def head(self) -> HeadInfo | None:
        """What the head is and what it was trained on; None where there is none."""
        return read_head_info(self.layout)

    @property
    def settings(self) -> EncoderSettings:
        """The encoder's settings: what was given, before the run's own, before the default.

        Raises
        ------
        ConfigError
            If another model than the default is named without its weights.
        """
        return chosen_settings(*self._given, read_info(self.layout).encoder if self.layout.run.is_file() else None)

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder, loaded at the first use."""
        encoder = self._load_encoder()
        for note in encoder.notes:
            self._say(note)
        return encoder

    def _load_encoder(self) -> Encoder:
        index = read_info(self.layout).encoder_fingerprint if self.layout.run.is_file() else None
        return load_encoder(self.settings, self.device, self.decoder, index)

    def index(
        self,
        sources: Sources | Scan,
        *,
        labels: bool = True,
        replace: bool = False,
        prune: bool = False,
        verify: bool = False,
        batch_size: int | None = None,
        workers: int | None = None,
        progress: Callable[[int], None] = _no_progress,
        detections: Detections | str | Path | None = None,
    ) -> IndexSummary:
        """Embed images and cache the vectors; only what is new or changed is computed.

        Parameters
        ----------
        sources : str, Path or a sequence of them, or what was found there
            Class folders, plain folders, manifests (CSV, Parquet), WebDataset shards, images.
        labels : bool
            Whether folders and files give class labels.
        replace : bool
            Forget images of sources that are not named in this call.
        verify : bool
            See `hybrid.index.build.build_index`.
        prune : bool
            Forget images of sources and folders that have become empty, lost most of their images or do not exist any
            more; else they stay, or are asked about.
        batch_size, workers, progress
            See `hybrid.index.build.build_index`.
        detections : Detections, str or Path, optional
            What a detector found in the images: MegaDetector's JSON or COCO annotations. Each box of an animal is an
            image of its own, with the label of its photo; of photos without one, nothing is indexed.

        Raises
        ------
        HybridError
            If a source or the encoder cannot be read.
        """
        if not isinstance(sources, Scan):
            named = [sources] if isinstance(sources, str | Path) else list(sources)
            sources = scan(named, labeled=labels, keep_empty=True)
        found = sources
        without_boxes: list[str] = []
        if detections is not None:
            crops = _crop(found, detections, labeled=labels)
            found, without_boxes = crops.scan, crops.without_boxes("indexed")
        for note in (*found.notes, *without_boxes):
            self._say(note)
        return self._index(
            found,
            replace=replace,
            prune=prune,
            verify=verify,
            batch_size=batch_size,
            workers=workers,
            progress=progress,
        )

    def index_labeled(self, images: Images, labels: Sequence[str]) -> IndexSummary:
        """Index images of any kind with their labels; those in memory are written into the run folder first.

        Raises
        ------
        HybridError
            If there is not one label per image, or the encoder cannot be loaded.
        """
        records = to_records(images)
        if len(records) != len(labels):
            raise DataError(
                "images and labels do not fit together",
                expected="one label per image",
                got=f"{len(records)} images and {len(labels)} labels",
                fix="give one label for each image",
            )
        folder = self.folder.absolute() / "images"
        source = str(folder)
        own = [
            replace(_as_file(record, folder / f"{i:06d}.bmp"), source=source, label=_label(label, i), split=None)
            for i, (record, label) in enumerate(zip(records, labels, strict=True))
        ]
        return self._index(Scan(tuple(own), (), (source,)), may_shrink=True)

    def _index(self, found: Scan, **options: Any) -> IndexSummary:
        from hybrid.index.build import build_index

        check_not_reserved({record.label for record in found.records}, "the labels of the sources")
        if not self.layout.store.is_file():
            found = found.without_empty()
        settings = self.settings
        self.encoder.check(found.records)
        if decoder_of(self.encoder) is None:
            self._say(choose_decoder()[1])

        def fill(store: EmbeddingStore) -> IndexSummary:
            return build_index(found, self.encoder, store, **options)

        return self._fill("build-index", settings, lambda: self.settings, self.encoder, fill)

    def import_index(
        self,
        folder: str | Path,
        *,
        labeled_only: bool = False,
        partial: bool = False,
        progress: Callable[[int], None] = _no_progress,
    ) -> IndexSummary:
        """Bring vectors into the index that ``hybrid embed`` made; no image is read, and no encoder loaded.

        Images of the index that the plan does not have stay. Only what is new or changed is written.

        Parameters
        ----------
        folder : str or Path
            Of the plan; or its URL.
        labeled_only : bool
            Leave images without a label out: the archive has them.
        partial : bool
            Do with the parts that there are.
        progress : callable
            Called with the number of images finished since the last call.

        Raises
        ------
        HybridError
            If there is no such plan, a part is missing or damaged, or the run's vectors are of another encoder.
        """
        from hybrid.cluster.imports import PlannedEncoder, import_parts, settings_for
        from hybrid.cluster.plan import PlanFolder

        planned = PlanFolder.at(folder)
        plan = planned.read()

        def fill(store: EmbeddingStore) -> IndexSummary:
            return import_parts(planned, plan, store, labeled_only=labeled_only, partial=partial, progress=progress)

        def settings() -> EncoderSettings:
            return settings_for(plan, self.layout)

        return self._fill("import-index", settings(), settings, PlannedEncoder.of(plan), fill)

    def _fill(
        self,
        command: str,
        settings: EncoderSettings,
        settings_now: Callable[[], EncoderSettings],
        encoder: Identified,
        fill: Callable[[EmbeddingStore], IndexSummary],
    ) -> IndexSummary:
        """Let one function write images and vectors of an encoder, and bring all else that rests on them up to date."""
        from hybrid.index.build import change_notes
        from hybrid.index.neighbors import open_index

        with writing(self.layout, command, wait=self.wait):
            if (now := settings_now()) != settings:
                raise ArtifactError(
                    "another command gave the run another encoder meanwhile",
                    expected=f"{settings.model} / {settings.pretrained}",
                    got=f"{now.model} / {now.pretrained}",
                    fix="run the same command again",
                )
            self._check_index()
            with EmbeddingStore(self.layout.store) as store:
                self._note_index(settings, encoder)
                summary = fill(store)
                empty = store.is_empty
                neighbors = None if empty else open_index(store, encoder.fingerprint, self.layout.neighbors)
            note_store(self.layout)
        for note in neighbors.notes if neighbors is not None else ():
            self._say(note)
        summary.vectors = len(neighbors) if neighbors is not None else 0
        for note in change_notes(summary):
            self._say(note)
        return summary

    def _check_index(self) -> None:
        """Refuse the index of another run; an older one is brought up to date, one that is gone or empty made anew."""
        if not self.layout.run.is_file():
            return
        info = read_info(self.layout)
        if not is_blank(self.layout.store):
            if not check_store(self.layout, info, may_be_older=True):
                self._say(
                    f"WARNING: {self.layout.store} is older than the run: restored from a backup? It is brought up to "
                    "date with the sources given here; hybrid add-class brings photos back that were added since"
                )
        elif info.store is not None:
            how = "empty" if self.layout.store.is_file() else "gone"
            self._say(f"WARNING: {self.layout.store} is {how}; it is made anew")

    def _note_index(self, settings: EncoderSettings, encoder: Identified) -> None:
        """Write ``run.json``; where it was lost, the head that it named answers again."""
        lost = not self.layout.run.is_file()
        before = None if lost else read_info(self.layout)
        write_run(self.layout, settings, encoder)
        if before is not None and before.encoder_identity != encoder.identity:
            trained = ", and then hybrid train-head: the head's gate is of the old one" if before.head else ""
            self._say(
                f"WARNING: the run's encoder was {before.encoder_name} and is now {encoder.name}; photos have no "
                f"vector of the new one until hybrid build-index is given their sources again{trained}"
            )
        if lost and (head := adopt_head(self.layout)):
            self._say(f"WARNING: run.json was gone; the head in {self.layout.root / head} answers again")

    def train(
        self,
        recipe: str | Path = "convnext-tiny",
        *,
        head: str | None = None,
        classes: Sequence[str] | None = None,
        templates: str = "simple",
        fresh: bool = False,
        track: str | None = None,
        assignments: Sequence[str] = (),
        **settings: Any,
    ) -> HeadInfo | None:
        """Train a head on the index's labeled images and fit the gate; the old head stays until all is written.

        Parameters
        ----------
        recipe : str or Path
            A name that ``hybrid recipes`` lists, or a TOML file of settings.
        head : {"backbone", "linear"}, optional
            A fine-tuned timm network, or logistic regression on the embeddings. Default: the recipe's.
        classes : sequence of str, optional
            The seen classes. Default: every label of the index.
        templates : str
            Prompt templates that the gate is fitted with.
        fresh : bool
            Do not go on from an unfinished training.
        track : {"tensorboard", "wandb", "mlflow"}, optional
            A tracker that gets settings, epochs and final figures.
        assignments : sequence of str
            Settings as text, ``KEY=VALUE``.
        **settings
            Any setting of a recipe, such as ``epochs=5``.

        Returns
        -------
        HeadInfo, or None in all processes of a launch but the first

        Raises
        ------
        HybridError
            See `hybrid.run.train.train_run`.
        """
        from hybrid.device import resolve
        from hybrid.heads.recipes import load_recipe
        from hybrid.labels.prompts import prompt_set
        from hybrid.run.train import train_run

        read_run(self.layout)  # before the encoder, which takes a while
        seen = prompt_set(classes)
        chosen = load_recipe(recipe, assignments, {"kind": head, **settings})
        how = partial(train_run, templates=templates, fresh=fresh, say=self._say, wait=self.wait, track=track)
        return how(self.layout, self.encoder, chosen, resolve(self.device), limit_to=seen.names if seen else None)

    def fit_gate(
        self, *, gate_folds: str | None = None, templates: str | None = None, on_step: OnStep = show_nothing
    ) -> None:
        """Fit the gate of the run's head anew: after new images joined the index, or with other templates.

        Raises
        ------
        HybridError
            See `hybrid.run.train.refit_gate`; the old gate stays.
        """
        from hybrid.device import resolve
        from hybrid.run.train import refit_gate

        read_run(self.layout)
        compute = resolve(self.device)
        refit_gate(
            self.layout,
            self.encoder,
            compute,
            gate_folds=gate_folds,
            templates=templates,
            say=self._say,
            wait=self.wait,
            on_step=on_step,
        )

    def add_class(
        self,
        name: str,
        images: Images | None = None,
        *,
        synonyms: Sequence[str] = (),
        named: bool | None = None,
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> AddSummary:
        """Let a class join by images, by name or by both, without training; again, to give it more images.

        Parameters
        ----------
        name : str
        images : as for `HybridClassifier.predict`, optional
        synonyms : sequence of str
            Other names; they take the place of those that were given before.
        named : bool, optional
            False: images alone speak for the class. Default: as before, True for a class that is new.

        Raises
        ------
        HybridError
            See `hybrid.run.classes.change.join_class`; nothing has changed then.
        """
        read_run(self.layout)  # before the encoder, which takes a while
        records = () if images is None else to_records(images)
        return add_class(
            self.layout,
            self.encoder,
            name,
            records,
            synonyms=synonyms,
            named=named,
            batch_size=batch_size,
            workers=workers,
            wait=self.wait,
        )

    def remove_class(self, name: str) -> RemoveSummary:
        """Let a class leave that the head was not trained on: its names, and its images in the index."""
        return remove_class(self.layout, name, wait=self.wait)

    def label(
        self,
        images: Images,
        label: str,
        *,
        by: str | None = None,
        why: str = "person",
        was: str | Unset | None = UNSET,
    ) -> LabelSummary:
        """Give images a label, whatever their sources say; it holds in every command from now on.

        Parameters
        ----------
        images : as for `HybridClassifier.predict`, or content hashes of the index
        label : str
            A class in any spelling, a new class, or ``none of these``.
        by : str, optional
            Who says so. Default: the name of the user.
        why : str
            How the images were found: ``random`` where they were drawn at random, so that they may be held out.
        was : str, None or UNSET
            What the label in force is believed to be; LabelConflictError if it is another one.

        Raises
        ------
        HybridError
            See `hybrid.run.labels.give_labels`; nothing has changed then.
        """
        hashes = [images] if isinstance(images, str) else images
        if isinstance(hashes, list | tuple) and all(isinstance(one, str) and HASH.fullmatch(one) for one in hashes):
            named: list[ImageRecord | str] = [str(one) for one in hashes]
        else:
            named = list(to_records(images))
        return self.give_labels([LabelRequest(one, label, why, was) for one in named], by=by)

    def give_labels(self, requests: Sequence[LabelRequest], *, by: str | None = None) -> LabelSummary:
        """Give labels to images, each its own; see `hybrid.run.labels.give_labels`."""
        return give_labels(self.layout, requests, lambda: self.encoder, by=by or user(), wait=self.wait)

    def undo_labels(
        self, ids: Sequence[int] | None = None, *, count: int = 1, by: str | None = None
    ) -> list[GivenLabel]:
        """Take labels back that people gave: those of these ids, else the last `count`.

        Returns
        -------
        list of GivenLabel
            Newest first.

        Raises
        ------
        DataError
            If there is no such label, or it was taken back before.
        """
        return take_back(self.layout, ids, count=count, by=by or user(), wait=self.wait)

    def label_history(self) -> list[GivenLabel]:
        """Every label that a person gave, and what was taken back, oldest first."""
        read_run(self.layout)
        with EmbeddingStore(self.layout.store, read_only=True) as store:
            return store.given_labels()

    def classifier(
        self,
        prompts: Prompts | None = None,
        *,
        templates: str | None = None,
        policy: Policy | None = None,
        regions: Regions | None = None,
        few_shot: str | None = None,
        strict_names: bool = False,
        taxonomy: Taxonomy | str | Path | None = None,
    ) -> HybridClassifier:
        """Load the run and join it with the named classes; zero-shot alone where there is no run.

        Parameters
        ----------
        prompts, templates, policy, regions, few_shot, strict_names, taxonomy
            See `HybridClassifier.from_run`.

        Raises
        ------
        ConfigError
            If this object names another encoder than the run has: its index and gate would not fit.
        HybridError
            If parts are missing or do not fit together.
        """
        from hybrid.classifier import HybridClassifier

        state = self.state(
            prompts,
            templates=templates,
            regions=regions,
            few_shot=few_shot,
            strict_names=strict_names,
            taxonomy=taxonomy,
        )
        classifier = HybridClassifier.of(state, policy)
        for note in classifier.notes:
            self._say(note)
        return classifier

    def state(
        self,
        prompts: Prompts | None = None,
        *,
        templates: str | None = None,
        regions: Regions | None = None,
        few_shot: str | None = None,
        strict_names: bool = False,
        taxonomy: Taxonomy | str | Path | None = None,
    ) -> RunState:
        """Read what a classifier is made of; parameters and errors as those of `classifier`."""
        from hybrid.labels.prompts import prompt_set
        from hybrid.labels.taxonomy_files import load_taxonomy
        from hybrid.run.load import load_run

        settings, recorded = self.settings, self.info.encoder if self.layout.run.is_file() else None
        if recorded and (settings.model, settings.pretrained) != (recorded.model, recorded.pretrained):
            raise ConfigError(
                f"the run {self.folder} has another encoder",
                expected=_called(recorded),
                got=_called(settings),
                fix="leave --encoder out, or use another --run",
            )
        # A precision or decoder that was asked for counts, also where the run has another one.
        asked = self.decoder != "auto" or (recorded is not None and settings != recorded)
        if asked and "encoder" not in self.__dict__:
            self.__dict__["encoder"] = self._load_encoder()
        loaded = self.__dict__.get("encoder")
        named, placed = prompt_set(prompts), load_taxonomy(taxonomy)
        return load_run(
            self.folder,
            named,
            templates,
            settings,
            self.device,
            regions,
            few_shot,
            loaded,
            strict_names=strict_names,
            text_bar=self._text_bar,
            taxonomy=placed,
        )

    def export(
        self,
        out: str | Path,
        prompts: Prompts | None = None,
        *,
        templates: str | None = None,
        policy: Policy | None = None,
        regions: Regions | None = None,
        strict_names: bool = False,
        taxonomy: Taxonomy | str | Path | None = None,
        text: bool = True,
    ) -> ExportSummary:
        """Write the run, in single precision, to one file that answers without torch; see `hybrid.lite.load`.

        Parameters
        ----------
        out : str or Path
            Such as ``animals.hybrid``; it is replaced if it exists.
        prompts, templates, policy, regions, strict_names, taxonomy
            See `HybridClassifier.from_run`.
        text : bool
            Whether new classes can be named in the bundle, by a text tower.

        Raises
        ------
        HybridError
            If parts are missing, or something of the run cannot be exported; it says what.
        """
        from hybrid.export.bundle import PACKAGES, export_bundle

        check_installed("export", "export", *PACKAGES)
        model, pretrained, _ = self._given
        exact = Run(
            self.folder,
            encoder=model,
            pretrained=pretrained,
            precision="fp32",
            device="cpu",
            decoder="cpu",
            say=self._say,
            text_bar=self._text_bar,
        )
        classifier = exact.classifier(
            prompts,
            templates=templates,
            policy=policy,
            regions=regions,
            strict_names=strict_names,
            taxonomy=taxonomy,
        )
        return export_bundle(classifier, Path(out), self._say, text=text)

    def evaluate(
        self,
        images: Sources | None = None,
        prompts: Prompts | None = None,
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        progress: Callable[[int], None] = _no_progress,
        strict_names: bool = False,
        detections: Detections | str | Path | None = None,
        **options: Any,
    ) -> Evaluation:
        """Score head, zero-shot and hybrid side by side on labeled images.

        Parameters
        ----------
        images : sources as `index` takes them, optional
            Default: labeled images of the index that the head was not trained on; see `hybrid.run.held_out`.
        prompts, **options
            As for `classifier`.
        batch_size, workers, progress, strict_names
            See `hybrid.evaluation.evaluate.evaluate`.
        detections : Detections, str or Path, optional
            As for `index`: boxes are scored, each by the label of its photo.
        """
        from hybrid.evaluation.evaluate import evaluate

        if images is None:
            found = held_out(self.layout)
        else:
            found = scan([images] if isinstance(images, str | Path) else list(images))
        if detections is not None:
            found = _crop(found, detections).scan
        classifier = self.classifier(prompts, strict_names=strict_names, **options)
        result = evaluate(
            classifier.fitted,
            found.records,
            batch_size=batch_size,
            workers=workers,
            progress=progress,
            strict_names=strict_names,
        )
        return replace(result, unreadable=(*found.unread, *result.unreadable))

    def push(
        self,
        repository: str,
        prompts: Prompts | None = None,
        *,
        evaluation: Evaluation | None = None,
        public_encoder: str | None = None,
        with_index: bool = False,
        license: str | None = None,  # noqa: A002 - as the hub calls it
        private: bool | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> str:
        """Put the run on the model hub, from where `HybridClassifier.from_pretrained` loads it.

        Parameters
        ----------
        repository : str
            ``OWNER/NAME``.
        prompts : PromptSet, names, str or Path, optional
            Classes that it names where nobody asks for others.
        evaluation : Evaluation, optional
            What `evaluate` gave, for the card.
        public_encoder, with_index, license
            See `hybrid.hub.push.Publication`.
        private, revision, token
            See `hybrid.hub.push.push`.

        Returns
        -------
        str
            Address of the commit.

        Raises
        ------
        HybridError
            If nobody else could load the encoder, or the hub cannot be reached or refuses.
        """
        from hybrid.hub.push import Publication, push

        how = Publication(repository, public_encoder, with_index, license, evaluation)
        fitted = self.classifier(prompts).fitted
        return push(fitted, how, private=private, revision=revision, token=token)

    def search(
        self,
        text: str | None = None,
        *,
        image: Images | None = None,
        top_k: int = 20,
        label: str | None = None,
        templates: str = "simple",
    ) -> list[Hit]:
        """Find the images of the index that are most like a text or an image.

        Parameters
        ----------
        text : str, optional
            What the images show, such as "a striped horse".
        image : one image, as `HybridClassifier.predict` takes it, optional
        top_k : int
        label : str, optional
            Only images with this label.
        templates : str
            Sentences that the text is put into.

        Raises
        ------
        ConfigError
            If both or neither of text and image are given, or several images.
        HybridError
            See `hybrid.tools.search.search.search`.
        """
        from hybrid.labels.prompts import load_templates
        from hybrid.tools.search.search import image_query, search, text_query

        records = [] if image is None else to_records(image)
        if (text is None) == (image is None) or len(records) > 1:
            raise ConfigError(
                "a search takes a text or one image",
                got=f"text={text!r} and {len(records)} images",
                fix="give one of them",
            )
        read_run(self.layout)  # the encoder may have been loaded when the index was still another
        if text is not None:
            query, own = text_query(self.encoder, text, load_templates(templates)), None
        else:
            found = image_query(self.encoder, records[0])
            query, own = found.embedding, found.sha256
        return search(self.layout, self.encoder, query, top_k, label=label, sha256=own, say=self._say)

    def explain(
        self,
        image: Images,
        prompts: Prompts | None = None,
        *,
        method: str = "gradcam",
        class_name: str | None = None,
        **options: Any,
    ) -> Explained:
        """Answer for one image and gather what the answer rests on.

        Parameters
        ----------
        image : one image, as `HybridClassifier.predict` takes it
        prompts, **options
            As for `classifier`.
        method : str
            How the head's map is made.
        class_name : str, optional
            The class that the encoder's map is made for. Default: the answer.

        Raises
        ------
        HybridError
            See `hybrid.tools.explain.explain.explain`.
        """
        from hybrid.tools.explain.explain import explain

        records = to_records(image)
        if len(records) != 1:
            raise ConfigError("explain takes one image", got=f"{len(records)} images", fix="give one image at a time")
        classifier = self.classifier(prompts, **options).fitted
        return explain(classifier, self.folder, records[0], method=method, name=class_name)

    def check(self) -> list[Part]:
        """Verify every part of the run and change nothing; see `hybrid.run.check.check_run`."""
        from hybrid.run.check import check_run

        return check_run(self.layout)

    def audit(
        self,
        *,
        duplicates_above: float | None = None,
        labels: bool = True,
        prompts: Prompts | None = None,
        quality: bool | QualityLimits = True,
    ) -> Audit:
        """Look for near duplicates and poor images in the index, and for labels that are probably wrong.

        Parameters
        ----------
        duplicates_above : float, optional
            Cosine similarity above which images are near duplicates.
        labels : bool
            Judge labels too; needs the extra ``audit``.
        prompts : PromptSet, names, str or Path, optional
            What the labels are called, for zero-shot.
        quality : bool or QualityLimits
            Read each image, for blurred, dark, over-exposed and tiny ones.

        Raises
        ------
        HybridError
            See `hybrid.tools.audit.audit.audit_run`.
        """
        from hybrid.labels.prompts import prompt_set
        from hybrid.tools.audit import DUPLICATES_ABOVE
        from hybrid.tools.audit.audit import LabelCheck, audit_run
        from hybrid.tools.audit.quality import QualityLimits

        check = LabelCheck(prompt_set(prompts), None, self.device) if labels else None
        above = DUPLICATES_ABOVE if duplicates_above is None else duplicates_above
        limits = (QualityLimits() if quality else None) if isinstance(quality, bool) else quality
        return audit_run(self.folder, above=above, labels=check, quality=limits)


def _crop(found: Scan, detections: Detections | str | Path, *, labeled: bool = True) -> Crops:
    """The boxes of the images of a scan, at least one."""
    made = detections if isinstance(detections, Detections) else Detections.read(detections)
    return made.crop(found, labeled=labeled).checked()


def _called(encoder: EncoderSettings) -> str:
    """An encoder as its settings name it."""
    return encoder.model if encoder.pretrained is None else f"{encoder.model} / {encoder.pretrained}"


def _label(label: object, index: int) -> str:
    """The label of an image as text; DataError for what a table has where a label is missing."""
    missing = label is None or (isinstance(label, float) and math.isnan(label))
    if missing or not str(label).strip():
        raise DataError(
            f"image {index} has no label",
            expected="a class name",
            got=repr(label),
            fix="give it a label, or leave the image out",
        )
    return str(label)


def _as_file(record: ImageRecord, file: Path) -> ImageRecord:
    """The record of an image on disk; one in memory is written to `file`."""
    if not isinstance(record, MemoryRecord):
        return record
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(record.read_bytes())
    return ImageRecord(str(file), str(file.parent), None, None, **Stamp.of(file.stat())._asdict())


def chosen_settings(
    model: str | None, pretrained: str | None, precision: str | None, recorded: EncoderSettings | None = None
) -> EncoderSettings:
    """Settings of an encoder by what was given, before those that a run recorded, before the default.

    Raises
    ------
    ConfigError
        If another model than the default is named without its weights.
    """
    if (model, pretrained, precision) == (None, None, None):
        return recorded or EncoderSettings()
    base = recorded if recorded is not None and model in (None, recorded.model) else EncoderSettings()
    name = model if model is not None else base.model
    weights = pretrained if pretrained is not None else base.pretrained if name == base.model else None
    values = {
        "model": _absolute(name),
        "pretrained": None if weights is None else _absolute(weights),
        "precision": precision or base.precision,
    }
    return convert(values, EncoderSettings)


def _absolute(name: str) -> str:
    """Make a local path absolute, so that the run can be used from any folder; names stay as they are."""
    prefix, place = split_prefix(name)
    path = expand_user(place)
    return prefix + str(path.absolute()) if path.exists() and (prefix or path.name != name) else name
