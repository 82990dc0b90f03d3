"""Jobs: commands that take a while, one at a time, each a process of its own, with its lines and progress."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hybrid.errors import HybridError
from hybrid.serve.commands import Command, Plan
from hybrid.serve.errors import ServeError, busy

State = Literal["waiting", "running", "done", "failed", "stopped"]
MOST_LINES, MOST_JOBS, MOST_WAITING = 500, 50, 8
# Seconds that a command has to end by itself.
GRACE = 20.0
# How a line of progress begins; all others are for people.
PROGRESS = '{"progress": '


@dataclass
class Job:
    """A job and how far it is; written by the thread of `Jobs` alone."""

    id: str
    what: str
    state: State = "waiting"
    step: str = ""
    done: int = 0
    total: int = 0
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=MOST_LINES))
    error: dict[str, Any] | str | None = None
    revision: str | None = None
    stopping: bool = False
    process: subprocess.Popen[str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON."""
        names = ("id", "what", "state", "step", "done", "total", "error", "revision")
        return {name: getattr(self, name) for name in names} | {"lines": list(self.lines)}


class Jobs:
    """Runs jobs one after the other.

    Parameters
    ----------
    plan : callable
        Gives the command of a job when its turn comes.
    reload : callable
        Called when a job has changed the run; gives the revision.
    """

    def __init__(self, plan: Plan, reload: Callable[[], str]) -> None:
        self._plan, self._reload = plan, reload
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._queue: queue.SimpleQueue[tuple[Job, str | None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="hybrid-jobs", daemon=True)
        self._closing = False
        self._made = 0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Stop what runs, so that it can go on later, and end."""
        self._closing = True
        for job in self.all():
            self._stop(job)
        self._queue.put(None)
        self._thread.join()

    def add(self, what: str, recipe: str | None = None) -> Job:
        """Let a job wait for its turn; 503 where many wait already."""
        with self._lock:
            waiting = sum(job.state == "waiting" for job in self._jobs.values())
            if waiting >= MOST_WAITING or self._closing:
                raise busy("too many jobs wait", f"{waiting}")
            self._made += 1
            job = Job(str(self._made), what)
            self._jobs[job.id] = job
            for old in [o.id for o in self._jobs.values() if o.state not in ("waiting", "running")][:-MOST_JOBS]:
                del self._jobs[old]
        self._queue.put((job, recipe))
        return job

    def all(self) -> list[Job]:
        """All that are remembered, the newest first."""
        with self._lock:
            return list(self._jobs.values())[::-1]

    def get(self, number: str) -> Job:
        """One of them; 404 if there is none."""
        with self._lock:
            job = self._jobs.get(number)
        if job is None:
            raise ServeError(404, "there is no such job", got=number[:40], fix="GET /v1/jobs lists them")
        return job

    def stop(self, number: str) -> Job:
        """Stop a job: a training goes on from its last checkpoint when it is asked for again."""
        job = self.get(number)
        self._stop(job)
        return job

    def _stop(self, job: Job) -> None:
        with self._lock:
            if job.state not in ("waiting", "running"):
                return
            job.stopping = True
            if job.state == "waiting":
                job.state = "stopped"
            process = job.process
        if process is not None and process.poll() is None:
            process.terminate()

    def _run(self) -> None:
        while (taken := self._queue.get()) is not None:
            job, recipe = taken
            with self._lock:
                if job.state != "waiting":
                    continue
                job.state = "running"
            try:
                command = self._plan(job.what, recipe)
                try:
                    if command is not None:
                        self._follow(job, command)
                finally:
                    if command is not None:
                        command.clean()
                job.revision = self._reload()
                job.state = "stopped" if job.stopping and job.error is not None else "done"
            except _FailedError:
                job.state = "stopped" if job.stopping else "failed"
            except HybridError as error:
                job.error, job.state = error.what, "failed"
                job.lines.extend(str(error).splitlines())
            except Exception as error:  # a bug fails its job alone
                job.error, job.state = f"{type(error).__name__}: {error}", "failed"

    def _follow(self, job: Job, command: Command) -> None:
        """Run a command to its end, and read what it says."""
        process = subprocess.Popen(  # noqa: S603  our own command, made of no text that came by a request
            [sys.executable, "-m", "hybrid", *command.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=command.environment,
            start_new_session=True,  # Ctrl-C in the server's terminal ends the server, which ends this
        )
        with self._lock:
            job.process, stopping = process, job.stopping
        if stopping:
            process.terminate()
        killer: threading.Timer | None = None
        assert process.stdout is not None  # noqa: S101  it is a pipe
        with process.stdout:
            for line in process.stdout:
                _read_line(job, line.rstrip())
                if job.stopping and killer is None:
                    killer = threading.Timer(GRACE, process.kill)
                    killer.start()
        code = process.wait()
        if killer is not None:
            killer.cancel()
        if code != 0:
            job.error = _error_of(job.lines) or f"it ended with code {code}"
            raise _FailedError


class _FailedError(Exception):
    """The command ended with an error, which is said already."""


def _read_line(job: Job, line: str) -> None:
    if not line.startswith(PROGRESS):
        if line:
            job.lines.append(line)
        return
    try:
        step = json.loads(line)["progress"]
        job.step, job.done, job.total = str(step["step"]), int(step["done"]), int(step["total"])
    except (ValueError, KeyError, TypeError):
        job.lines.append(line)


def _error_of(lines: Sequence[str]) -> str | None:
    """What a command said last of an error."""
    found = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return found[-1] if found else None
