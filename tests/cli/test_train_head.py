from __future__ import annotations

from hybrid.run.files import Layout
from hybrid.run.heads import read_head_info

KEPT = (
    *("--run", "--recipe", "--backbone", "--backbone-weights", "--head", "--classes", "--epochs", "--seed", "--device"),
    *("--batch-size", "--workers", "--gate-folds", "--fresh", "--templates", "--set"),
)


def test_flags_that_are_settings_work_and_say_what_to_write_instead(hybrid, run):
    help_text = hybrid("train-head", "--help").out
    assert all(flag in help_text for flag in KEPT)
    assert not any(flag in help_text for flag in ("--pretrained", "--no-pretrained", "--image-size"))
    train = ("train-head", "--head", "linear", "--run", run)
    done = hybrid(*train, "--image-size", "96", "--no-pretrained", "--workers", "3")
    said = done.err.splitlines()
    assert "WARNING: --image-size will be removed; write --set image_size=96" in said
    assert "WARNING: --no-pretrained will be removed; write --set pretrained=false" in said
    settings = read_head_info(Layout(run)).settings
    assert (settings.model.image_size, settings.model.pretrained, settings.workers) == (96, False, 3)
    done = hybrid(*train, "--set", "image_size=96", "--set", "color_jitter=0.4")
    assert "will be removed" not in done.err
    assert read_head_info(Layout(run)).settings.augment.color_jitter == 0.4
    text = hybrid("info", "--run", run).out
    assert "linear on CLIP embeddings, 8 seen classes, 48 photos, 40 held out" in text
    assert "tiny (bundled" in text
    assert "train 48, val 40" in text
    # The words of the default recipe are about a network.
    assert "recipe" not in text
    hybrid("train-head", "--recipe", "clip-linear", "--run", run)
    assert "recipe    Logistic regression on the cached CLIP embeddings" in hybrid("info", "--run", run).out
