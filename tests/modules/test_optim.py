"""Learning-rate groups and schedules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from minifold_pl.modules.optim import (
    REST,
    Constant,
    CosineRestarts,
    OptimizerConfig,
    ThreePhase,
    WarmupCosine,
    build_optimizer,
    build_scheduler,
    parameter_groups,
)

STAGE_1_COLUMN = (
    "3.33e-05 6.67e-05 1.00e-04 1.33e-04 1.67e-04 2.00e-04 2.00e-04 1.99e-04 1.98e-04 1.97e-04 1.96e-04 1.94e-04 "
    "1.92e-04 1.89e-04 1.87e-04 1.84e-04 1.80e-04 1.77e-04 1.73e-04 1.69e-04 1.64e-04 1.60e-04 1.55e-04 1.50e-04 "
    "1.45e-04"
)
"""LR of epochs 1 to 25 as printed in the Mini-Fold write-up, in the training table of the contact classifier."""


def _model() -> nn.Module:
    model = nn.Module()
    model.pair_stack = nn.Linear(3, 3)
    model.aux = nn.Linear(3, 3)
    model.aux_other = nn.Linear(3, 3)
    model.denoiser = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    return model


def _rates(config: OptimizerConfig, schedule, steps_per_epoch: int, counts: int) -> list[dict[str, float]]:
    optimizer = build_optimizer(_model(), config)
    scheduler = build_scheduler(optimizer, schedule, steps_per_epoch)["scheduler"]
    rows = []
    for _ in range(counts):
        rows.append({g["name"]: g["lr"] for g in optimizer.param_groups})
        optimizer.step()
        scheduler.step()
    return rows


def test_stage_1_gives_the_printed_learning_rates_to_the_digit() -> None:
    rows = _rates(OptimizerConfig(lr=2e-4), WarmupCosine(), steps_per_epoch=757, counts=25)
    assert " ".join(f"{row[REST]:.2e}" for row in rows) == STAGE_1_COLUMN


def test_three_phases_warm_up_hold_and_decay_to_the_same_floor_in_every_group() -> None:
    config = OptimizerConfig(lr=2e-5, group_lr={"pair_stack": 3.0, "aux": 2.0})
    rows = _rates(config, ThreePhase(), steps_per_epoch=2, counts=122)
    assert rows[0][REST] == pytest.approx(0.01 * 2e-5)
    assert rows[3][REST] == pytest.approx((0.01 + 0.99 * 0.5) * 2e-5)
    for count in (6, 20, 46):
        assert rows[count]["pair_stack"] == pytest.approx(6e-5)
        assert rows[count]["aux"] == pytest.approx(4e-5)
        assert rows[count][REST] == pytest.approx(2e-5)
    assert rows[83][REST] == pytest.approx(1e-6 + (2e-5 - 1e-6) * 0.5, rel=1e-6)
    assert all(rate == pytest.approx(1e-6) for rate in rows[121].values())
    assert rows[47][REST] < rows[46][REST]


@pytest.mark.parametrize(("factor", "eta_min"), [(1, 0.0), (2, 1e-6)])
def test_cosine_restarts_are_those_of_torch(factor: int, eta_min: float) -> None:
    schedule = CosineRestarts(period_epochs=15, period_factor=factor, eta_min=eta_min)
    rows = _rates(OptimizerConfig(lr=1e-4), schedule, steps_per_epoch=7, counts=62)
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1e-4)
    reference = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 15, factor, eta_min)
    for row in rows:
        assert row[REST] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        reference.step()
    assert rows[15][REST] == 1e-4 > 40 * rows[14][REST]


def test_impossible_restarts_are_refused() -> None:
    for wrong in ({"period_epochs": 0}, {"period_factor": 0}, {"eta_min": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            CosineRestarts(**wrong)


def test_a_constant_schedule_is_constant() -> None:
    assert {row[REST] for row in _rates(OptimizerConfig(), Constant(), 3, 5)} == {2e-5}


def test_a_prefix_takes_the_module_of_that_name_and_no_longer_name() -> None:
    groups = parameter_groups(_model().named_parameters(), ["aux", "denoiser.1"])
    assert [name for name, _ in groups["aux"]] == ["aux.weight", "aux.bias"]
    assert [name for name, _ in groups["denoiser.1"]] == ["denoiser.1.weight", "denoiser.1.bias"]
    assert {name.split(".")[0] for name, _ in groups[REST]} == {"pair_stack", "aux_other", "denoiser"}


def test_a_prefix_that_matches_nothing_is_named() -> None:
    with pytest.raises(ValueError, match=r"backbone_head.*modules here.*denoiser"):
        parameter_groups(_model().named_parameters(), ["backbone_head"])


def test_a_parameter_under_two_prefixes_is_named() -> None:
    with pytest.raises(ValueError, match=r"denoiser\.0\.weight lies under two"):
        parameter_groups(_model().named_parameters(), ["denoiser", "denoiser.0"])


def test_a_module_further_in_is_found_by_its_name_alone() -> None:
    """The write-up's head lay in the denoiser, was looked for at the top, and learned at a fifth of its rate."""
    named = [
        (n, nn.Parameter(torch.zeros(1)))
        for n in ("denoiser.head.weight", "denoiser.headless", "other.head.bias")
    ]
    groups = parameter_groups(named, ["head"])
    assert [n for n, _ in groups["head"]] == ["denoiser.head.weight", "other.head.bias"]
    assert [n for n, _ in groups["rest"]] == ["denoiser.headless"]
    # a name at the top means that one alone: pair_stack is not aux.pair_stack as well
    at_the_top = parameter_groups([*named, ("head.weight", nn.Parameter(torch.zeros(1)))], ["head"])
    assert [n for n, _ in at_the_top["head"]] == ["head.weight"]
    with pytest.raises(ValueError, match="two learning-rate prefixes"):
        parameter_groups(named, ["head", "denoiser"])


def test_a_frozen_module_may_be_named_and_is_not_trained() -> None:
    model = _model()
    model.aux.requires_grad_(False)
    optimizer = build_optimizer(model, OptimizerConfig(group_lr={"aux": 2.0}))
    trained = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert trained == {id(p) for p in model.parameters() if p.requires_grad}


def test_vectors_have_no_weight_decay() -> None:
    optimizer = build_optimizer(_model(), OptimizerConfig(weight_decay=0.1))
    for group in optimizer.param_groups:
        dims = {p.ndim for p in group["params"]}
        assert group["weight_decay"] == (0.0 if dims == {1} else 0.1)


def test_nothing_to_train_is_an_error() -> None:
    model = _model().requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        build_optimizer(model, OptimizerConfig())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimizerConfig(lr=0), "lr must be above 0"),
        (lambda: OptimizerConfig(group_lr={"a": -1.0}), "group_lr"),
        (lambda: WarmupCosine(warmup_epochs=60), "warmup_epochs"),
        (lambda: ThreePhase(constant_epochs=-1), "constant_epochs"),
        (lambda: ThreePhase(start_factor=0), "start_factor"),
    ],
)
def test_impossible_settings_are_refused_by_name(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_step_schedule_without_epochs_of_decay_ends_at_the_floor() -> None:
    assert ThreePhase(decay_epochs=0).factor(24.0, floor=0.5) == 0.5
    assert torch.tensor(ThreePhase().factor(0.0)).item() == pytest.approx(0.01)


def test_a_part_with_a_rate_of_its_own_keeps_it_whatever_the_schedule() -> None:
    model = _model()
    model.own_rates = {"aux": 1e-3}
    optimizer = build_optimizer(model, OptimizerConfig(lr=2e-5, group_lr={"pair_stack": 3.0}, muon_lr=1e-2))
    scheduler = build_scheduler(optimizer, ThreePhase(), steps_per_epoch=1)["scheduler"]
    seen = []
    for _ in range(60):
        optimizer.step()
        scheduler.step()
        seen.append({g["name"]: g["lr"] for g in optimizer.param_groups})
    assert {row["aux"] for row in seen} == {row["aux/vectors"] for row in seen} == {1e-3}
    assert len({row[f"{REST}/vectors"] for row in seen}) > 10
    with pytest.raises(ValueError, match="aux, which has a learning rate of its own"):
        build_optimizer(model, OptimizerConfig(group_lr={"aux": 2.0}))
