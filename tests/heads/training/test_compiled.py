"""A backbone compiled for full batches of a training."""

from __future__ import annotations

import torch

from hybrid.heads.training.compiled import Compiled


def test_full_batches_in_training_alone_are_compiled(recipe, start, monkeypatch):
    seen = []

    def compiled(forward, dynamic):
        assert not dynamic
        return lambda images: seen.append(len(images)) or forward(images)

    monkeypatch.setattr(torch, "compile", compiled)
    backbone = start(recipe()).backbone
    names = list(backbone.state_dict())
    fast, images = Compiled(backbone, 4), torch.rand(4, 3, 24, 24)
    backbone.train()
    outputs = [backbone(images), backbone(images[:3])]
    backbone.eval()(images)
    assert seen == [4]
    assert [len(output) for output in outputs] == [4, 3]
    assert list(backbone.state_dict()) == names
    fast.end()
    assert "forward" not in vars(backbone)


def test_compiled_trainings_are_as_others(colored, recipe, run, monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda forward, dynamic: calls.append(dynamic) or forward)
    data, said = colored(), []
    settings = recipe(epochs=2, compile=True, batch_size=10, ema_decay=0.9)
    model, _, log = run(data, settings, say=said.append)
    assert calls == [False]
    assert "forward" not in vars(model.backbone)
    assert "torch.compile" in said[0]
    plain = run(data, settings.replace(compile=False))[2]
    assert [row.train_loss for row, *_ in log] == [row.train_loss for row, *_ in plain]
