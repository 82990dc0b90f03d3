"""Put a run on the model hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from hybrid.encoders.hub import bars_for_people
from hybrid.errors import ArtifactError, ConfigError, first_line
from hybrid.evaluation.results import Evaluation
from hybrid.hub.card import CARD, PLOT, Facts, base_models, write_card
from hybrid.hub.contents import CONFIG, public_encoder, write_public
from hybrid.run.fitted import FittedClassifier
from hybrid.run.heads import HeadFolder
from hybrid.run.pull import FILES

MESSAGE = "Push a run of hybrid"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Publication:
    """How a run is published.

    Attributes
    ----------
    repository : str
        ``OWNER/NAME``.
    encoder : str or None
        What others find the encoder by, where the run names a file or folder of this machine.
    with_index : bool
        Whether paths, labels, hashes and vectors of the index's images travel too.
    license : str or None
        Of the run, as the hub spells it, such as ``apache-2.0``.
    evaluation : Evaluation or None
        Of this classifier.
    evaluated_on : str
        What the evaluation's images are called.
    """

    repository: str
    encoder: str | None = None
    with_index: bool = False
    license: str | None = None
    evaluation: Evaluation | None = None
    evaluated_on: str = "labeled photos"

    def __post_init__(self) -> None:
        if not _REPOSITORY.fullmatch(self.repository):
            raise ConfigError(
                "a repository on the hub is OWNER/NAME", got=self.repository, fix="such as field-team/night-animals"
            )


def write_repository(classifier: FittedClassifier, how: Publication, folder: Path) -> None:
    """Write what `push` uploads into a folder, new or empty: the run, its card and the card's plot.

    Raises
    ------
    HybridError
        If nobody else could load the encoder, the classifier has no run, or the folder holds something.
    """
    state = classifier.state
    if state is None or state.layout is None:
        raise ArtifactError("there is no run to publish", fix="hybrid build-index and hybrid train-head first")
    settings = public_encoder(state.settings, how.encoder)
    head = None if state.head_folder is None else HeadFolder(state.head_folder, None).info().settings
    write_public(state, folder, encoder=how.encoder, with_index=how.with_index)
    facts = Facts(
        how.repository,
        classifier.space,
        _counts(classifier),
        base_models(settings.model, settings.pretrained, head),
        how.license,
        how.evaluation,
        how.evaluated_on,
        how.with_index,
    )
    write_card(facts, folder)


def _counts(classifier: FittedClassifier) -> tuple[int, ...]:
    """Labeled images of each seen class that the gate's Gaussians were fitted on."""
    gaussians = None if classifier.gate is None else classifier.gate.gaussians
    return () if gaussians is None else tuple(map(int, gaussians.counts))


def push(
    classifier: FittedClassifier,
    how: Publication,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str = MESSAGE,
    token: str | None = None,
) -> str:
    """Upload a run in one commit; the repository is made if it is missing, and holds nothing of an older run then.

    Parameters
    ----------
    private : bool, optional
        Of a repository that is made; default: as the account has it.
    revision : str, optional
        Branch; default: main.
    token : str, optional
        Default: of the login on this machine (``hf auth login``, or HF_TOKEN).

    Returns
    -------
    str
        Address of the commit.

    Raises
    ------
    HybridError
        As `write_repository`, and if the hub cannot be reached or refuses.
    """
    with TemporaryDirectory(prefix="hybrid-") as draft:
        folder = Path(draft) / "run"
        write_repository(classifier, how, folder)
        return _upload(folder, how.repository, private, revision, message, token)


def _upload(
    folder: Path, repository: str, private: bool | None, revision: str | None, message: str, token: str | None
) -> str:
    from huggingface_hub import HfApi, constants

    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        with bars_for_people():
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message=message,
                revision=revision,
                allow_patterns=[*FILES, CARD, PLOT, CONFIG],
                delete_patterns=[*FILES, PLOT],
            )
    except Exception as error:  # hub, http and socket layers each raise kinds of their own
        raise ArtifactError(
            f"the run cannot be pushed to {repository}",
            expected=f"a repository on {constants.ENDPOINT} that you may write to",
            got=first_line(error),
            fix="log in with a token that may write (hf auth login), and check the name; nothing of the run changed",
        ) from error
    return str(commit.commit_url)
