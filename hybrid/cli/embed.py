"""`hybrid embed plan`, `embed run` and `embed status`, and `hybrid import-index`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hybrid.cli import options

if TYPE_CHECKING:
    from hybrid.cluster.on_ray import Task
    from hybrid.cluster.plan import Plan, PlanFolder
    from hybrid.cluster.shards import ShardSummary

Folder = Annotated[
    str,
    typer.Argument(metavar="DIR", help="Folder of a plan (hybrid embed plan --out DIR), here or at s3:// or gs://."),
]


@options.with_groups
def embed_plan(
    sources: options.Sources,
    *,
    out: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="Folder for the plan and the parts; all machines must see it: on a common disk, or at s3:// or gs:// "
            "(extra: remote).",
            show_default=False,
        ),
    ],
    per_shard: Annotated[int, typer.Option(min=1, help="Photos of a shard: what a worker that dies costs.")] = 50_000,
    encoder: options.EncoderOptions,
    labels: Annotated[
        bool, typer.Option("--labels/--no-labels", help="Whether folders and tables give class labels.")
    ] = True,
) -> None:
    """List photos and cut them into shards that any machine can embed."""
    from hybrid.cli import show
    from hybrid.cluster.places import place_of
    from hybrid.cluster.plan import make_plan
    from hybrid.images.naming import plural
    from hybrid.images.sources import scan_to_disk

    place = place_of(out)
    found = scan_to_disk(sources, labeled=labels)
    for note in found.notes:
        show.note(note)
    plan = make_plan(found, place, encoder.settings, per_shard=per_shard, decoder=encoder.decoder, say=show.note)
    show.result(
        f"{plural(plan.images, 'photo')} in {plural(len(plan.shards), 'shard')}: hybrid embed run {place} --shard I/N"
    )
    show.exit_if_unreadable(found.unread)


@options.with_groups
def embed_run(
    folder: Folder,
    *,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Do the I-th of N shares, I from 1: one line of a job array.", show_default=False
        ),
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Do all of it on this machine, one shard after another.")
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Do all of it on a Ray cluster: auto (the one that ray start began here), HOST:PORT of its head, or "
            "local (one of its own on this machine). Needs the extra cluster.",
            show_default=False,
        ),
    ] = None,
    num_gpus_per_task: Annotated[
        float, typer.Option(min=0, help="With --ray: GPUs of a worker; 0.5 puts two on each.")
    ] = 0,
    num_cpus_per_task: Annotated[
        float | None,
        typer.Option(min=1, help="With --ray: CPUs of a worker.  [default: a node's, or a GPU's share of them]"),
    ] = None,
    batch: options.BatchOptions,
    device: options.Device = "auto",
) -> None:
    """Embed the shards of a plan that have no part yet; run again, it goes on."""
    from hybrid.cli import show
    from hybrid.cluster.on_ray import Task
    from hybrid.cluster.plan import PlanFolder, share_of
    from hybrid.cluster.shards import missing_of
    from hybrid.images.naming import plural

    _check_one(shard, local, ray)
    planned = PlanFolder.at(folder)
    plan = planned.read()
    numbers = share_of(shard or "1/1", len(plan.shards))
    missing = missing_of(planned, plan, numbers)
    show.note(f"{plural(len(numbers), 'shard')} of {len(plan.shards)}, {len(numbers) - len(missing)} of them done")
    if ray is None:
        summary = _run_here(planned, plan, missing, batch, device)
    else:
        task = Task(num_gpus_per_task, num_cpus_per_task, batch.batch_size, batch.workers)
        summary = _run_on_ray(planned, plan, missing, ray, task)
    left = len(plan.shards) - len(planned.done(plan))
    what = f"{plural(summary.images, 'photo')} embedded in {plural(summary.shards, 'shard')}"
    show.result(f"{what}; {left} of {len(plan.shards)} left" if left else f"{what}; all {len(plan.shards)} are done")
    show.exit_if_unreadable(summary.unreadable)


def _check_one(shard: str | None, local: bool, ray: str | None) -> None:
    from hybrid.errors import ConfigError

    named = [flag for flag, given in (("--shard", shard), ("--local", local), ("--ray", ray)) if given]
    if len(named) != 1:
        raise ConfigError(
            "who is to embed the shards?",
            expected="one of --shard I/N, --local and --ray ADDRESS",
            got=" and ".join(named) or "none of them",
            fix="--local does all on this machine, --shard 1/8 the first of eight shares, --ray auto all on a cluster",
        )


def _run_on_ray(planned: PlanFolder, plan: Plan, missing: list[int], address: str, task: Task) -> ShardSummary:
    from hybrid.cli import show
    from hybrid.cluster.on_ray import embed_on_ray
    from hybrid.cluster.plan import PlanFolder
    from hybrid.cluster.shards import ShardSummary

    if not missing:
        return ShardSummary()
    planned = PlanFolder(planned.root.absolute())  # the workers have working folders of their own
    with show.image_progress("embedding", sum(plan.shards[number - 1].rows for number in missing)) as progress:
        return embed_on_ray(planned, plan, missing, address, task, progress=progress, say=show.note)


def _run_here(
    planned: PlanFolder, plan: Plan, missing: list[int], batch: options.BatchOptions, device: str
) -> ShardSummary:
    from hybrid.cli import show
    from hybrid.cluster.plan import load_planned
    from hybrid.cluster.shards import ShardSummary, embed_shards

    if not missing:
        return ShardSummary()
    encoder = load_planned(plan, device)
    for note in encoder.notes:
        show.note(note)
    with show.image_progress("embedding", sum(plan.shards[number - 1].rows for number in missing)) as progress:
        return embed_shards(
            planned,
            plan,
            missing,
            encoder,
            batch_size=batch.batch_size,
            workers=batch.workers,
            progress=progress,
        )


def embed_status(folder: Folder) -> None:
    """Tell how many shards of a plan are done, and how fast it goes."""
    from hybrid.cli import show
    from hybrid.cluster.plan import PlanFolder
    from hybrid.cluster.shards import status
    from hybrid.errors import listing
    from hybrid.images.naming import plural

    planned = PlanFolder.at(folder)
    plan = planned.read()
    state = status(planned, plan)
    show.result(
        f"{state.done} of {plural(len(plan.shards), 'shard')} done, {state.images:,} of {plural(plan.images, 'photo')}"
        + (f"; {state.rate:,.0f} photos/s on all machines" if state.rate else "")
    )
    if state.missing:
        show.result(f"no part yet: {listing([str(number) for number in state.missing])}")


def import_index(
    folder: Folder,
    *,
    run: options.Run = options.DEFAULT_RUN,
    labelled_only: Annotated[
        bool,
        typer.Option("--labelled-only", "--labeled-only", help="Leave photos without a label out."),
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Import the parts that are there, if some are not.")
    ] = False,
    wait: options.Wait = True,
) -> None:
    """Bring vectors that hybrid embed made into a run."""
    from hybrid.cli import show
    from hybrid.cluster.plan import PlanFolder
    from hybrid.run.run import Run

    opened = Run(run, say=show.note, wait=wait)
    with show.image_progress("importing", PlanFolder.at(folder).read().images) as progress:
        summary = opened.import_index(folder, labeled_only=labelled_only, partial=partial, progress=progress)
    show.result(
        f"{summary.images} photos: {summary.encoded} vectors imported, {summary.reused} copies of known content, "
        f"{summary.unchanged} unchanged; {summary.new} new, {summary.changed} changed; "
        f"{summary.vectors} vectors in {run}"
    )
    show.exit_if_unreadable(summary.unreadable)
