from __future__ import annotations

import math

import pytest
import torch

from hybrid.errors import HeadError
from hybrid.heads.training.optim import Schedule, make_optimizer


def rates_of(optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def follow(start, settings, updates: int, losses=None):
    """Rates of all groups before each update, and the groups' relative rates."""
    optimizer = make_optimizer(start(settings), settings.optim)
    scales = [group["lr_scale"] for group in optimizer.param_groups]
    schedule, rates = Schedule(optimizer, settings.schedule, updates), [rates_of(optimizer)]
    for epoch in range(1, settings.schedule.epochs + 1):
        for batch in range(1, updates + 1):
            schedule.after_update(epoch, batch)
            rates.append(rates_of(optimizer))
        schedule.after_epoch(1.0 if losses is None else losses[epoch - 1])
        rates[-1] = rates_of(optimizer)
    return rates, scales


# Schedules


@pytest.mark.parametrize("layer_decay", [None, 0.5])
@pytest.mark.parametrize(("warmup_epochs", "epochs"), [(0, 4), (1, 4), (3, 4), (9, 4), (1, 1)])
def test_cosine_by_hand(recipe, start, warmup_epochs, epochs, layer_decay):
    settings = recipe(
        epochs=epochs, warmup_epochs=warmup_epochs, learning_rate=0.02, backbone_rate=0.1, layer_decay=layer_decay
    )
    rates, scales = follow(start, settings, updates=5)
    # Five layers of the smallest ResNet, with and without weight decay.
    backbone = [0.1] * 2 if layer_decay is None else [0.1 * 0.5**below for below in (4, 3, 2, 1, 0) for _ in range(2)]
    assert sorted(scales) == pytest.approx(sorted([1, 1, *backbone]))
    warmup = min(warmup_epochs, epochs - 1) * 5
    for number, groups in enumerate(rates):
        expected = 0.01 * (1 + math.cos(math.pi * number / (epochs * 5)))
        if number < warmup:
            expected = 0.0002 + (0.02 - 0.0002) * number / warmup
        assert groups == pytest.approx([expected * scale for scale in scales], rel=1e-9, abs=1e-12)


STEP = {"schedule": "step", "learning_rate": 0.02}


@pytest.mark.parametrize(("every", "factor"), [(5, 0.5), (1, 0.9), (3, 0.1)])
def test_step_is_torchs_step_lr(recipe, start, every, factor):
    step = STEP | {"decay_epochs": every, "decay_rate": factor}
    settings = recipe(**step, epochs=12, warmup_epochs=0, backbone_rate=0.25)
    rates, scales = follow(start, settings, updates=3)
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([parameter], lr=0.02)
    oracle, expected = torch.optim.lr_scheduler.StepLR(theirs, every, factor), []
    for _ in range(12):
        expected += [theirs.param_groups[0]["lr"]] * 3
        theirs.step()
        oracle.step()
    for groups, rate in zip(rates, expected, strict=False):
        assert groups == pytest.approx([rate * scale for scale in scales])
    # With a warm-up before the first step.
    rates, scales = follow(start, recipe(**STEP, decay_epochs=2, epochs=4, warmup_epochs=1), updates=4)
    for groups, rate in zip(rates, [0.0002, 0.00515, 0.0101, 0.01505, 0.02, 0.02, 0.02, 0.02, 0.01], strict=False):
        assert groups == pytest.approx([rate * scale for scale in scales])


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_plateau_is_torchs_own_and_none_is_constant(recipe, start, layer_decay):
    losses = [1.0, 0.9, 0.91, 0.95, 0.92, 0.8, 0.85, 0.81, 0.8, 0.79, 0.795, math.nan, 0.8]
    plateau = {"schedule": "plateau", "decay_epochs": 2, "decay_rate": 0.3, "epochs": len(losses)}
    settings = recipe(**plateau, learning_rate=0.02, backbone_rate=0.1, layer_decay=layer_decay)
    rates, scales = follow(start, settings, updates=2, losses=losses)
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([parameter], lr=0.02)
    oracle, expected = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, factor=0.3, patience=1), [0.02, 0.02]
    for loss in losses:
        oracle.step(loss)
        expected += [theirs.param_groups[0]["lr"]] * 2
    assert min(expected) < 0.02
    for groups, rate in zip(rates, expected, strict=False):
        assert groups == pytest.approx([rate * scale for scale in scales])
    # Two epochs without a fall of the loss, and the third is trained at the lower rate.
    settings = recipe(schedule="plateau", decay_epochs=2, decay_rate=0.5, learning_rate=0.02, epochs=5)
    rates, _ = follow(start, settings, updates=1, losses=[1.0, 1.0, 1.0, 1.0, 1.0])
    assert [groups[0] for groups in rates[:4]] == pytest.approx([0.02, 0.02, 0.02, 0.01])
    settings = recipe(schedule="none", learning_rate=0.02, backbone_rate=0.1, epochs=3)
    rates, scales = follow(start, settings, updates=2)
    assert sorted(set(scales)) == [0.1, 1.0]
    assert all(groups == pytest.approx([0.02 * scale for scale in scales]) for groups in rates)


@pytest.mark.parametrize("schedule", ["cosine", "step", "plateau", "none"])
def test_a_schedule_goes_on_where_it_stopped(recipe, start, schedule):
    losses = [1.0, 0.9, 0.95, 0.96, 0.97, 0.98]
    settings = recipe(schedule=schedule, epochs=6, decay_epochs=2, backbone_rate=0.1, layer_decay=0.5)
    expected, _ = follow(start, settings, updates=2, losses=losses)
    rates, states = [], None
    for epoch in range(1, 7):
        # A new process after each epoch.
        optimizer = make_optimizer(start(settings), settings.optim)
        scheduler = Schedule(optimizer, settings.schedule, 2)
        if states is not None:
            optimizer.load_state_dict(states[0])
            scheduler.load_state_dict(states[1])
        for batch in (1, 2):
            scheduler.after_update(epoch, batch)
        scheduler.after_epoch(losses[epoch - 1])
        rates.append(rates_of(optimizer))
        states = (optimizer.state_dict(), scheduler.state_dict())
    assert rates == expected[2::2]


# Optimizers


def test_optimizers_of_timm(recipe, start):
    model = start(recipe())
    for name, kind in (("adam", "Adam"), ("adamw", "AdamW"), ("lamb", "Lamb"), ("sgd", "SGD")):
        optimizer = make_optimizer(model, recipe(optimizer=name, momentum=0.7).optim)
        assert type(optimizer).__name__ == kind
    assert {(group["momentum"], group["nesterov"]) for group in optimizer.param_groups} == {(0.7, True)}
    with pytest.raises(HeadError, match="cannot make the optimizer nonsense") as caught:
        make_optimizer(model, recipe(optimizer="nonsense").optim)
    assert "adamw" in caught.value.expected
    assert "optimizer" in caught.value.fix


@pytest.mark.parametrize("name", ["adamw", "Adam", "sgd", "momentum", "lamb", "rmsprop"])
def test_updates_in_one_pass_over_memory_are_the_same_updates(recipe, start, name):
    """What torch has a fused kernel for uses it, on the devices that all versions of torch have it for."""
    settings = recipe(optimizer=name, weight_decay=0.1, learning_rate=0.01, schedule="none")
    model, twin = start(settings), start(settings)
    optimizer = make_optimizer(model, settings.optim)
    fused = name in ("adamw", "Adam")
    assert {group.get("fused", False) or False for group in optimizer.param_groups} == {fused}
    assert not any(
        group.get("fused") for group in make_optimizer(start(settings).to("meta"), settings.optim).param_groups
    )
    number = {id(parameter): index for index, parameter in enumerate(model.parameters())}
    own = list(twin.parameters())
    groups = [
        {**group, "params": [own[number[id(p)]] for p in group["params"]]} | ({"fused": False} if fused else {})
        for group in optimizer.param_groups
    ]
    oracle = type(optimizer)(groups, **({"lr": 0.01} if fused else {}))
    rng = torch.Generator().manual_seed(0)
    for _ in range(3):
        for parameter, other in zip(model.parameters(), own, strict=True):
            parameter.grad = torch.randn(parameter.shape, generator=rng)
            other.grad = parameter.grad.clone()
        optimizer.step()
        oracle.step()
    for parameter, other in zip(model.parameters(), own, strict=True):
        torch.testing.assert_close(parameter, other, rtol=1e-5, atol=1e-6)


def test_a_step_of_momentum_sgd_by_hand(recipe, start):
    settings = recipe(
        optimizer="momentum", momentum=0.5, learning_rate=0.1, backbone_rate=0.1, weight_decay=0.0, schedule="none"
    )
    model = start(settings)
    optimizer = make_optimizer(model, settings.optim)
    Schedule(optimizer, settings.schedule, 1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    for name, parameter in model.named_parameters():
        # Velocities 1 and 1.5.
        expected = before[name] - 2.5 * (0.1 if name.startswith("classifier.") else 0.01)
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-6)
