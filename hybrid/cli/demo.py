"""`hybrid demo`: the other commands, one after the other, on the bundled synthetic dataset."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def demo(
    context: typer.Context,
    folder: Annotated[Path, typer.Option("--dir", help="Where photos, run and pictures go.")] = Path("demo"),
) -> None:
    """Run the whole job on the bundled synthetic dataset. No download; one to two minutes on two cores."""
    from hybrid.cli import show
    from hybrid.cli.outputs import EVALUATION, PICTURE, REPORT, Outputs
    from hybrid.demo import RECIPE, write_camera_trap, write_demo

    files = {"predictions.png": PICTURE, "scores.json": EVALUATION, "report.html": REPORT}
    Outputs({}).folder("--dir", folder, files)
    hybrid = context.find_root().command
    data, run, picture = folder / "data", folder / "run", folder / "predictions.png"
    console = show.stdout()
    console.print(
        "[bold]40 animals with photos to train on, 10 that the head never sees: only their names are known.[/bold]\n"
        "The photos are drawn, not taken; the bundled CLIP knows only such drawings. It stands in for a real one."
    )
    write_demo(data)
    write_camera_trap(data / "traps")
    prompts, taxonomy = str(data / "prompts.txt"), str(data / "taxonomy.csv")
    common = ["--run", str(run)]
    steps: tuple[tuple[str, list[str]], ...] = (
        (
            "Embed the training photos and cache the vectors",
            ["build-index", str(data / "train"), str(data / "val"), "--encoder", "tiny", *common],
        ),
        (
            "Train a head on the 40 classes, calibrate it, fit the gate",
            ["train-head", "--recipe", str(RECIPE), *common],
        ),
        (
            "Test on photos of all 50 classes",
            [
                *("evaluate", str(data / "test"), "--prompts", prompts, "--taxonomy", taxonomy),
                *("--json", str(folder / "scores.json"), "--report", str(folder), *common),
            ],
        ),
        (
            "Classify a folder of unlabeled photos",
            ["predict", str(data / "photos"), "--prompts", prompts, "--grid", str(picture), *common],
        ),
        ("Put these photos into the index, too, for people to label", ["build-index", str(data / "photos"), *common]),
    )
    for title, arguments in steps:
        console.print(f"\n[bold]{title}[/bold]")
        console.print(f"[green]$ {shlex.join(['hybrid', *arguments])}[/green]", soft_wrap=True)
        # As the shell would, but in this process.
        hybrid(arguments, standalone_mode=False)
    console.print(_afterwards(folder), soft_wrap=True)


def _afterwards(folder: Path) -> str:
    """What was made, and what to do next."""
    data, run = folder / "data", folder / "run"
    return (
        f"\nThe picture: [bold]{folder / 'predictions.png'}[/bold]    "
        f"learning curves: [bold]{run / 'head' / 'curves.png'}[/bold]\n"
        f"All about the answers, to open in a browser: [bold]{folder / 'report.html'}[/bold]\n"
        "Why one answer (needs the extra explain):\n"
        f"  hybrid explain {data / 'photos' / 'photo_01.jpg'} --run {run} --prompts {data / 'prompts.txt'}\n\n"
        "Now with your own photos (the first two download their weights once):\n"
        "  hybrid build-index PHOTOS/train              one folder per class\n"
        "  hybrid train-head                            fine-tune, fit the gate\n"
        "  hybrid predict PHOTOS/new --prompts animals  trained and named classes\n\n"
        "Or go on in a browser: correct answers, let a class join (extra: serve):\n"
        f"  [bold]hybrid serve --run {run} --prompts {data / 'prompts.txt'} --open[/bold]"
    )
