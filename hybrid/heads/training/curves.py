"""Learning curves as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hybrid.heads.training.train import EpochLog
from hybrid.plotting import save_png


def draw(rows: Sequence[EpochLog], best_epoch: int, file: Path) -> None:
    """Plot losses and accuracies by epoch, the kept epoch marked."""
    from matplotlib.figure import Figure

    epochs = [row.epoch for row in rows]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(epochs, [row.train_loss for row in rows], "o-", label="training (smoothed)")
    loss.plot(epochs, [row.val_loss for row in rows], "o-", label="validation")
    loss.set_ylabel("cross-entropy, nats")
    accuracy.plot(epochs, [row.train_accuracy for row in rows], "o-", label="training (augmented)")
    accuracy.plot(epochs, [row.val_accuracy for row in rows], "o-", label="validation, mean per class")
    accuracy.set_ylabel("accuracy")
    accuracy.set_ylim(0, 1.02)
    for axes in (loss, accuracy):
        axes.axvline(best_epoch, color="0.6", linestyle="--", linewidth=1, label=f"kept: epoch {best_epoch}")
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    save_png(figure, file, 110)
