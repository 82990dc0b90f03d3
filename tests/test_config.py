from __future__ import annotations

import msgspec
import pytest

from hybrid.config import EncoderSettings, HeadSettings, convert, decode_settings, encode_settings, load_settings
from hybrid.errors import ConfigError


def setting(assignment: str) -> object:
    """The value that one --set gives its setting."""
    return load_settings(assignments=[assignment]).flat()[assignment.partition("=")[0]]


def test_the_defaults():
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
    assert len(settings) == 58
    assert all(settings[name] > 0 for name in ("flip", "rotation", "colour_jitter"))
    assert all(rate > 0 for rate in settings["dropout"])
    encoder = EncoderSettings()
    assert (encoder.model, encoder.pretrained, encoder.precision) == ("ViT-B-32-256", "datacomp_s34b_b86k", "auto")


def test_each_setting_has_its_group_and_its_flat_key():
    changes = {"schedule": "step", "regions": "tiles", "region_count": 4, "gate_folds": "frozen"}
    settings = HeadSettings(**changes, epochs=2, folds=3, color_jitter=0.3)
    assert (settings.schedule.kind, settings.schedule.epochs, settings.folds) == ("step", 2, 3)
    assert (settings.regions.method, settings.regions.count, settings.gate.folds) == ("tiles", 4, "frozen")
    assert settings.augment.color_jitter == settings.flat()["colour_jitter"] == 0.3
    again = HeadSettings(**settings.flat())
    assert again == settings != settings.replace(seed=1) == again.replace(seed=1)
    assert settings.replace(color_jitter=0.1).augment.color_jitter == 0.1
    assert eval(repr(settings)) == settings
    with pytest.raises(AttributeError):
        settings.schedule = again.schedule
    assert settings.model.backbone_args is not HeadSettings().model.backbone_args


def test_settings_are_written_and_read_flat():
    settings = HeadSettings(kind="linear", dropout=(0.1, 0.2), backbone_args={"pad_type": "same"})
    data = msgspec.json.encode({"settings": settings}, enc_hook=encode_settings)
    assert msgspec.json.decode(data)["settings"]["dropout"] == [0.1, 0.2]
    assert msgspec.json.decode(data, type=dict[str, HeadSettings], dec_hook=decode_settings) == {"settings": settings}
    for wrong in (b'{"settings": {"epochs": 0}}', b'{"settings": {"epoch": 1}}', b'{"settings": 3}'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(wrong, type=dict[str, HeadSettings], dec_hook=decode_settings)


def test_flags_beat_assignments_beat_the_file_beat_defaults(tmp_path):
    file = tmp_path / "recipe.toml"
    content = "epochs = 7\nhidden = 8\nseed = 9\nunfreeze = 2\nbackbone_args = {drop_rate = 0.5}\ncolour_jitter = 0.1\n"
    file.write_text(content)
    settings = load_settings(file, ["hidden=4", "hidden=5", "seed=5"], {"seed": 3, "hidden": None})
    expected = {"epochs": 7, "hidden": 5, "seed": 3, "patience": 3, "backbone_args": {"drop_rate": 0.5}}
    # A number in a recipe stands for its word.
    assert (expected | {"unfreeze": "2", "colour_jitter": 0.1}).items() <= settings.flat().items()
    # Both spellings are one key.
    for change in (["color_jitter=0.4"], ["color_jitter=0.3", "colour_jitter=0.4"]):
        assert load_settings(file, change).augment.color_jitter == 0.4


def test_an_assignment_is_read_as_what_its_setting_takes():
    for assignment, expected in (
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
    ):
        value = setting(assignment)
        assert value == expected, assignment
        assert type(value) is type(expected), assignment


def test_a_wrong_value_or_name_is_an_error_that_names_the_setting():
    for assignment in (
        "epochs=many",
        "epochs=0",
        "epochs=true",
        "seed=1.5",
        "dropout=[0.5]",
        "dropout=[0.5, 1.0]",
        "unfreeze=some",
        "schedule=linear",
        "val_fraction=1",
        "freeze_norms=perhaps",
        "learning_rate=nan",
        "learning_rate=inf",
        "mean=[0.5, 0.5, inf]",
        "epoch=3",
        "seed=-1",
        "seed=4294967296",
    ):
        with pytest.raises(ConfigError) as caught:
            setting(assignment)
        assert assignment.partition("=")[0] in caught.value.what
        listed = (caught.value.fix or "").startswith("known settings")
        assert listed is (assignment == "epoch=3"), "a known setting lists no others"


def test_a_wrong_setting_is_told_in_the_words_of_people():
    for assignment, what, expected, got in (
        ("epochs=0", "epochs", "a whole number >= 1", "0"),
        ("learning_rate=abc", "learning_rate", "a number", "'abc'"),
        ("color_jitter=abc", "color_jitter or colour_jitter", "a number", "'abc'"),
        ("schedule=cosin", "schedule", "one of cosine, step, plateau, none", "'cosin'"),
        ("pretrained=yes", "pretrained", "true or false", "'yes'"),
        ("unfreeze=-1", "unfreeze", "all, none or a number of stages", "-1"),
        ("dropout=[0.5, 2]", "dropout[1]", "a number < 1.0", "[0.5, 2]"),
    ):
        with pytest.raises(ConfigError) as caught:
            setting(assignment)
        assert caught.value.what == f"wrong setting: {what}"
        assert (caught.value.expected, caught.value.got) == (expected, got)
    for assignment, name in (("lr=abc", "learning_rate"), ("wd=0", "weight_decay"), ("Weight-Decay=0", "weight_decay")):
        with pytest.raises(ConfigError, match=f"no setting `{assignment.partition('=')[0]}`") as caught:
            setting(assignment)
        assert (caught.value.got, caught.value.fix) == (assignment, f"known settings: {name}")


def test_an_unknown_setting_is_told_the_known_or_the_near_ones():
    with pytest.raises(ConfigError) as caught:
        convert({"colour": "tiny"}, EncoderSettings)
    assert caught.value.fix == "known settings: model, pretrained, precision"
    with pytest.raises(ConfigError, match="learning_rat`") as caught:
        HeadSettings(learning_rat=1.0)
    assert "learning_rate" in caught.value.fix
    assert "workers" not in caught.value.fix


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match="KEY=VALUE") as caught:
        load_settings(assignments=["epochs"])
    assert caught.value.got == "epochs"
    file = tmp_path / "recipe.toml"
    for content in (None, b"epochs = ", b"epochs = 3\nepochs = 4\n", b"\xff\xfe"):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            load_settings(file)
        assert str(file) in caught.value.what
        assert caught.value.got
