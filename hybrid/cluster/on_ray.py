"""Hand the shards of a plan out to a Ray cluster: one model a worker process, and a shard again where its worker died.

The contract is that of `hybrid.cluster.shards`: a part is there whole or not at all, so that it does not matter how
often a shard is tried, or by whom.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from hybrid.cluster.plan import Plan, PlanFolder, load_planned
from hybrid.cluster.shards import ShardSummary, embed_shards
from hybrid.errors import ConfigError, DeviceError, HybridError, MissingExtraError, StoreError, first_line, listing
from hybrid.images.naming import plural
from hybrid.index.build import Progress

# How often a shard may lose its worker before it is given up: some image may make each of them die.
TRIES = 3
# Workers that may die before they begin.
STARTS = 20
# Seconds between two looks at what the workers have done, and without any worker before a note and before an error.
TICK, PATIENCE, LONGEST = 1.0, 30.0, 900.0
# Seconds that workers get to put away what they have begun.
GRACE = 15.0
LOCAL = "local"


@dataclass(frozen=True)
class Task:
    """What a worker process needs, and how it works.

    Attributes
    ----------
    num_gpus : float
        0: the worker computes on CPUs.
    num_cpus : float or None
        None: all of the smallest node, or of a GPU's share of it.
    batch_size, workers
        See `hybrid.index.build.build_index`; `workers` are as many as the CPUs by default.
    """

    num_gpus: float = 0
    num_cpus: float | None = None
    batch_size: int | None = None
    workers: int | None = None


class _StoppedError(Exception):
    """The worker was told to put its shard away."""


class Worker:
    """One process with one model; `embed` runs in one of its threads, all else in another.

    Parameters
    ----------
    folder : PlanFolder
    plan : Plan
    device : str
    batch_size, workers
        See `hybrid.index.build.build_index`.
    """

    def __init__(
        self, folder: PlanFolder, plan: Plan, device: str, batch_size: int | None, workers: int | None
    ) -> None:
        self._folder, self._plan, self._device = folder, plan, device
        self._batch_size, self._workers = batch_size, workers
        self._encoder: Any = None
        self._done = 0
        self._stop = threading.Event()

    def load(self) -> str:
        """Load the encoder, and say where."""
        self._encoder = load_planned(self._plan, self._device)
        return f"{socket.gethostname()}, process {os.getpid()}"

    def embed(self, number: int) -> ShardSummary:
        """Embed a shard, if nobody else has."""
        self._done = 0
        with suppress(_StoppedError):
            return embed_shards(
                self._folder,
                self._plan,
                [number],
                self._encoder,
                batch_size=self._batch_size,
                workers=self._workers,
                progress=self._count,
            )
        return ShardSummary()

    def _count(self, count: int) -> None:
        self._done += count
        if self._stop.is_set():
            raise _StoppedError

    def done(self) -> int:
        """How many images of its shard it has embedded."""
        return self._done

    def stop(self) -> None:
        """Put the shard away that is under way."""
        self._stop.set()


def embed_on_ray(
    folder: PlanFolder,
    plan: Plan,
    numbers: Sequence[int],
    address: str,
    task: Task | None = None,
    *,
    progress: Progress = lambda count: None,
    say: Callable[[str], None] = lambda line: None,
) -> ShardSummary:
    """Embed shards on a Ray cluster.

    Parameters
    ----------
    folder : PlanFolder
        All nodes see it under the same path.
    plan : Plan
    numbers : sequence of int
        Shards to embed.
    address : str
        Of the cluster; ``auto``: the one of this machine; ``local``: one of its own, for as long as it takes.
    task : Task, optional
    progress : callable
        Called with the number of images that all workers finished since the last call.
    say : callable
        Called with notes for people.

    Raises
    ------
    HybridError
        If there is no such cluster, no worker starts, a worker raises one, or a shard loses its worker `TRIES` times.
        What is done by then stays.
    """
    task = task or Task()
    with _connected(address) as ray:
        if task.num_cpus is None:
            task = Task(task.num_gpus, cpus_per_task(ray.nodes(), task.num_gpus), task.batch_size, task.workers)
        pool = _Pool(ray, folder, plan, task, deque(numbers), progress, say)
        with _Signals() as signals:
            try:
                return pool.run(signals)
            finally:
                pool.close()


def cpus_per_task(nodes: Sequence[Mapping[str, Any]], num_gpus: float) -> float:
    """How many CPUs a worker gets: those of the smallest node, so that one fits each, or of a GPU's share of it."""
    shares = []
    for resources in (node["Resources"] for node in nodes if node["Alive"]):
        cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
        if cpus and (gpus >= num_gpus > 0):
            shares.append(cpus * num_gpus / gpus)
        elif cpus and not num_gpus:
            shares.append(cpus)
    return float(max(1, math.floor(min(shares, default=1))))


def capacity(nodes: Sequence[Mapping[str, Any]], task: Task) -> int:
    """How many workers the nodes have room for that are alive, whoever else uses them."""
    total = 0
    for resources in (node["Resources"] for node in nodes if node["Alive"]):
        room = resources.get("CPU", 0) / (task.num_cpus or 1)
        if task.num_gpus:
            room = min(room, resources.get("GPU", 0) / task.num_gpus)
        total += math.floor(room)
    return total


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Be connected to a cluster while the block runs."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("hybrid embed run --ray", "ray", "cluster") from error
    if ray.is_initialized():
        yield ray
        return
    _knock(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, logging_level="ERROR", **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, error) from error
    try:
        # Ray's own would end the process without putting anything away.
        with suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGTERM, handler)
        yield ray
    finally:
        ray.shutdown()


class _Signals:
    """Keeps signals back until they are asked for: what a handler raises in the middle of Ray's code is lost there."""

    def __init__(self) -> None:
        self._came: list[tuple[int, FrameType | None]] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        with suppress(ValueError):  # not the main thread, which alone gets signals
            for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
                if callable(handler := signal.getsignal(number)) and number not in self._handlers:
                    self._handlers[number] = handler
                    signal.signal(number, self._keep)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _keep(self, number: int, frame: FrameType | None) -> None:
        self._came.append((number, frame))

    def let_through(self) -> None:
        """Do what the first signal that came is to do, which may raise."""
        if self._came:
            number, frame = self._came.pop(0)
            handler = self._handlers[number]
            self.__exit__()
            handler(number, frame)


def _knock(address: str) -> None:
    """Find out at once that nobody listens at HOST:PORT, which takes Ray minutes."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), 10).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> ConfigError:
    return ConfigError(
        "there is no Ray cluster at this address",
        expected="auto (a cluster that ray start began on this machine), local, or HOST:PORT of its head",
        got=f"{address}: {first_line(error)}",
        fix="ray start --head on one machine and ray start --address=HOST:PORT on the others; or --ray local",
    )


@dataclass
class _Pool:
    """Workers, and the shards that they do not have yet."""

    ray: Any
    folder: PlanFolder
    plan: Plan
    task: Task
    waiting: deque[int]
    progress: Progress
    say: Callable[[str], None]
    starting: dict[Any, Any] = field(default_factory=dict)
    busy: dict[Any, tuple[Any, int]] = field(default_factory=dict)
    deaths: Counter[int] = field(default_factory=Counter)
    given_up: dict[int, str] = field(default_factory=dict)
    shown: int = 0
    finished: int = 0
    failed_starts: int = 0

    def run(self, signals: _Signals) -> ShardSummary:
        """Embed all shards."""
        summary, alone_since, noted = ShardSummary(), time.monotonic(), False
        while self.waiting or self.busy:
            signals.let_through()
            self._grow()
            ready, _ = self.ray.wait([*self.starting, *self.busy], num_returns=1, timeout=TICK)
            for reference in ready:
                if reference in self.starting:
                    self._started(reference)
                else:
                    self._finished(reference, summary)
            if self.busy or ready:
                alone_since, noted = time.monotonic(), False
            elif time.monotonic() - alone_since > (LONGEST if noted else PATIENCE):
                self._tell_waiting(noted)
                noted = True
            self._show()
        if self.given_up:
            numbers = sorted(self.given_up)
            raise StoreError(
                f"{plural(len(numbers), 'shard')} made {TRIES} workers die each; all others are done",
                expected=f"a part of shard {listing([str(number) for number in numbers])}",
                got=self.given_up[numbers[0]],
                fix="see that the nodes have enough memory (fewer --batch-size or --workers), and run the same command "
                "again; hybrid embed run --shard I/N on one machine shows what happens",
            )
        return summary

    def close(self) -> None:
        """Let workers put away what they have begun, and end them."""
        for actor, _ in self.busy.values():
            actor.stop.remote()
        if self.busy:
            self.ray.wait([*self.busy], num_returns=len(self.busy), timeout=GRACE)
        for actor in [*self.starting.values(), *(actor for actor, _ in self.busy.values())]:
            self.ray.kill(actor)

    def _grow(self) -> None:
        """Have as many workers as there is room for, and work."""
        room = min(max(1, capacity(self.ray.nodes(), self.task)), len(self.waiting) + len(self.busy))
        for _ in range(room - len(self.starting) - len(self.busy)):
            task = self.task
            kind = self.ray.remote(Worker).options(
                num_cpus=task.num_cpus, num_gpus=task.num_gpus, max_concurrency=2, scheduling_strategy="SPREAD"
            )
            device = "cuda" if task.num_gpus else "cpu"
            workers = task.workers or int(task.num_cpus or 1)
            actor = kind.remote(self.folder, self.plan, device, task.batch_size, workers)
            self.starting[actor.load.remote()] = actor

    def _started(self, reference: Any) -> None:
        actor = self.starting.pop(reference)
        try:
            place = self._result(reference)
        except self.ray.exceptions.RayError as error:
            self.failed_starts += 1
            self.say(f"WARNING: a worker died before it began: {first_line(error)}")
            if self.failed_starts >= STARTS:
                raise DeviceError(
                    "workers die before they begin",
                    got=first_line(error),
                    fix="see that hybrid of this version is installed on all nodes, and that they have enough memory",
                ) from error
            return
        self.say(f"a worker is ready on {place}")
        self._give(actor)

    def _finished(self, reference: Any, summary: ShardSummary) -> None:
        actor, number = self.busy.pop(reference)
        try:
            summary.add(self._result(reference))
        except self.ray.exceptions.RayError as error:
            self.deaths[number] += 1
            self.say(f"WARNING: the worker of shard {number} died: {first_line(error)}")
            if self.deaths[number] < TRIES:
                self.waiting.append(number)
            else:
                self.given_up[number] = first_line(error)
            return
        self.finished += self.plan.shards[number - 1].rows
        self._give(actor)

    def _result(self, reference: Any) -> Any:
        """What a worker gave; its own named errors are raised here as they are."""
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, HybridError | OSError):
                raise error.cause from error
            raise

    def _give(self, actor: Any) -> None:
        """Give a worker its next shard, or end it."""
        if self.waiting:
            number = self.waiting.popleft()
            self.busy[actor.embed.remote(number)] = actor, number
        else:
            self.ray.kill(actor)

    def _show(self) -> None:
        """Tell of what all workers have done since the last time."""
        references = [actor.done.remote() for actor, _ in self.busy.values()]
        told, _ = self.ray.wait(references, num_returns=len(references), timeout=TICK) if references else ([], [])
        under_way = 0
        for reference in told:
            with suppress(self.ray.exceptions.RayError):  # of a worker that died: its shard begins anew
                under_way += self.ray.get(reference)
        done = self.finished + under_way
        if done > self.shown:
            self.progress(done - self.shown)
            self.shown = done

    def _tell_waiting(self, long: bool) -> None:
        """Say that no worker could begin; an error where that has lasted too long."""
        has, free = self.ray.cluster_resources(), self.ray.available_resources()
        needs = {"CPU": self.task.num_cpus or 1, "GPU": self.task.num_gpus}
        shown = ", ".join(
            f"{amount:g} {kind} (the cluster has {has.get(kind, 0):g}, {free.get(kind, 0):g} of them free)"
            for kind, amount in needs.items()
            if amount
        )
        if long:
            raise DeviceError(
                "no worker could begin",
                expected=shown,
                got=f"none in {LONGEST / 60:.0f} minutes",
                fix="end what holds them (ray list actors), add nodes, or lower --num-gpus-per-task",
            )
        self.say(f"WARNING: no worker could begin yet; each needs {shown}")
