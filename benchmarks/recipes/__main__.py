"""Recipes side by side, by `hybrid compare`: what each costs, and whether the order of published systems holds.

    python -m benchmarks.recipes every --out runs/every                       every built-in recipe on drawn animals
    HYBRID_DATA=DATA python -m benchmarks.recipes cifar --out runs/cifar      logistic regression, CNN, ResNet
    HYBRID_DATA=DATA python -m benchmarks.recipes backbone --out runs/backbone

`backbone`: how much of a MobileNetV2 with ImageNet weights to train on Caltech-101; its recipes are the TOML files of
this folder. What follows `--` goes to `hybrid compare` behind the options of the published run and so overrides them
(`-- --epochs 1`). The folder --out holds table (CSV, Markdown, JSON) and plot; a finished recipe is not run again.

Figures it gave: docs/results/recipes.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.kit import arguments as shared
from benchmarks.kit.commands import hybrid

FOLDER = Path(__file__).parent
# From the least that trains to the most.
BACKBONE = ("frozen", "last-block", "lora", "whole", "layerwise")
EVERY = (
    *("convnext-tiny", "convnext-tiny-plus", "resnet50-frozen", "resblock-scratch", "resnet50-layerwise", "resnet18"),
    *("cnn-scratch", "resnet50-lora", "autoencoder", "regions", "efficientnet-b0", "efficientnet-b2"),
    *("pixels-logistic", "cifar-cnn", "cifar-resnet18", "clip-linear"),
)
CLASSES = 6


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison."""
    own, rest = shared.cut(sys.argv[1:] if arguments is None else arguments)
    options = shared.parser(__doc__, "benchmarks.recipes")
    options.add_argument("comparison", choices=("every", "cifar", "backbone"))
    options.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    given = options.parse_args(own)
    given.out.mkdir(parents=True, exist_ok=True)
    words = every(given.out) if given.comparison == "every" else on_photos(given.comparison)
    hybrid("compare", *words, "--out", str(given.out), *rest)


def every(out: Path) -> list[str]:
    """All built-in recipes for two epochs from random weights, on drawn animals of six classes."""
    from hybrid.demo import write_demo

    data, classes = out / "animals", out / "classes.txt"
    write_demo(data)
    classes.write_text("".join(f"{folder.name}\n" for folder in sorted((data / "train").iterdir())[:CLASSES]))
    words = [str(data / "train"), "--test", str(data / "test"), "--classes", str(classes), "--encoder", "tiny"]
    small = ["--epochs", "2", "--set", "pretrained=false", "--set", "image_size=64"]
    return [*words, *small, "--recipes", ",".join(EVERY)]


def on_photos(comparison: str) -> list[str]:
    """The two comparisons on real photos."""
    data = shared.data_folder()
    if data is None:
        sys.exit("set HYBRID_DATA to the folder with caltech101/, cifar10/ and backbones/")
    if comparison == "cifar":
        cifar = data / "cifar10"
        words = [str(cifar / "cifar10-train-000.tar"), "--test", str(cifar / "cifar10-test-000.tar"), "--epochs", "8"]
        return [*words, "--recipes", "pixels-logistic,cifar-cnn,cifar-resnet18"]
    words = [str(data / "caltech101" / "train"), "--test", str(data / "caltech101" / "test"), "--epochs", "6"]
    weights = ["--backbone-weights", str(data / "backbones" / "mobilenetv2_100.safetensors")]
    return [*words, *weights, "--recipes", ",".join(str(FOLDER / f"mobilenetv2-{name}.toml") for name in BACKBONE)]


if __name__ == "__main__":
    main()
