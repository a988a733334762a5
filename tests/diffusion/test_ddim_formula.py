"""DDIM against the published formula, written down a second time: scalar by scalar, in float64, with nothing of ours.

Song, Meng & Ermon 2020 (arXiv:2010.02502), eq. 12 with σ of eq. 16; ᾱ of Nichol & Dhariwal 2021 (arXiv:2102.09672),
eq. 17. Checked to fail when put wrong one at a time in ``samplers.py``: σ without its first root, √(1 − ᾱ_s) where
√(1 − ᾱ_s − σ²) belongs, ᾱ of t and s swapped in σ, ε̂ with √ᾱ_s in place of √ᾱ_t, z off its centre, steps counted
from T − 2 instead of T − 1; and in ``schedule.py``: the offset s left out, no division by f(0).
"""

from __future__ import annotations

import math

import pytest
import torch

from minifold_pl.diffusion.draws import keyed_generator
from minifold_pl.diffusion.samplers import ddim
from minifold_pl.diffusion.schedule import CosineSchedule
from minifold_pl.types import Denoised

TIMESTEPS, OFFSET = 1000, 0.008
LENGTH = 5


def alpha_bar(t: int) -> float:
    def f(u: int) -> float:
        return math.cos((u / TIMESTEPS + OFFSET) / (1 + OFFSET) * math.pi / 2) ** 2

    return f(t) / f(0)


def guess(x: float, t: int) -> float:
    """A denoiser that is neither linear nor the same at every timestep."""
    return math.tanh(x) * (1 - t / 1200) + 0.3 * math.sin(3 * x + t)


def centred(columns: list[list[float]]) -> list[list[float]]:
    """Residues × coordinates, with the mean residue taken out."""
    means = [sum(row[k] for row in columns) / len(columns) for k in range(3)]
    return [[row[k] - means[k] for k in range(3)] for row in columns]


def noise(generator: torch.Generator) -> list[list[float]]:
    """The numbers that the chain's stream gives next; drawing is not what is tested."""
    return centred(torch.randn(LENGTH, 3, generator=generator).double().tolist())


def reference(steps: int, eta: float) -> list[list[list[float]]]:
    """Every x, from x_999 to the sample."""
    generator = keyed_generator("formula")
    times = [round((TIMESTEPS - 1) * (1 - k / steps)) for k in range(steps)]
    x = noise(generator)
    trajectory = [x]
    for k, t in enumerate(times):
        s = times[k + 1] if k + 1 < steps else 0
        a_t, a_s = alpha_bar(t), alpha_bar(s)
        x0 = centred([[guess(value, t) for value in row] for row in x])
        sigma = eta * math.sqrt((1 - a_s) / (1 - a_t)) * math.sqrt(1 - a_t / a_s)
        z = noise(generator) if sigma > 0 else [[0.0] * 3] * LENGTH
        before, x = x, []
        for i in range(LENGTH):
            row = []
            for c in range(3):
                eps = (before[i][c] - math.sqrt(a_t) * x0[i][c]) / math.sqrt(1 - a_t)
                direction = math.sqrt(max(1 - a_s - sigma**2, 0.0)) * eps
                row.append(math.sqrt(a_s) * x0[i][c] + direction + sigma * z[i][c])
            x.append(row)
        trajectory.append(x)
    return trajectory


def test_the_schedule_is_the_published_one_at_every_timestep() -> None:
    ours = CosineSchedule(timesteps=TIMESTEPS, s=OFFSET).alpha_bar(torch.arange(TIMESTEPS), torch.float64)
    expected = torch.tensor([alpha_bar(t) for t in range(TIMESTEPS)], dtype=torch.float64)
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_every_step_of_ddim_is_the_published_formula(steps, eta) -> None:
    def denoise(x_t, t, previous):
        # As the reference's: through Python's own functions, in float64.
        x0 = torch.tensor(
            [[[guess(v, int(t[0])) for v in row] for row in chain] for chain in x_t.double().tolist()]
        )
        return Denoised(x0, torch.eye(3).expand(*x_t.shape[:2], 3, 3))

    result = ddim(
        denoise, CosineSchedule(timesteps=TIMESTEPS, s=OFFSET), torch.ones(1, LENGTH, dtype=torch.bool),
        generators=[keyed_generator("formula")], steps=steps, eta=eta, keep_trajectory=True,
    )  # fmt: skip
    expected = torch.tensor(reference(steps, eta))
    assert result.trajectory.shape[0] == steps + 1
    # Ours runs in float32 where the reference runs in float64.
    torch.testing.assert_close(result.trajectory[:, 0], expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("scale", [0.8, 1.1, 3.0])
def test_a_scaled_step_is_eulers_in_the_chain_without_its_signal_factor_and_never_past_the_estimate(
    scale,
) -> None:
    """y = x/√ᾱ, dy/dσ = (y − x̂0)/σ (Karras et al. 2022, eq. 1); η of AlphaFold 3, suppl., Algorithm 18."""
    estimates: list[float] = []

    def denoise(x_t, t, previous):
        x0 = torch.tensor(
            [[[guess(v, int(t[0])) for v in row] for row in chain] for chain in x_t.double().tolist()]
        )
        estimates.append(float((x0 - x0.mean(1, keepdim=True))[0, 0, 0]))
        return Denoised(x0, torch.eye(3).expand(*x_t.shape[:2], 3, 3))

    result = ddim(
        denoise, CosineSchedule(timesteps=TIMESTEPS, s=OFFSET), torch.ones(1, LENGTH, dtype=torch.bool),
        generators=[keyed_generator("formula")], steps=6, step_scale=scale, keep_trajectory=True,
    )  # fmt: skip
    times = [round((TIMESTEPS - 1) * (1 - k / 6)) for k in range(6)]
    reached = [float(x) for x in result.trajectory[:, 0, 0, 0]]
    stopped = 0
    for k in range(5):
        a_t, a_s = alpha_bar(times[k]), alpha_bar(times[k + 1])
        here, there = math.sqrt((1 - a_t) / a_t), math.sqrt((1 - a_s) / a_s)
        y = reached[k] / math.sqrt(a_t)
        share = min(scale * (here - there) / here, 1.0)
        stopped += share == 1.0
        assert reached[k + 1] == pytest.approx(
            math.sqrt(a_s) * (y - share * (y - estimates[k])), rel=1e-4, abs=1e-4
        )
    assert reached[6] == pytest.approx(estimates[5], abs=1e-5)
    assert stopped == {0.8: 0, 1.1: 1, 3.0: 5}[scale]


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_impossible_step_scales_are_refused(scale) -> None:
    with pytest.raises(ValueError, match="step_scale is"):
        ddim(
            lambda x, t, previous: Denoised(x, torch.eye(3)), CosineSchedule(timesteps=TIMESTEPS, s=OFFSET),
            torch.ones(1, LENGTH, dtype=torch.bool), generators=[keyed_generator("formula")], step_scale=scale,
        )  # fmt: skip
