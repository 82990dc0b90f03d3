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
        captured.prepare(batch, alone=True)
        if len(captures) == 2:
            assert torch.equal(torch.get_rng_state(), rng), "dropout draws on as if nothing were"
            assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items()), "statistics too"
        model(batch)
        state = {name: t.clone() for name, t in model.state_dict().items()}
        rng = torch.get_rng_state()
    assert captures == ["capture", *["replay 4"] * 3], "the first to see whether it is the same, then two steps"
    assert said == ["training steps are captured as CUDA graphs"]
    model.eval()(images)
    model.train()
    next(model.parameters()).requires_grad_(False)  # unfrozen later, or frozen
    for _ in range(2):
        captured.prepare(images, alone=True)
        model(images)
    assert captures[4:] == ["capture", "replay 4", "replay 4"]
    captured.end()
    assert "forward" not in vars(model)


def test_captures_that_compute_something_else_are_not_used(recipe, start, monkeypatch):
    def wrong(module, sample, allow_unused_input):
        plain = module.forward
        vars(module)["forward"] = lambda images: plain(images).detach() + plain(images) * 0.9

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", wrong)
    model, said, images = start(recipe(dropout=(0, 0))).train(), [], torch.rand(4, 3, 24, 24)
    captured = Captured(model, 4, said.append)
    for _ in range(3):
        captured.prepare(images, alone=True)
    assert said == ["training steps are not captured as CUDA graphs: they computed something else"]
    assert "forward" not in vars(model)
    captured = Captured(model, 4, said.append)
    captured.prepare(images, alone=False)
    captured.prepare(images, alone=True)
    assert "next photos are brought to the GPU" in said[1]


def test_what_cannot_be_captured_runs_as_ever(recipe, start, monkeypatch):
    def refuse(*args, **options):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refuse)
    model, said, images = start(recipe()).train(), [], torch.rand(4, 3, 24, 24)
    own = vars(model)["forward"] = model.forward  # accelerate's
    captured = Captured(model, 4, said.append)
    for _ in range(3):
        captured.prepare(images, alone=True)
        assert model(images).shape == (4, 3)
    assert len(said) == 1
    assert "not captured as CUDA graphs: RuntimeError: CUDA error: operation not permitted" in said[0]
    captured.end()
    assert vars(model)["forward"] is own


class Curious(torch.nn.Module):
    """Waits for the GPU in its forward pass, which no capture can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3), torch.nn.Dropout(0.5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images) * (1 + (images.sum().item() > 1e9))


@pytest.mark.cuda
def test_a_failed_capture_leaves_the_gpu_as_it_was():
    model, said, images = Curious().cuda().train(), [], torch.rand(4, 3, 2, 2, device="cuda")
    captured = Captured(model, 4, said.append)
    captured.prepare(images, alone=True)
    model(images).sum().backward()
    torch.manual_seed(3)
    expected = model(images)
    torch.manual_seed(3)
    captured.prepare(images, alone=True)
    assert "not captured as CUDA graphs" in said[0]
    assert torch.equal(model(images), expected), "the same dropout"
    torch.cuda.synchronize()


@pytest.mark.cuda
def test_captured_dropout_goes_on_from_its_seed():
    model, said, images = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(8, 3)).cuda(), [], None
    captured = Captured(model, 4, said.append)
    images = torch.rand(4, 8, device="cuda")
    for _ in range(2):
        captured.prepare(images, alone=True)
        model(images).sum().backward()
    assert said == ["training steps are captured as CUDA graphs"]

    def draws(module):
        torch.manual_seed(5)
        return torch.stack([module(images).detach().clone() for _ in range(3)])

    replayed = draws(model)
    assert not torch.equal(replayed[0], replayed[1])
    captured.end()
    torch.testing.assert_close(draws(model), replayed)


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
