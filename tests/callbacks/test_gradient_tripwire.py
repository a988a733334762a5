"""Dead gradients: noise after a while, and a halt."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from minifold_pl.callbacks.gradient_tripwire import GradientTripwire, TripwireLimits
from minifold_pl.run.events import read_events
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.halt import RunHalted


class Net(nn.Module):
    """A pair stack of four weights and something else."""

    seed = 5

    def __init__(self) -> None:
        super().__init__()
        self.pair_stack, self.denoiser = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)


class Steps:
    """Passes gradients of given norms to a tripwire."""

    def __init__(self, folder: Path, **limits: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.limits = TripwireLimits(**limits)
        self.step = 0
        self.fresh()

    def fresh(self) -> None:
        self.net = Net()
        self.callback = GradientTripwire({"pair_stack": self.limits})
        self.callback.on_fit_start(SimpleNamespace(), self.net)

    def take(self, norm: float | None) -> torch.Tensor | None:
        """The pair stack's gradient after the callback, given one of ``norm`` before (None: dropped)."""
        for part in (self.net.pair_stack, self.net.denoiser):
            part.weight.grad = None if norm is None else torch.full((2, 2), norm / 2)
        trainer = SimpleNamespace(
            global_step=self.step,
            is_global_zero=True,
            current_epoch=0,
            default_root_dir=self.folder,
            loggers=[],
        )
        self.callback.on_before_optimizer_step(trainer, self.net, SimpleNamespace())
        self.step += 1
        gradient = self.net.pair_stack.weight.grad
        return None if gradient is None else gradient.clone()

    def events(self) -> list[tuple[str, int]]:
        return [(e["event"], e["step"]) for e in read_events(RunFolder(self.folder).events)]


def test_noise_comes_with_the_last_step_of_the_patience_and_stays_until_the_norm_is_back(tmp_path) -> None:
    steps = Steps(tmp_path, patience=3)
    plain = torch.full((2, 2), 0.0025)
    for _ in range(2):
        assert torch.equal(steps.take(0.005), plain)
    noisy = [steps.take(0.005) - plain for _ in range(3)]
    assert all(n.abs().max() > 0 for n in noisy)
    assert not torch.equal(noisy[0], noisy[1])
    assert torch.equal(steps.take(0.02), torch.full((2, 2), 0.01))
    assert torch.equal(steps.take(0.005), plain)
    assert steps.events() == [("tripwire", 2), ("tripwire_recovered", 5)]
    assert torch.equal(steps.net.denoiser.weight.grad, plain)  # nobody watches it


def test_the_noise_has_the_scale_it_says(tmp_path) -> None:
    steps = Steps(tmp_path, patience=1, noise_scale=0.01, halt_total=10_000)
    noise = torch.stack([steps.take(0.0) for _ in range(400)])
    assert noise.std().item() == pytest.approx(0.01, rel=0.06)
    assert abs(noise.mean().item()) < 0.001


def test_the_write_ups_figures_are_the_defaults() -> None:
    limits = TripwireLimits()
    assert (limits.noise_below, limits.patience, limits.noise_scale) == (0.01, 50, 0.01)
    assert (limits.halt_below, limits.halt_total) == (0.001, 500)


def test_steps_below_the_halt_limit_count_in_total_and_not_in_a_row(tmp_path) -> None:
    steps = Steps(tmp_path, patience=100, halt_total=4)
    for norm in (0.0005, 0.5, 0.0005, 0.5, 0.0005, 0.002):
        steps.take(norm)
    with pytest.raises(RunHalted, match=r"pair_stack was below 0\.001 in 4 steps"):
        steps.take(0.0)


def test_the_beginning_is_not_looked_at(tmp_path) -> None:
    steps = Steps(tmp_path, patience=2, halt_total=2, after_step=3)
    for _ in range(4):
        assert torch.equal(steps.take(0.0), torch.zeros(2, 2))
    with pytest.raises(RunHalted):
        steps.take(0.0)


def test_a_dropped_step_counts_neither_way(tmp_path) -> None:
    steps = Steps(tmp_path, patience=3)
    steps.take(0.005)
    steps.take(0.005)
    assert steps.take(None) is None
    assert not torch.equal(steps.take(0.005), torch.full((2, 2), 0.0025))  # the third in a row


def test_a_module_without_any_gradient_counts_as_dead_and_is_shaken(tmp_path) -> None:
    steps = Steps(tmp_path, patience=1)
    steps.net.denoiser.weight.grad = torch.ones(2, 2)
    steps.net.pair_stack.weight.grad = None
    trainer = SimpleNamespace(
        global_step=0, is_global_zero=True, current_epoch=0, default_root_dir=tmp_path, loggers=[]
    )
    steps.callback.on_before_optimizer_step(trainer, steps.net, SimpleNamespace())
    assert steps.net.pair_stack.weight.grad.abs().max() > 0


@pytest.mark.parametrize("stop", range(1, 12))
def test_a_resume_anywhere_gives_the_same_noise_and_the_same_halt(tmp_path, stop) -> None:
    norms = [0.02, 0.005, 0.005, 0.0005, 0.0005, 0.02, 0.0005, 0.005, 0.005, 0.0005, 0.02, 0.0005]

    def run(folder: Path, stop: int | None) -> list[torch.Tensor]:
        steps, seen = Steps(folder, patience=2, halt_total=5), []
        for i, norm in enumerate(norms):
            if i == stop:
                state = steps.callback.state_dict()
                steps.fresh()
                steps.callback.load_state_dict(state)
            if i == 11:
                with pytest.raises(RunHalted):
                    steps.take(norm)
            else:
                seen.append(steps.take(norm))
        return seen

    whole, stopped = run(tmp_path / "a", None), run(tmp_path / "b", stop)
    assert all(torch.equal(x, y) for x, y in zip(whole, stopped, strict=True))


def test_a_prefix_that_matches_nothing_is_named() -> None:
    with pytest.raises(ValueError, match="pair_stac"):
        GradientTripwire({"pair_stac": TripwireLimits()}).on_fit_start(SimpleNamespace(), Net())


@pytest.mark.parametrize("kwargs", [{"patience": 0}, {"noise_scale": -1.0}, {"halt_below": 0.1}])
def test_impossible_limits_are_refused(kwargs: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        TripwireLimits(**kwargs)
