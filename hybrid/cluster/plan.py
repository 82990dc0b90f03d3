"""A plan: what is to be embedded, cut into shards, and by which encoder, so that any machine may do any of them.

A folder holds all of it::

    plan.json                        encoder, precision, decoder, and the digest of each shard's rows
    manifests/shard-00001.parquet    the images of a shard, as their source was listed
    parts/part-HASH.parquet          their vectors, by whoever made them (`hybrid.cluster.parts`)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from hybrid import __version__
from hybrid.cluster.parts import ENDING, PartInfo, part_name
from hybrid.cluster.places import AnyPath, make_folder, opened, place_of, times, whole
from hybrid.cluster.tables import (
    CHUNK,
    METADATA,
    import_pyarrow,
    reading_parquet,
    record_columns,
    record_schema,
    record_values,
    to_records,
    writing_parquet,
)
from hybrid.config import EncoderSettings
from hybrid.encoders import load_encoder
from hybrid.encoders.base import Encoder, PinsPrecision
from hybrid.errors import ConfigError, EncoderError, StoreError, named_file_errors
from hybrid.images.decoders import DECODERS, NVJPEG
from hybrid.images.naming import plural
from hybrid.images.preprocess import PIXELS
from hybrid.images.records import ImageRecord
from hybrid.images.sources import Listing, Scan
from hybrid.images.stream import batched
from hybrid.labels.names import check_not_reserved
from hybrid.run.files import parse_json, to_json

FORMAT = 1
PER_SHARD = 50_000
_SHARE = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")
_PLAN_AGAIN = "make the plan again: hybrid embed plan SOURCE... --out DIR (parts of the same photos stay good)"


class Shard(Struct, frozen=True):
    """Images that one worker embeds: how many, and the digest of their rows in the manifest."""

    rows: int
    digest: str


class Plan(Struct, frozen=True, kw_only=True):
    """``plan.json``: what every machine must agree on.

    Attributes
    ----------
    hybrid_version : str
        Which wrote it.
    encoder : EncoderSettings
        With the precision that every machine computes in.
    asked : str
        The precision that the user asked for.
    decoder : str
        What decodes images: ``cpu`` where it makes no difference which decoder of a CPU it is.
    pixels : int
        Version of the way from decoded pixels to the model's input.
    encoder_name, identity, fingerprint, dim
        See `hybrid.encoders.base.Encoder`.
    sources : tuple of str
    shards : tuple of Shard
        The first one is number 1.
    """

    format: int = FORMAT
    hybrid_version: str = __version__
    encoder: EncoderSettings
    asked: str
    decoder: str
    pixels: int = PIXELS
    encoder_name: str
    identity: str
    fingerprint: str
    dim: int
    sources: tuple[str, ...]
    shards: tuple[Shard, ...]

    @property
    def images(self) -> int:
        """All images of the plan."""
        return sum(shard.rows for shard in self.shards)

    def part(self, number: int) -> PartInfo:
        """What the part of a shard says of itself."""
        shard = self.shards[number - 1]
        return PartInfo(
            encoder=self.encoder_name,
            identity=self.identity,
            fingerprint=self.fingerprint,
            dim=self.dim,
            shard=number,
            rows=shard.rows,
            manifest=shard.digest,
        )


@dataclass(frozen=True)
class PlanFolder:
    """Every file of a plan's folder.

    Attributes
    ----------
    root : Path or ObjectPath
    """

    root: AnyPath

    @classmethod
    def at(cls, place: str | Path) -> PlanFolder:
        """Name the folder by its path or URL; ConfigError where a plan cannot lie there."""
        return cls(place_of(place))

    @property
    def plan(self) -> AnyPath:
        """The plan."""
        return self.root / "plan.json"

    @property
    def manifests(self) -> AnyPath:
        """Folder of the shards' manifests."""
        return self.root / "manifests"

    @property
    def parts(self) -> AnyPath:
        """Folder of the parts."""
        return self.root / "parts"

    def manifest(self, number: int) -> AnyPath:
        """The manifest of a shard, numbered from 1."""
        return self.manifests / f"shard-{number:05d}.parquet"

    def part(self, plan: Plan, number: int) -> AnyPath:
        """The part of a shard, whether or not it is there."""
        return self.parts / part_name(plan.shards[number - 1].digest, plan.fingerprint)

    def read(self) -> Plan:
        """Read the plan; ArtifactError or StoreError where there is none, or it is damaged."""
        if not self.plan.is_file():
            raise StoreError(
                f"there is no plan in {self.root}",
                expected=f"{self.plan}",
                got="no file",
                fix=f"hybrid embed plan SOURCE... --out {self.root}",
            )
        with named_file_errors("the plan cannot be read", str(self.plan)), opened(self.plan) as stream:
            data = stream.read()
        return parse_json(data, Plan, self.plan, _PLAN_AGAIN)

    def done(self, plan: Plan) -> set[int]:
        """Numbers of the shards whose parts are there, by one listing."""
        there = times(self.parts)
        names = (part_name(shard.digest, plan.fingerprint) for shard in plan.shards)
        return {number for number, name in enumerate(names, 1) if name in there}

    def others(self, plan: Plan) -> int:
        """How many parts of other plans lie there."""
        own = {part_name(shard.digest, plan.fingerprint) for shard in plan.shards}
        return sum(name.endswith(ENDING) and name not in own for name in times(self.parts))

    def read_manifest(self, plan: Plan, number: int) -> list[ImageRecord]:
        """Read the images of a shard.

        Raises
        ------
        StoreError
            If the manifest is missing, damaged, or not the one that the plan was made with.
        """
        file, shard = self.manifest(number), plan.shards[number - 1]
        expected = _manifest_schema(number, shard)

        def schema(found: Any) -> Any:
            return expected

        records: list[ImageRecord] = []
        with reading_parquet(file, schema, "a manifest of the plan", _PLAN_AGAIN) as opened:
            for batch in opened.iter_batches(CHUNK):
                records += to_records(batch)
        found = Shard(len(records), rows_digest(records))
        if found != shard:
            raise StoreError(
                f"{file} is not the manifest that the plan was made with: the plan was changed under way, or the file",
                expected=f"{plural(shard.rows, 'photo')}, digest {shard.digest[:16]}",
                got=f"{plural(found.rows, 'photo')}, digest {found.digest[:16]}",
                fix=f"run the same command again, with the plan as it is now; if it stays so, {_PLAN_AGAIN}",
            )
        return records


def rows_digest(records: Iterable[ImageRecord]) -> str:
    """Digest of the images of a shard, in order: where they lie, and what was known of them when they were listed."""
    digest = hashlib.sha256()
    for some in batched(records, CHUNK):
        digest.update(msgspec.json.encode([record_values(record) for record in some]))
    return digest.hexdigest()


def make_plan(
    found: Scan | Listing,
    out: AnyPath,
    settings: EncoderSettings,
    *,
    per_shard: int = PER_SHARD,
    decoder: str = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Cut images into shards and write their manifests; what is there of the same plan stays.

    Parameters
    ----------
    found : Scan or Listing
        Of a `Listing` one shard is in memory.
    out : Path or ObjectPath
        Folder of the plan.
    settings : EncoderSettings
        ``auto`` precision becomes that of this machine.
    per_shard : int
        Images of a shard; what a worker that dies costs.
    decoder : str
        As `hybrid.images.decoders.choose_decoder` takes it; ``auto`` becomes ``nvjpeg`` where this machine has CUDA.
    say : callable
        Called with notes for people.

    Raises
    ------
    HybridError
        If the encoder cannot be loaded, cannot encode an image, or the folder cannot be written to.
    """
    import_pyarrow()
    labels = found.records.labels() if isinstance(found, Listing) else {record.label for record in found.records}
    check_not_reserved(labels, "the labels of the sources")
    bare = _pinned(found, settings, decoder, say)
    folder = PlanFolder(out)
    before = folder.read() if folder.plan.is_file() else None
    with named_file_errors("the plan cannot be written", str(out)):
        make_folder(folder.manifests)
        make_folder(folder.parts)
        plan = msgspec.structs.replace(bare, shards=tuple(_write_manifests(found.records, folder, per_shard, before)))
        if plan != before:
            with whole(folder.plan) as place:
                place.write_bytes(to_json(plan))
        _remove_manifests(folder, len(plan.shards))
    if before is not None and plan != before:
        kept, others = len(folder.done(plan)), folder.others(plan)
        say(
            f"the plan that was here is replaced; parts of the same photos stay good ({kept}), "
            f"those of others ({others}) are not needed any more"
        )
    return plan


def _pinned(found: Scan | Listing, settings: EncoderSettings, decoder: str, say: Callable[[str], None]) -> Plan:
    """The plan without its shards: precision and decoder are resolved, once for all machines."""
    from hybrid.device import resolve

    if decoder not in ("auto", "cpu", *DECODERS):
        raise ConfigError(
            "unknown decoder", expected=", ".join(["auto", "cpu", *DECODERS]), got=decoder, fix="take one of these"
        )
    here = resolve("auto", "auto")
    precision = here.precision if settings.precision == "auto" else settings.precision
    chosen = NVJPEG if decoder == "auto" and here.is_cuda else "cpu" if decoder == "auto" else decoder
    # What this machine cannot compute itself, others can; the identity and the length of a vector are the same.
    encoder = load_encoder(msgspec.structs.replace(settings, precision="fp32"), "cpu")
    encoder.check(found.records)
    if isinstance(encoder, PinsPrecision):
        own = encoder.fingerprint_at(precision, chosen)
        by = "the CPU" if chosen == "cpu" else chosen
        say(
            f"encoder: {encoder.name}, {encoder.dim} numbers a photo; every machine computes in {precision}, and "
            f"decodes by {by} (--precision and --decoder name others)"
        )
    else:
        own, precision, chosen = encoder.fingerprint, settings.precision, "cpu"
        say(encoder.notes[0])
    return Plan(
        encoder=msgspec.structs.replace(settings, precision=precision),
        asked=settings.precision,
        decoder=chosen,
        encoder_name=encoder.name,
        identity=encoder.identity,
        fingerprint=own,
        dim=encoder.dim,
        sources=found.sources,
        shards=(),
    )


def _write_manifests(
    records: Iterable[ImageRecord], folder: PlanFolder, per_shard: int, before: Plan | None
) -> Iterator[Shard]:
    """Write the manifests that are not there yet, and say what each shard is."""
    old = before.shards if before is not None else ()
    there = times(folder.manifests)
    for number, own in enumerate(batched(records, per_shard), 1):
        shard, file = Shard(len(own), rows_digest(own)), folder.manifest(number)
        if not (number <= len(old) and old[number - 1] == shard and file.name in there):
            schema = _manifest_schema(number, shard)
            with whole(file, sync=False) as place, writing_parquet(place, schema) as writer:
                for some in batched(own, CHUNK):
                    writer.write_batch(import_pyarrow().record_batch(record_columns(some), schema=schema))
        yield shard


def _remove_manifests(folder: PlanFolder, count: int) -> None:
    """Remove the manifests of shards that a plan before had."""
    number = count + 1
    while (file := folder.manifest(number)).exists():
        file.unlink()
        number += 1


def _manifest_schema(number: int, shard: Shard) -> Any:
    said = {"format": FORMAT, "hybrid_version": __version__, "shard": number, "rows": shard.rows}
    return record_schema().with_metadata({METADATA: msgspec.json.encode(said)})


def load_planned(plan: Plan, device: str = "auto") -> Encoder:
    """Load the encoder of a plan.

    Raises
    ------
    EncoderError
        If what is loaded here is not what the plan was made with.
    HybridError
        If it cannot be loaded.
    """
    encoder = load_encoder(plan.encoder, device, plan.decoder, plan.fingerprint)
    if encoder.fingerprint == plan.fingerprint:
        return encoder
    what = "the encoder that this machine loads is not the one of the plan"
    if encoder.identity != plan.identity:
        raise EncoderError(
            f"{what}: other weights or another preprocessing",
            expected=f"{plan.encoder_name}, identity {plan.identity}",
            got=f"{encoder.name}, identity {encoder.identity}",
            fix="copy the files of the encoder that the plan was made with to this machine, or plan again with these",
        )
    raise EncoderError(
        f"{what}: its vectors would differ slightly",
        expected=f"fingerprint {plan.fingerprint} ({plan.encoder.precision}, decoded by {plan.decoder}, image pipeline "
        f"{plan.pixels}, hybrid {plan.hybrid_version})",
        got=f"fingerprint {encoder.fingerprint} (image pipeline {PIXELS}, hybrid {__version__})",
        fix=f"install hybrid {plan.hybrid_version} on this machine, or plan again with this version",
    )


def share_of(text: str, count: int) -> list[int]:
    """Numbers of the shards that share I of N, such as ``3/8``, has of `count`.

    Raises
    ------
    ConfigError
        If it is no such share.
    """
    match = _SHARE.fullmatch(text)
    index, total = map(int, match.groups()) if match else (0, 0)
    if not 1 <= index <= total:
        raise ConfigError(
            "--shard takes a share of the work",
            expected="I/N, I from 1 to N",
            got=text,
            fix="--shard 1/8 to --shard 8/8 on eight machines; where an index begins with 0, add 1",
        )
    return list(range(index, count + 1, total))
