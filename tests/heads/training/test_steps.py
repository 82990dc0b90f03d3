"""Steps as one piece of work: full batches of a training only, and nothing else of it is changed."""

from __future__ import annotations

import pytest
import torch

from hybrid.device import Compute
from hybrid.errors import HeadError
from hybrid.heads.training import steps
from hybrid.heads.training.steps import Captured, Compiled, Steps, steps_of

CPU, CUDA = Compute("cpu", "fp32", "test"), Compute("cuda", "fp16", "test")


@pytest.fixture
def captures(monkeypatch):
    """Stands in for CUDA's captures: runs the module once, as a warm-up does, and notes what passes through it."""
    log: list[str] = []

    def make(module, sample, allow_unused_input):
        log.append("capture")
        plain = module.forward
        module(*sample)
        vars(module)["forward"] = lambda images: log.append(f"replay {len(images)}") or plain(images)

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make)
    return log


def test_full_batches_in_training_are_replayed(recipe, start, captures):
    model, said = start(recipe(unfreeze="all")).train(), []
    state, rng = {name: t.clone() for name, t in model.state_dict().items()}, torch.get_rng_state()
    captured, images = Captured(model, 4, said.append), torch.rand(4, 3, 24, 24)
    for batch in (images, images, images, images[:3]):
        captured.prepare(batch)
        assert len(captures) == captures.count("capture") + captures.count("replay 4")
        if len(captures) == 1:
            assert torch.equal(torch.get_rng_state(), rng), "dropout draws on as if nothing were"
            assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items()), "statistics too"
        model(batch)
        state = {name: t.clone() for name, t in model.state_dict().items()}
        rng = torch.get_rng_state()
    assert captures == ["capture", "replay 4", "replay 4"]
    assert said == ["training steps are captured as CUDA graphs"]
    model.eval()(images)
    model.train()
    next(model.parameters()).requires_grad_(False)  # unfrozen later, or frozen
    for _ in range(2):
        captured.prepare(images)
        model(images)
    assert captures[3:] == ["capture", "replay 4"]
    captured.end()
    assert "forward" not in vars(model)


def test_what_cannot_be_captured_runs_as_ever(recipe, start, monkeypatch):
    def refuse(*args, **options):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refuse)
    model, said, images = start(recipe()).train(), [], torch.rand(4, 3, 24, 24)
    own = vars(model)["forward"] = model.forward  # accelerate's
    captured = Captured(model, 4, said.append)
    for _ in range(3):
        captured.prepare(images)
        assert model(images).shape == (4, 3)
    assert len(said) == 1
    assert "not captured as CUDA graphs: RuntimeError: CUDA error: operation not permitted" in said[0]
    captured.end()
    assert vars(model)["forward"] is own


def test_compiled_steps_train_as_others_do(colored, recipe, run, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda forward, dynamic: compiled.append(dynamic) or forward)
    data, settings, said = colored(), recipe(epochs=2, compile="torch", batch_size=10), []
    model, _, through = run(data, settings, say=said.append)
    assert compiled == [False]
    assert "forward" not in vars(model.backbone)
    assert "torch.compile" in said[0]
    plain = run(data, settings.replace(compile="auto"))[2]
    assert [row.train_loss for row, *_ in through] == [row.train_loss for row, *_ in plain]


def test_which_steps_a_training_takes(recipe, start, monkeypatch):
    model = start(recipe())

    def kind(compute=CUDA, updates=1000, **changes):
        return type(steps_of(model, recipe(**changes), compute, updates, print))

    assert kind() is kind(compile="graph", updates=3) is Captured
    assert kind(updates=steps.FEW - 1) is kind(CPU) is kind(compile="off") is kind(updates=0) is Steps
    assert kind(CPU, compile="torch") is Compiled
    with pytest.raises(HeadError, match="graphs need CUDA"):
        kind(CPU, compile="graph")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert kind() is kind(compile="torch") is Steps
