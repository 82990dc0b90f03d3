from __future__ import annotations

import msgspec
import pytest

from hybrid.config import EncoderSettings, HeadSettings, convert, decode_settings, encode_settings, load_settings
from hybrid.errors import ConfigError


def setting(assignment: str) -> object:
    """The value that one --set gives its setting."""
    return load_settings(assignments=[assignment]).flat()[assignment.partition("=")[0]]


def test_the_default_recipe():
    settings = HeadSettings().flat()
    expected = {
        "kind": "backbone",
        "backbone": "convnext_tiny",
        "pretrained": True,
        "image_size": 224,
        "unfreeze": "2",
        "hidden": 512,
        "label_smoothing": 0.2,
        "weight_decay": 1e-3,
        "schedule": "cosine",
        "balanced_sampling": True,
        "mixed_precision": "auto",
        "patience": 3,
        "val_fraction": 0.15,
    }
    assert expected.items() <= settings.items()
    assert len(settings) == 55
    assert all(settings[name] > 0 for name in ("flip", "rotation", "colour_jitter"))
    assert all(rate > 0 for rate in settings["dropout"])


def test_each_setting_has_its_group_and_its_flat_key():
    changes = {
        "schedule": "step",
        "regions": "tiles",
        "region_count": 4,
        "gate_folds": "frozen",
    }
    settings = HeadSettings(**changes, epochs=2, folds=3, color_jitter=0.3)
    assert (settings.schedule.kind, settings.schedule.epochs, settings.folds) == ("step", 2, 3)
    assert (settings.regions.method, settings.regions.count, settings.gate.folds) == ("tiles", 4, "frozen")
    assert settings.augment.color_jitter == settings.flat()["colour_jitter"] == 0.3
    again = HeadSettings(**settings.flat())
    assert again == settings != settings.replace(seed=1) == again.replace(seed=1)
    assert settings.replace(color_jitter=0.1).augment.color_jitter == 0.1
    assert eval(repr(settings)) == settings


def test_both_spellings_are_one_key(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text("colour_jitter = 0.1\n")
    for change in (["color_jitter=0.4"], ["color_jitter=0.3", "colour_jitter=0.4"]):
        assert load_settings(file, change).augment.color_jitter == 0.4


def test_settings_are_written_and_read_flat():
    settings = HeadSettings(kind="linear", dropout=(0.1, 0.2), backbone_args={"pad_type": "same"})
    data = msgspec.json.encode({"settings": settings}, enc_hook=encode_settings)
    assert msgspec.json.decode(data)["settings"]["dropout"] == [0.1, 0.2]
    assert msgspec.json.decode(data, type=dict[str, HeadSettings], dec_hook=decode_settings) == {"settings": settings}
    for wrong in (b'{"settings": {"epochs": 0}}', b'{"settings": {"epoch": 1}}', b'{"settings": 3}'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(wrong, type=dict[str, HeadSettings], dec_hook=decode_settings)


def test_the_default_encoder():
    settings = EncoderSettings()
    assert (settings.model, settings.pretrained) == ("ViT-B-32-256", "datacomp_s34b_b86k")
    assert settings.precision == "auto"


def test_flags_beat_assignments_beat_the_file_beat_defaults(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text('epochs = 7\nhidden = 8\nseed = 9\nbackbone = "resnet18"\nbackbone_args = {drop_rate = 0.5}\n')
    flags = {"seed": 3, "hidden": None}
    settings = load_settings(file, ["hidden=4", "seed=5"], flags)
    assert (settings.schedule.epochs, settings.model.hidden, settings.data.seed, settings.schedule.patience) == (
        7,
        4,
        3,
        3,
    )
    assert (settings.model.backbone, settings.model.backbone_args) == ("resnet18", {"drop_rate": 0.5})


def test_the_last_of_two_assignments_counts():
    assert load_settings(assignments=["epochs=4", "epochs=6"]).schedule.epochs == 6


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("dropout=[0.5, 0.5]", (0.5, 0.5)),
        ("mean=[0.5, 0.4, 0.3]", (0.5, 0.4, 0.3)),
        ("mean=none", None),
        ("l2_c=None", None),
        ("freeze_norms=false", False),
        ("balanced_sampling=true", True),
        ("learning_rate=1e-2", 0.01),
        ("rotation=10", 10.0),
        ("backbone=resnet18", "resnet18"),
        ('backbone="resnet18"', "resnet18"),
        ("backbone_args={pad_type = 'same'}", {"pad_type": "same"}),
        ("backbone_weights=weights/a=b.safetensors", "weights/a=b.safetensors"),
        ("backbone_weights=none", None),
        # Words that TOML or `none` would take for something else.
        ("unfreeze=2", "2"),
        ("unfreeze=none", "none"),
        ("unfreeze=all", "all"),
        ("schedule=none", "none"),
        ("backbone=123", "123"),
    ],
)
def test_an_assignment_is_read_as_what_its_setting_takes(assignment, value):
    found = setting(assignment)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("assignment", "named"),
    [
        ("epochs=many", "epochs"),
        ("epochs=0", "epochs"),
        ("epochs=true", "epochs"),
        ("seed=1.5", "seed"),
        ("dropout=[0.5]", "dropout"),
        ("dropout=[0.5, 1.0]", "dropout"),
        ("unfreeze=some", "unfreeze"),
        ("schedule=linear", "schedule"),
        ("val_fraction=1", "val_fraction"),
        ("freeze_norms=perhaps", "freeze_norms"),
        ("learning_rate=nan", "learning_rate"),
        ("learning_rate=inf", "learning_rate"),
        ("mean=[0.5, 0.5, inf]", "mean"),
        ("epoch=3", "epoch"),
        ("seed=-1", "seed"),
        ("seed=4294967296", "seed"),
    ],
)
def test_a_wrong_value_or_name_is_an_error_that_names_the_setting(assignment, named):
    with pytest.raises(ConfigError) as caught:
        setting(assignment)
    assert named in caught.value.what


def test_an_error_lists_the_known_settings():
    with pytest.raises(ConfigError) as caught:
        convert({"colour": "tiny"}, EncoderSettings)
    assert caught.value.fix == "known settings: model, pretrained, precision"


def test_an_assignment_without_equals_is_refused():
    with pytest.raises(ConfigError, match="KEY=VALUE") as caught:
        load_settings(assignments=["epochs"])
    assert caught.value.got == "epochs"


@pytest.mark.parametrize(
    "content",
    [None, b"epochs = ", b"epochs = 3\nepochs = 4\n", b"\xff\xfe"],
    ids=["missing", "torn", "twice", "no text"],
)
def test_a_settings_file_that_cannot_be_read_is_named(tmp_path, content):
    file = tmp_path / "recipe.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_settings(file)
    assert str(file) in caught.value.what
    assert caught.value.got


def test_settings_are_frozen_and_do_not_share_their_tables():
    first, second = HeadSettings(), HeadSettings()
    with pytest.raises(AttributeError):
        first.schedule = second.schedule
    assert first.model.backbone_args is not second.model.backbone_args


def test_an_unknown_setting_is_told_its_near_ones():
    with pytest.raises(ConfigError) as caught:
        HeadSettings(learning_rat=1.0)
    assert "learning_rat" in str(caught.value)
    assert "learning_rate" in caught.value.fix
    assert "workers" not in caught.value.fix


def test_a_known_setting_of_a_wrong_kind_lists_no_others():
    with pytest.raises(ConfigError) as caught:
        HeadSettings(folds=0)
    assert "folds" in str(caught.value)
    assert caught.value.fix is None


def test_a_number_in_a_recipe_stands_for_its_word(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text("unfreeze = 2\nepochs = 3\n")
    settings = load_settings(file)
    assert settings.finetune.unfreeze == "2"
    assert settings.schedule.epochs == 3
