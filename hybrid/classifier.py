"""`HybridClassifier`: joins encoder, head, gate and label space; the arithmetic is theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hybrid.config import EncoderSettings, Regions
from hybrid.errors import ConfigError, DataError, GateError, UnreadableImageError
from hybrid.gate.policy import Policy
from hybrid.images.detections import Crops, Detections
from hybrid.images.inputs import Images, to_records
from hybrid.labels.names import NameTable
from hybrid.labels.prompts import PromptSet, prompt_set
from hybrid.labels.space import LabelSpace
from hybrid.labels.taxonomy import Taxonomy
from hybrid.labels.taxonomy_files import load_taxonomy
from hybrid.prediction import Prediction
from hybrid.run.classes.change import join_class, leave_class, no_such_class
from hybrid.run.fitted import Batch, FittedClassifier
from hybrid.run.load import RunState, load_run
from hybrid.run.photo_answers import PhotoAnswers, crop_images
from hybrid.run.save import save_run

Unreadable = tuple[tuple[str, str], ...]
Prompts = PromptSet | Mapping[str, Sequence[str] | str | None] | Iterable[str] | str | Path


class HybridClassifier:
    """Classify images into trained classes and into classes that are only named, as scikit-learn classifiers do.

    Either load what a run folder holds (`from_run`), or train in place (`fit`).

    Parameters
    ----------
    encoder : str
        As ``hybrid build-index --encoder`` takes it: an open_clip model, a folder, ``tiny``, ``precomputed:FILE``.
    prompts : PromptSet, names, str or Path, optional
        Classes that may be named beside those of the labels.
    pretrained : str, optional
        open_clip tag or checkpoint file; default: that of the default encoder, where this is it.
    head : str or None
        ``"linear"`` on the embeddings, or the name or file of a recipe for a fine-tuned network; None: no head, the
        labeled images speak for their classes as a few-shot expert.
    templates : str
        Prompt templates.
    policy : Policy, optional
        Expected share of images of unseen classes, rejection, prediction sets.
    precision, device : str
        See `hybrid.device.resolve`.
    decoder : str
        What decodes images, as `hybrid.images.decoders.choose_decoder` takes it.
    seed : int
        Of the validation cut and the training.
    strict_names : bool
        Prompts that are a label in another spelling, or nearly one, are an error instead of a note.
    taxonomy : Taxonomy, str or Path, optional
        As for `from_run`.

    Attributes
    ----------
    classes_ : (c,) str
    fitted_ : FittedClassifier
        The encoder, head, gate and label space in use. It is replaced as a whole, never changed.

    Examples
    --------
    >>> classifier = HybridClassifier(encoder="tiny", prompts=["zebra"]).fit(images, labels)
    >>> classifier.predict(["photo.jpg"])
    """

    _estimator_type = "classifier"

    def __init__(
        self,
        encoder: str = EncoderSettings().model,
        prompts: Prompts | None = None,
        *,
        pretrained: str | None = None,
        head: str | None = "linear",
        templates: str = "simple",
        policy: Policy | None = None,
        precision: str = "auto",
        device: str = "auto",
        decoder: str = "auto",
        seed: int = 0,
        strict_names: bool = False,
        taxonomy: Taxonomy | str | Path | None = None,
    ) -> None:
        self.strict_names, self.decoder, self.taxonomy = strict_names, decoder, taxonomy
        self.encoder, self.prompts, self.pretrained, self.head = encoder, prompts, pretrained, head
        self.templates, self.policy, self.precision, self.device, self.seed = templates, policy, precision, device, seed

    @classmethod
    def from_run(
        cls,
        run: str | Path,
        *,
        prompts: Prompts | None = None,
        templates: str | None = None,
        encoder: EncoderSettings | None = None,
        device: str = "auto",
        policy: Policy | None = None,
        regions: Regions | None = None,
        few_shot: str | None = None,
        strict_names: bool = False,
        decoder: str = "auto",
        taxonomy: Taxonomy | str | Path | None = None,
    ) -> Self:
        """Load what the run folder holds and join it with the named classes.

        Parameters
        ----------
        run : str or Path
            A folder, or ``hf://OWNER/NAME[@REVISION]`` on the model hub.
        prompts : PromptSet, names, str or Path, optional
            Classes that may be named: a list of names, a dict of names and their other names, a prompt file, or the
            name of a bundled one such as ``"animals"``. Seen classes and those that joined the run are there without
            it.
        templates : str, optional
            Name or file; default: those the run was saved with, those the gate was fitted with, or ``simple``.
        encoder : EncoderSettings, optional
            Used only where the run has no index of its own.
        device : str
            See `hybrid.device.resolve`.
        policy : Policy, optional
            Expected share of images of unseen classes, rejection, prediction sets.
        regions : {"none", "slic", "tiles"}, optional
            How the head cuts each image to vote on its parts; default: as it was trained.
        few_shot : str, optional
            Without a head: which of `hybrid.gate.few_shot.registry.EXPERTS` joins names and images; `notes` say which.
        strict_names, decoder
            As for the class; ``auto``: what the run's index was made with, else nvJPEG on CUDA.
        taxonomy : Taxonomy, str or Path, optional
            Which class stands under what (`hybrid.labels.taxonomy_files.load_taxonomy`), for ``Policy(confident=0.9)``.

        Raises
        ------
        HybridError
            If parts are missing or do not fit together.
        """
        state = load_run(
            run,
            prompt_set(prompts),
            templates,
            encoder,
            device,
            regions,
            few_shot,
            strict_names=strict_names,
            decoder=decoder,
            taxonomy=load_taxonomy(taxonomy),
        )
        return cls.of(state, policy)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None, **options: Any) -> Self:
        """Load a run from the model hub, or from a folder, as other libraries of the hub do.

        Parameters
        ----------
        name : str or Path
            ``OWNER/NAME`` on the hub; or a folder, which comes first.
        revision : str, optional
            Branch, tag or commit.
        **options
            As for `from_run`.

        Raises
        ------
        HybridError
            As `from_run`, and if the hub cannot be reached or has no such run.
        """
        if Path(name).exists():
            return cls.from_run(name, **options)
        return cls.from_run(f"hf://{name}{f'@{revision}' if revision else ''}", **options)

    @classmethod
    def of(cls, state: RunState, policy: Policy | None = None) -> Self:
        """Make a classifier of what was read from a run."""
        settings = state.settings
        made = cls(
            settings.model,
            state.prompts,
            pretrained=settings.pretrained,
            templates=state.templates.name,
            policy=policy,
            precision=settings.precision,
            taxonomy=state.taxonomy,
        )
        made.fitted_ = FittedClassifier.of(state, policy or Policy())
        return made

    def fit(self, images: Images, labels: Sequence[str]) -> Self:
        """Index the images, train the head and fit the gate.

        Parameters
        ----------
        images : as for `predict`
        labels : sequence of str
            The class of each image.

        Returns
        -------
        self

        Raises
        ------
        HybridError
            If images and labels do not fit together, an image cannot be read, or training fails.
        """
        from hybrid.run.run import Run

        # The classifier reads from the folder as long as it lives.
        folder = TemporaryDirectory(prefix="hybrid-")
        run = Run(
            Path(folder.name) / "run",
            encoder=self.encoder,
            pretrained=self.pretrained,
            precision=self.precision,
            device=self.device,
            decoder=self.decoder,
        )
        summary = run.index_labeled(images, labels)
        for path, reason in summary.unreadable:
            raise UnreadableImageError(
                f"cannot read {path}", got=reason, fix="leave this image out, or put a whole file in its place"
            )
        if self.head == "linear":
            run.train(head="linear", templates=self.templates, seed=self.seed)
        elif self.head is not None:
            run.train(self.head, templates=self.templates, seed=self.seed)
        self.fitted_ = run.classifier(
            self.prompts,
            templates=self.templates,
            policy=self.policy,
            strict_names=self.strict_names,
            taxonomy=self.taxonomy,
        ).fitted
        self._folder = folder
        return self

    def add_class(self, name: str, images: Images | None = None, prompts: Sequence[str] | None = None) -> Self:
        """Let a class join at once, without training; the run folder stays as it is until `save`.

        Parameters
        ----------
        name : str
            Of a new class, or of one that joined before: then it gets more images, or other prompts.
        images : as for `predict`, optional
            Images of the class.
        prompts : sequence of str, optional
            Other names, such as ``["striped horse"]``, beside its own. An empty list: the name says nothing to a text
            encoder, images alone speak for the class.

        Returns
        -------
        self

        Raises
        ------
        HybridError
            If the head was trained on the class, an image cannot be read, or nothing would be known of the class.
            Nothing has changed then.

        Examples
        --------
        >>> classifier.add_class("okapi", images=["one.jpg", "two.jpg"])
        >>> classifier.add_class("model 4711", images="photos/model-4711", prompts=[])
        """
        state = self._state
        if isinstance(prompts, str):
            raise DataError("prompts is a list of names", got=repr(prompts), fix=f"prompts=[{prompts!r}]")
        if state.head is not None and state.gate is None:
            raise GateError(
                "this run has no gate, so no class can join the trained ones",
                fix="hybrid train-head, with classes the encoder can name (--classes FILE)",
            )
        records = () if images is None else to_records(images)
        self._check_not_trained(name, *(prompts or ()))
        classes, summary = join_class(
            state.classes,
            state.encoder,
            name,
            records,
            synonyms=prompts or (),
            named=None if prompts is None else bool(prompts),
        )
        for path, reason in summary.unreadable:
            raise UnreadableImageError(
                f"cannot read {path}", got=reason, fix="leave this image out, or put a whole file in its place"
            )
        return self._become(replace(state, classes=classes, notes=(*state.notes, *summary.notes)))

    def remove_class(self, name: str) -> Self:
        """Let a class leave that joined, with its images, or was prompted; DataError for a trained or unknown one."""
        state = self._state
        self._check_not_trained(name)
        prompted = state.prompts.classes if state.prompts else ()
        place = NameTable(prompt.name for prompt in prompted).find(name)
        rest = tuple(prompt for number, prompt in enumerate(prompted) if number != place)
        classes = state.classes
        # A class that was prompted alone takes no images along: they may wait for a head, or for a test.
        if NameTable(cls.name for cls in classes.support).find(name) is not None:
            classes, _ = leave_class(classes, name)
        elif place is None:
            raise no_such_class(name, [*(c.name for c in classes.support), *(prompt.name for prompt in prompted)])
        return self._become(replace(state, classes=classes, prompts=PromptSet(rest, check=False) if rest else None))

    def save(self, path: str | Path, *, wait: bool = True) -> None:
        """Write a run folder that `from_run` reads back as this classifier, its `policy` and `few_shot` aside.

        Parameters
        ----------
        path : str or Path
            A new or empty folder, or the run that this classifier was loaded from.
        wait : bool
            Wait where another command writes to the run; False: ArtifactError then.
        """
        self.fitted_ = replace(self.fitted, state=save_run(self._state, Path(path), wait=wait))

    @property
    def fitted(self) -> FittedClassifier:
        """`fitted_`, or ConfigError before `fit`."""
        if not self.__sklearn_is_fitted__():
            raise ConfigError(
                "this classifier is not fitted yet", fix="fit(images, labels), or HybridClassifier.from_run(FOLDER)"
            )
        return self.fitted_

    @property
    def space(self) -> LabelSpace:
        """All classes, and how each one is known."""
        return self.fitted.space

    @property
    def notes(self) -> tuple[str, ...]:
        """Which device, precision, weights and experts are in use."""
        return self.fitted.notes

    @property
    def classes_(self) -> NDArray[np.str_]:
        """Labels of all classes, (c,): the trained ones first; the columns of `predict_proba`."""
        return np.array(self.fitted.space.names, dtype=np.str_)

    def predict(
        self,
        images: Images,
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        detections: Detections | str | Path | None = None,
    ) -> NDArray[np.str_]:
        """Name the class of each image.

        Parameters
        ----------
        images : path, PIL image, array, tensor, or an iterable of these
            See `hybrid.images.inputs.to_records`.
        batch_size : int, optional
            Images that go through the networks at once; default: what the device has memory for, 32 on a CPU.
        workers : int, optional
            Threads that decode; default: one per core, at most 16.
        detections : Detections, str or Path, optional
            What a detector found in the images: MegaDetector's JSON or COCO annotations. Each box of an animal is
            classified; an image's answer is that of its likeliest animal, else what the detector names, such as
            ``"person"``, or ``"empty"``.

        Returns
        -------
        (n,) str
            One of `classes_` for each image, in order; ``"none of these"`` where the policy rejects it, and a node of
            the taxonomy where it asks for that (`Policy.confident`).

        Raises
        ------
        UnreadableImageError
            If an image cannot be read; `classify` leaves such images out and goes on.
        HybridError
            If an input is not an image, or the encoder has no vector for it.

        Examples
        --------
        >>> classifier = HybridClassifier.from_run(Path("runs/default"))
        >>> classifier.predict(["cup.jpg", PIL.Image.open("llama.png")])
        array(['cup', 'llama'], dtype='<U5')
        """
        if detections is not None:
            return self._predict_photos(crop_images(images, detections), batch_size, workers)
        batches = self._readable(images, batch_size, workers)
        return np.array([p.label for batch in batches for p in self.predictions(batch, top_k=1)], dtype=np.str_)

    def _predict_photos(self, crops: Crops, batch_size: int | None, workers: int | None) -> NDArray[np.str_]:
        for unread in crops.scan.unread:
            raise _unreadable(*unread)
        answers, labels = PhotoAnswers(crops.photos), list[str]()
        for batch in chain(self._readable(crops.scan.records, batch_size, workers), [None]):
            made = () if batch is None else self.predictions(batch, top_k=1)
            labels += [photo.best.label for photo in answers.add(made, ()) if photo.best is not None]
        return np.array(labels, dtype=np.str_)

    def predict_proba(
        self, images: Images, *, batch_size: int | None = None, workers: int | None = None
    ) -> NDArray[np.float64]:
        """Give the probability of each class for each image.

        Rejection does not change it: these are the probabilities if the image shows one of `classes_`.

        Parameters
        ----------
        images, batch_size, workers
            As for `predict`; so are the errors.

        Returns
        -------
        (n, c) float64
            Columns in the order of `classes_`; each row sums to 1.

        Examples
        --------
        >>> probabilities = classifier.predict_proba("photos/")
        >>> classifier.classes_[probabilities.argmax(axis=1)]
        array(['cup', 'llama', 'cup'], dtype='<U5')
        """
        batches = self._readable(images, batch_size, workers)
        return np.concatenate([np.empty((0, len(self.space.names))), *(batch.answers.hybrid for batch in batches)])

    def score(self, images: Images, labels: Sequence[str]) -> float:
        """Share of the images whose predicted class is their label."""
        return float(np.mean(self.predict(images) == np.asarray(labels, dtype=np.str_)))

    def classify(
        self,
        images: Images,
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        detections: Detections | str | Path | None = None,
    ) -> Iterator[Batch]:
        """Answer batch by batch; what cannot be read is left out and listed in `Batch.unreadable`.

        `images` as for `predict`; a batch's records name its images. With `detections` these are the boxes to classify,
        photo by photo.
        """
        yield from self.fitted.classify(images, batch_size=batch_size, workers=workers, detections=detections)

    def predictions(self, batch: Batch, top_k: int = 5) -> list[Prediction]:
        """Turn a batch's answers into one `Prediction` for each image."""
        return self.fitted.predictions(batch, top_k)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters of the constructor, as scikit-learn asks for them."""
        return {name: getattr(self, name) for name in _DEFAULTS}

    def set_params(self, **params: Any) -> Self:
        """Set parameters of the constructor, as scikit-learn does it; they count from the next `fit` on."""
        for name, value in params.items():
            if name not in _DEFAULTS:
                raise ConfigError(
                    f"there is no parameter {name}", expected=", ".join(_DEFAULTS), fix="take one of these"
                )
            setattr(self, name, value)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "fitted_")

    def __sklearn_tags__(self) -> Any:
        # Not by inheritance: scikit-learn takes a second to import, and most uses do not need it.
        from sklearn.base import BaseEstimator, ClassifierMixin

        return type("Tags", (ClassifierMixin, BaseEstimator), {})().__sklearn_tags__()

    def __repr__(self) -> str:
        changed = {name: value for name, value in self.get_params().items() if value != _DEFAULTS[name]}
        return f"HybridClassifier({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    @property
    def _state(self) -> RunState:
        if self.fitted.state is None:
            raise ConfigError("a classifier that was put together by hand cannot change", fix="use from_run or fit")
        return self.fitted.state

    def _become(self, state: RunState) -> Self:
        # One assignment: whoever predicts meanwhile in another thread sees the old one or the new one.
        self.fitted_ = FittedClassifier.of(state, self.fitted.policy)
        return self

    def _check_not_trained(self, *names: str) -> None:
        """DataError if the head was trained on a class that is called so, by its label or by the prompts."""
        for name in names:
            index = self.space.index_of(name)
            if index is not None and index < self.space.seen:
                raise DataError(
                    f"the head was trained on {self.space.names[index]}",
                    got=name,
                    fix="leave it out: a trained class stays until the head is trained anew (Run.train with classes=)",
                )

    def _readable(self, images: Images, batch_size: int | None, workers: int | None) -> Iterator[Batch]:
        for batch in self.classify(images, batch_size=batch_size, workers=workers):
            for unread in batch.unreadable:
                raise _unreadable(*unread)
            yield batch


def _unreadable(path: str, reason: str) -> UnreadableImageError:
    return UnreadableImageError(
        f"cannot read {path}", got=reason, fix="leave it out, or use classify, which skips and lists it"
    )


_DEFAULTS = {
    name: parameter.default
    for name, parameter in signature(HybridClassifier.__init__).parameters.items()
    if name != "self"
}
