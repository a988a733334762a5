from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from minifold_pl.cli.costs import parameter_counts, state_bytes, step_cost
from minifold_pl.cli.main import main


def _described(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["describe", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_modules_add_up_to_the_published_count(capsys: pytest.CaptureFixture[str]) -> None:
    told = _described(capsys, "--config", "v13.yaml", "--batch", "1", "--length", "16")
    for kind in ("total", "trainable", "frozen"):
        assert told[kind] == sum(part[kind] for part in told["modules"].values())
    assert told["total"] == told["trainable"] + told["frozen"]
    # Mini-Fold's write-up: 35–38 M for v13, 1.2 M of them the frozen encoder.
    assert told["total"] == pytest.approx(35.07e6, rel=0.02)
    assert told["frozen"] == pytest.approx(1.191e6, rel=0.02)
    assert told["flops"]["measured_on"] == "meta"


def test_costs_grow_as_they_must(capsys: pytest.CaptureFixture[str]) -> None:
    one, two, long = (
        _described(capsys, "--config", "v13_small.yaml", "--batch", str(batch), "--length", str(length))
        for batch, length in ((1, 32), (2, 32), (1, 64))
    )
    assert two["flops"]["forward"] == pytest.approx(2 * one["flops"]["forward"], rel=0.05)
    assert 2 * one["flops"]["forward"] < long["flops"]["forward"] < 8 * one["flops"]["forward"]
    assert 2 * one["flops"]["forward"] < one["flops"]["step"] < 5 * one["flops"]["forward"]
    assert two["memory_bytes"]["activations"] > 1.8 * one["memory_bytes"]["activations"]
    assert two["memory_bytes"]["weights"] == one["memory_bytes"]["weights"] == 4 * one["total"]
    assert one["memory_bytes"]["adam"] == 8 * one["trainable"]


def test_a_setting_can_be_changed(capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--config", "v13_small.yaml", "--batch", "1", "--length", "8")
    frozen = _described(capsys, *small)
    joint = _described(capsys, *small, "--set", "model.init_args.freeze_encoder=false")
    assert frozen["frozen"] > 0
    assert joint["frozen"] == 0
    assert joint["total"] == frozen["total"]


def test_the_table_names_every_module(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "--config", "v13_small.yaml", "--batch", "1", "--length", "8"]) == 0
    shown = capsys.readouterr().out
    for name in ("encoder", "pair_stack", "denoiser", "aux", "rg_head", "trainable", "frozen", "GFLOP"):
        assert name in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "nowhere.yaml"], "no config 'nowhere.yaml'"),
        (["--config", "v13_small.yaml", "--length", "5000"], "--length 5000: this model reads up to"),
        (["--config", "v13_small.yaml", "--set", "model.init_args.nonsense=1"], "nonsense"),
    ],
)
def test_wrong_use_is_told(arguments: list[str], said: str, told) -> None:
    assert main(["describe", *arguments]) == 2
    assert said in told()


class _Line(nn.Module):
    """A part that is frozen and one that is not, with known costs."""

    def __init__(self, looks_at_values: bool = False) -> None:
        super().__init__()
        self.frozen = nn.Linear(8, 16, bias=False).requires_grad_(False)
        self.head = nn.Linear(16, 4, bias=False)
        self.looks_at_values = looks_at_values

    def example_batch(self, batch_size: int, length: int) -> torch.Tensor:
        return torch.ones(batch_size, length, 8, device=self.head.weight.device)

    def losses(self, batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        total = self.head(self.frozen(batch)).square().sum()
        if self.looks_at_values:
            assert total.item() >= 0
        return total, {}


@pytest.mark.parametrize("looks_at_values", [False, True])
def test_known_costs_are_counted_on_the_meta_device_and_by_a_real_pass(looks_at_values: bool) -> None:
    cost = step_cost(_Line(looks_at_values), batch_size=2, length=3)
    assert cost.measured_on == ("cpu" if looks_at_values else "meta")
    first, second = 2 * 6 * 8 * 16, 2 * 6 * 16 * 4
    assert cost.flops_forward == first + second
    # Backward: the gradient of the head's weight alone; nothing reaches the frozen part.
    assert cost.flops_step == first + 2 * second
    # Kept: the head's input and output, float32.
    assert cost.activation_bytes == 4 * 6 * (16 + 4)


def test_parameters_and_states_are_counted_by_part() -> None:
    line = _Line()
    assert parameter_counts(line) == {
        "frozen": {"total": 128, "trainable": 0, "frozen": 128},
        "head": {"total": 64, "trainable": 64, "frozen": 0},
    }
    assert state_bytes(line) == {"weights": 768, "gradients": 256, "adam": 512, "ema": 768}
