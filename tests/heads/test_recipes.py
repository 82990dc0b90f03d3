from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import timm
from timm.optim import list_optimizers

from hybrid.config import HeadSettings
from hybrid.errors import ConfigError
from hybrid.heads.recipes import (
    FOLDER,
    as_toml,
    find_recipe,
    load_recipe,
    recipe_description,
    recipe_label,
    recipe_names,
)

NAMES = {
    "convnext-tiny",
    "convnext-tiny-plus",
    "resnet50-frozen",
    "resblock-scratch",
    "resnet50-layerwise",
    "resnet18",
    "cnn-scratch",
    "resnet50-lora",
    "autoencoder",
    "regions",
    "efficientnet-b0",
    "efficientnet-b2",
    "pixels-logistic",
    "cifar-cnn",
    "cifar-resnet18",
    "clip-linear",
}
SCRATCH = {"resblock-scratch", "cnn-scratch", "autoencoder", "pixels-logistic", "cifar-cnn", "cifar-resnet18"}


def same_but_description(left: HeadSettings, right: HeadSettings) -> bool:
    return left.replace(description="") == right.replace(description="")


# Every recipe


def test_the_bundled_recipes(tmp_path):
    assert list(recipe_names()) == sorted(NAMES)
    bundled = {name: load_recipe(name) for name in NAMES}
    assert len({settings.description for settings in bundled.values()}) == len(NAMES)
    assert len({as_toml(settings.replace(description="")) for settings in bundled.values()}) == len(NAMES)
    for name, settings in bundled.items():
        file = FOLDER / f"{name}.toml"
        assert find_recipe(name) == find_recipe(Path(name)) == file
        assert recipe_label(name) == name
        text = file.read_text(encoding="utf-8")
        assert 20 <= len(settings.description) <= 90
        assert settings.description == tomllib.loads(text)["description"]
        assert text.startswith("# ")
        assert max(map(len, text.splitlines())) <= 120
        written = tmp_path / "written.toml"
        written.write_text(as_toml(settings), encoding="utf-8")
        assert load_recipe(written) == settings


def test_timm_knows_what_a_recipe_names():
    import hybrid.heads.nets.models  # noqa: F401

    for name in NAMES:
        settings = load_recipe(name)
        assert timm.is_model(settings.model.backbone)
        assert settings.optim.optimizer in list_optimizers()
        if settings.model.pretrained and settings.kind == "backbone":
            assert timm.models.get_pretrained_cfg(settings.model.backbone).has_weights


def test_what_starts_from_nothing_trains_whole():
    for name in NAMES:
        settings = load_recipe(name)
        assert settings.model.pretrained is (name not in SCRATCH)
        assert settings.model.backbone.startswith("hybrid_") is (name in SCRATCH)
        if name in SCRATCH:
            assert settings.model.unfreeze == "all"
            assert settings.model.image_size <= 64
        if name in SCRATCH - {"pixels-logistic"}:  # it has no weights of its own
            assert settings.optim.backbone_rate == 1.0


# What each recipe is known for


def facts(name: str, **expected: object) -> None:
    settings = load_recipe(name)
    assert expected.items() <= settings.flat().items()


def test_recipes_that_are_the_default_with_changes():
    plus = {"mixup": 0.2, "cutmix": 1.0, "random_erasing": 0.25, "ema_decay": 0.99, "unfreeze_every": 2, "folds": 5}
    for name, changes in (("convnext-tiny", {}), ("convnext-tiny-plus", plus), ("clip-linear", {"kind": "linear"})):
        assert same_but_description(load_recipe(name), HeadSettings(**changes))


def test_the_step_schedules():
    shared = {
        "hidden": 0,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "backbone_rate": 1.0,
        "schedule": "step",
        "decay_rate": 0.5,
        "warmup_epochs": 0,
        "batch_size": 32,
        "flip": 0.5,
        "rotation": 10.0,
        "val_fraction": 0.2,
    }
    facts("resnet50-frozen", backbone="resnet50", image_size=128, unfreeze="2", decay_epochs=5, epochs=20, **shared)
    facts("resblock-scratch", backbone="hybrid_resblock", **shared)
    assert load_recipe("resnet50-frozen").augment.color_jitter > 0


def test_the_best_epoch_by_accuracy():
    shared = {"monitor": "accuracy", "optimizer": "adam"}
    for name in ("resnet50-layerwise", "resnet18", "cnn-scratch", "resnet50-lora", "autoencoder", "regions"):
        facts(name, **shared)
        settings = load_recipe(name)
        assert settings.optim.weight_decay > 0
        # 80/10/10: the test's tenth is gone before the split.
        assert settings.val_fraction * 0.9 == pytest.approx(0.1, abs=1e-3)
    facts("resnet50-layerwise", backbone="resnet50", unfreeze="all", layer_decay=0.8)
    facts("resnet18", backbone="resnet18", layer_decay=None)
    facts("cnn-scratch", backbone="hybrid_cnn")
    facts("resnet50-lora", backbone="resnet50", unfreeze="none", lora_rank=8, layer_decay=None, unfreeze_every=0)
    facts("autoencoder", backbone="hybrid_autoencoder", reconstruction=1.0)
    facts("regions", regions="slic")
    assert {name for name in NAMES if load_recipe(name).model.lora_rank} == {"resnet50-lora"}
    assert {name for name in NAMES if load_recipe(name).optim.reconstruction} == {"autoencoder"}
    assert {name for name in NAMES if load_recipe(name).regions.method != "none"} == {"regions"}


def test_efficientnet_and_the_variants_that_its_file_writes():
    for name, size in (("efficientnet-b0", 224), ("efficientnet-b2", 256)):
        backbone = {"backbone": name.replace("-", "_"), "image_size": size, "unfreeze": "all", "dropout": (0.2, 0.2)}
        schedule = {"schedule": "step", "decay_epochs": 1, "decay_rate": 0.9, "warmup_epochs": 0, "patience": 3}
        facts(name, **backbone, **schedule, activation="relu")
        assert load_recipe(name).model.hidden > 0, "else there is no activation to vary"
        text = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
        assignments = [quoted or plain for quoted, plain in re.findall(r"--set (?:'([^']+)'|(\S+))", text)]
        variants = [load_recipe(name, [assignment]) for assignment in assignments]
        assert [s.model.unfreeze for s in variants if s.model.unfreeze != "all"] == ["1"]
        assert [s.model.dropout for s in variants if s.model.dropout != (0.2, 0.2)] == [(0.0, 0.0), (0.5, 0.5)]
        assert [s.schedule.kind for s in variants if s.schedule.kind != "step"] == ["plateau", "none"]
        assert [s.model.activation for s in variants if s.model.activation != "relu"] == ["leaky_relu"]
        assert len(variants) == 6


def test_32_pixels():
    for name in ("pixels-logistic", "cifar-cnn", "cifar-resnet18"):
        facts(name, image_size=32, hidden=0, label_smoothing=0.0)
    facts("pixels-logistic", backbone="hybrid_pixels", dropout=(0.0, 0.0), crop_scale=1.0, flip=0.0, rotation=0.0)
    facts("cifar-cnn", backbone="hybrid_cifar_cnn")
    facts("cifar-resnet18", backbone="hybrid_cifar_resnet18", optimizer="adamw", batch_size=64)


def test_a_recipes_words_are_about_its_own_kind_of_head():
    network, linear = load_recipe("resnet18"), load_recipe("resnet18", flags={"kind": "linear"})
    assert network.description == recipe_description(network) != linear.description == ""
    assert load_recipe("clip-linear", ["kind=linear"]).description == load_recipe("clip-linear").description
    mine = ["kind=linear", "description=mine"]
    assert recipe_description(load_recipe("resnet18", mine)) == "mine"
    # As version 0.1.0 kept them in a run.
    words = f"{network.description} (report 3)"
    assert recipe_description(network.replace(description=words)) == network.description
    assert recipe_description(network.replace(description=words, kind="linear")) == ""


def test_an_unknown_kind_of_head():
    with pytest.raises(ConfigError, match="kind") as caught:
        load_recipe("resnet18", ["kind=none"])
    assert caught.value.fix == "known kinds: backbone, linear"


# Finding and loading


def test_a_file_of_ones_own(tmp_path, monkeypatch):
    file = tmp_path / "große Änderung.toml"
    file.write_text('description = "mine"\nepochs = 7\nunfreeze = 1\n', encoding="utf-8")
    for given in (file, str(file)):
        assert find_recipe(given) == file
        assert recipe_label(given) == "große Änderung"
        assert load_recipe(given) == HeadSettings(description="mine", epochs=7, unfreeze="1")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_recipe("~/große Änderung.toml") == file
    monkeypatch.chdir(tmp_path)
    assert load_recipe("große Änderung.toml").schedule.epochs == 7
    (tmp_path / "resnet18").write_text("epochs = 2\n", encoding="utf-8")
    assert load_recipe("resnet18").model.backbone == "resnet18", "a bundled name goes first"
    assert load_recipe("./resnet18").schedule.epochs == 2


def test_file_then_assignments_then_flags():
    settings = load_recipe("resnet18", ["epochs=3", "patience=2"], {"epochs": 4, "seed": None, "kind": None})
    assert (settings.schedule.epochs, settings.patience, settings.seed) == (4, 2, 0)
    assert settings.model.backbone == "resnet18"


def test_what_cannot_be_found(tmp_path, monkeypatch):
    for name, near in (
        ("resnet50-frosen", "resnet50-frozen"),
        ("convnext_tiny", "convnext-tiny"),
        ("clip", "clip-linear"),
        ("qqq", None),
    ):
        with pytest.raises(ConfigError, match=f"there is no recipe {name}") as caught:
            load_recipe(name)
        assert all(known in caught.value.expected for known in NAMES)
        assert caught.value.got is None if near is None else near in caught.value.got
        assert "hybrid recipes" in caught.value.fix
    monkeypatch.chdir(tmp_path)
    for name in ("resnet18.toml", "my/resnet18.toml", "./resnet18", "", "."):
        with pytest.raises(ConfigError, match="there is no recipe") as caught:
            find_recipe(name)
        assert ("recipe file" in caught.value.what) is ("resnet18" in name)
        assert "resnet18" in caught.value.expected
    file = tmp_path / "mine.toml"
    for text, problem in (("epoch = 3\n", "epoch"), ("epochs =\n", "cannot read"), ("dropout = 0.5\n", "dropout")):
        file.write_text(text, encoding="utf-8")
        assert find_recipe(file) == file, "finding does not read"
        with pytest.raises(ConfigError, match=problem):
            load_recipe(file)
    for content, got in (
        (b"a = " + b"[" * 200_000, "nested too deep"),
        (b"description = '\xff'", "utf-8"),
        (b"\0" * (2**20 + 1), "1,048,577 bytes"),
    ):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match="cannot read settings file") as caught:
            load_recipe(file)
        assert got in caught.value.got
        assert "KEY = VALUE" in caught.value.fix


def test_odd_settings_are_written_and_read_back(tmp_path):
    file = tmp_path / "written.toml"
    for changes in (
        {"description": 'Zwölf "Boxkämpfer" \\ [bold] :smile: 😀 = # \n\ttab'},
        {"backbone_args": {"pad_type": "same", "channels": [1, 2], "a b": {"x": True}, "é": 1e-7}},
        {"learning_rate": 1e-05, "mean": (0.1, 0.2, 0.3), "layer_decay": 1.0, "seed": 2**30},
        {"backbone_weights": "/tmp/a'b.safetensors", "auto_augment": "rand-m9-mstd0.5"},
    ):
        settings = HeadSettings(**changes)
        file.write_text(as_toml(settings), encoding="utf-8")
        assert load_recipe(file) == settings
    keys = [line.removeprefix("# ").partition(" = ")[0] for line in as_toml(HeadSettings()).splitlines()]
    assert keys == list(HeadSettings().flat())
    assert "# layer_decay = none\n" in as_toml(HeadSettings())
