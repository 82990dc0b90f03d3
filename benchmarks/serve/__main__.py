"""Requests per second of `hybrid serve` and how long each takes, against predict on the same photos.

    python -m benchmarks.serve --json serve.json
    python -m benchmarks.serve --encoder tiny --photos 64 --rounds 1       # a minute: does it run?

The ceiling is `classify` of Python on the photos as files, in a process of its own, in the server's default batches. A
request brings one photo of 640x480, whose bytes never came before. Clients keep their connection, wait for an answer
before they ask again, and take their share of the same cores. In each round the ceiling and each number of clients
take their turn; a figure is the median over rounds. ViT-B/32 with random weights, 40 names, no head. Let nothing else
compute meanwhile. Figures it gave: docs/results/serve.md.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.kit import arguments as shared
from benchmarks.kit.output import table, write_json
from benchmarks.serve.ceiling import predict
from benchmarks.throughput.images import class_names, elsewhere, numbered, write_images, write_weights

CLIENTS = (1, 8, 32)
SIZE = (640, 480)
CEILING = "predict, the same photos"
CONSOLE = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    options = parse(arguments)
    load = os.getloadavg()[0]
    if load > 1:
        CONSOLE.print(f"[bold]note: other programs compute here (load {load:.1f})[/bold]")
    with tempfile.TemporaryDirectory(prefix="hybrid-serve-") as folder:
        rounds = measure(Path(folder), options)
    found = summary(rounds)
    CONSOLE.print(table(found, first="", digits=3, marked=False))
    write_json(options.json, {"photos": options.photos, "load": load, "median": found, "rounds": rounds})


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the options."""
    parser = shared.parser(__doc__, "benchmarks.serve")
    parser.add_argument("--encoder", default="ViT-B-32", help="ViT-B-32 (random weights) or tiny")
    parser.add_argument("--photos", type=int, default=256, help="requests of each turn")
    parser.add_argument("--rounds", type=int, default=3)
    shared.add_json(parser)
    options = parser.parse_args(arguments)
    if options.photos < max(CLIENTS) or options.rounds < 1:
        parser.error(f"--photos is at least {max(CLIENTS)}, --rounds at least 1")
    return options


def measure(folder: Path, options: argparse.Namespace) -> list[dict[str, dict[str, float | None]]]:
    """Let the ceiling and each number of clients take turns."""
    paths = elsewhere(write_images, folder / "photos", options.photos, SIZE)
    photos = [Path(path).read_bytes() for path in paths]
    encoder = [options.encoder]
    if options.encoder != "tiny":
        encoder.append(str(elsewhere(write_weights, options.encoder, folder / "weights.safetensors")))
    names, fresh, rounds = class_names(), count(1), []
    (folder / "names.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    with ProcessPoolExecutor(1, get_context("spawn")) as process, serving(folder, encoder) as port:
        process.submit(predict, folder, tuple(encoder), names, paths[:64]).result()
        ask(port, [numbered(photo, next(fresh)) for photo in photos[:64]], 8)
        for number in range(options.rounds):
            seconds = process.submit(predict, folder, tuple(encoder), names, paths).result()
            turn: dict[str, dict[str, float | None]] = {CEILING: figures(len(paths) / seconds, None, None)}
            for clients in CLIENTS:
                sent = [numbered(photo, next(fresh)) for photo in photos]
                turn[f"{clients} client{'s' * (clients > 1)}"] = figures(
                    *ask(port, sent, clients), len(paths) / seconds
                )
            rounds.append(turn)
            CONSOLE.print(f"round {number + 1}: {turn}")
    return rounds


def figures(per_second: float, times: Sequence[float] | None, ceiling: float | None) -> dict[str, float | None]:
    """The columns of a row."""
    return {
        "photos/s": per_second,
        "of predict": ceiling and per_second / ceiling,
        "p50_ms": None if times is None else float(np.percentile(times, 50) * 1000),
        "p99_ms": None if times is None else float(np.percentile(times, 99) * 1000),
    }


def summary(rounds: Sequence[dict[str, dict[str, float | None]]]) -> dict[str, dict[str, float | None]]:
    """Median of each figure over rounds."""

    def median(row: str, figure: str) -> float | None:
        values = [value for one in rounds if (value := one[row][figure]) is not None]
        return statistics.median(values) if values else None

    return {row: {figure: median(row, figure) for figure in rounds[0][row]} for row in rounds[0]}


@contextmanager
def serving(folder: Path, encoder: Sequence[str]) -> Iterator[int]:
    """Start a server on a free port."""
    words = ["serve", "--run", str(folder / "run"), "--prompts", str(folder / "names.txt"), "--port", "0"]
    words += ["--encoder", encoder[0], *(("--pretrained", encoder[1]) if len(encoder) > 1 else ())]
    command = [sys.executable, "-u", "-m", "hybrid", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = next((found for line in process.stdout if (found := re.search(r"http://[\d.]+:(\d+)/", line))), None)
        if address is None:
            raise SystemExit("the server did not start")
        yield int(address[1])
    finally:
        process.terminate()
        process.wait()


def ask(port: int, photos: Sequence[bytes], clients: int) -> tuple[float, list[float]]:
    """Requests per second, and the seconds of each."""
    waiting = iter(photos)

    def client(_: int) -> list[float]:
        connection, times = http.client.HTTPConnection("127.0.0.1", port), []
        for photo in waiting:
            start = time.perf_counter()
            connection.request("POST", "/v1/predict", _form(photo), {"Content-Type": "multipart/form-data; boundary=b"})
            answer = connection.getresponse()
            if answer.status != 200 or b'"predictions":[{' not in answer.read():
                raise SystemExit(f"the server answered {answer.status}")
            times.append(time.perf_counter() - start)
        connection.close()
        return times

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        times = [one for part in pool.map(client, range(clients)) for one in part]
    return len(photos) / (time.perf_counter() - start), times


def _form(photo: bytes) -> bytes:
    head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="photo.jpg"\r\n\r\n'
    return head + photo + b"\r\n--b--\r\n"


if __name__ == "__main__":
    main()
