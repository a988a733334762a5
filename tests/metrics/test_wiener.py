"""The smoother is the best linear guess, and only that."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from minifold_pl.diffusion.draws import centered_noise, keyed_generator
from minifold_pl.diffusion.schedule import CosineSchedule
from minifold_pl.geometry.units import center
from minifold_pl.metrics.tm import tm_kabsch
from minifold_pl.metrics.wiener import _chain_covariance, wiener_smoother

SCHEDULE = CosineSchedule()


def _noised(x0, mask, t, seed=0):
    eps = centered_noise(mask, [keyed_generator(seed, t, k) for k in range(len(x0))], torch.float64)
    alpha = SCHEDULE.alpha_bar(torch.full((len(x0),), t), torch.float64)
    return alpha.sqrt()[:, None, None] * x0 + 10 * (1 - alpha).sqrt()[:, None, None] * eps, alpha


def _gaussian_chains(count: int, length: int):
    """Drawn from the prior itself."""
    mask = torch.ones(count, length, dtype=torch.bool)
    values, vectors = torch.linalg.eigh(_chain_covariance(mask)[0])
    root = vectors * values.clamp(min=0).sqrt()
    draw = torch.randn(count, length, 3, dtype=torch.float64, generator=keyed_generator("chains"))
    return root @ draw, mask


def test_the_prior_has_bonds_of_3_80_and_angles_of_106_degrees() -> None:
    covariance = _chain_covariance(torch.ones(1, 9, dtype=torch.bool))[0]
    diagonal = covariance.diagonal()
    squared = 3 * (diagonal[:, None] + diagonal - 2 * covariance)
    torch.testing.assert_close(squared.diagonal(1), torch.full((8,), 3.8**2, dtype=torch.float64))
    # law of cosines at 106 degrees
    expected = 2 * 3.8**2 * (1 - torch.cos(torch.deg2rad(torch.tensor(106.0, dtype=torch.float64))))
    torch.testing.assert_close(squared.diagonal(2), expected.expand(7))
    torch.testing.assert_close(covariance.sum(0), torch.zeros(9, dtype=torch.float64), atol=1e-9, rtol=0)
    assert torch.linalg.eigvalsh(covariance).min() > -1e-9


@pytest.mark.parametrize("t", [75, 475, 900])
def test_no_linear_guess_along_its_own_line_has_a_smaller_error_on_gaussian_chains(t) -> None:
    x0, mask = _gaussian_chains(400, 30)
    noised, alpha = _noised(x0, mask, t)
    guess = wiener_smoother(noised, alpha, mask)

    def error(x):
        return float((x - x0).square().mean())

    assert all(error(scale * guess) > error(guess) for scale in (0.9, 1.1))
    assert error(0.9 * guess + 0.1 * noised) > error(guess)
    # Orthogonality: what is left has nothing to do with what was seen.
    leftover = (x0 - guess).flatten() @ guess.flatten() / guess.square().sum()
    assert abs(float(leftover)) < 0.03


def test_without_noise_it_is_the_chain_and_in_pure_noise_it_is_nearly_nothing() -> None:
    x0, mask = _gaussian_chains(4, 20)
    clean = wiener_smoother(x0, torch.full((4,), 1 - 1e-9), mask)
    torch.testing.assert_close(clean, x0, atol=1e-3, rtol=0)
    noise, alpha = _noised(torch.zeros_like(x0), mask, 999)
    assert wiener_smoother(noise, alpha, mask).norm(dim=-1).max() < 0.2


def test_padding_and_masked_junk_change_nothing_and_masked_residues_are_zero() -> None:
    x0, mask = _gaussian_chains(2, 16)
    mask[1, 10:] = False
    x0 = center(x0, mask)
    noised, alpha = _noised(x0, mask, 475)
    guess = wiener_smoother(noised, alpha, mask)
    junk = noised.clone()
    junk[1, 10:] = 1e6
    assert torch.equal(wiener_smoother(junk, alpha, mask), guess)
    assert (guess[~mask] == 0).all()
    alone = wiener_smoother(noised[1:, :10], alpha[1:], mask[1:, :10])
    torch.testing.assert_close(alone[0], guess[1, :10])


def test_it_turns_with_the_chain() -> None:
    x0, mask = _gaussian_chains(3, 12)
    noised, alpha = _noised(x0, mask, 225)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    torch.testing.assert_close(
        wiener_smoother(noised @ turn, alpha, mask), wiener_smoother(noised, alpha, mask) @ turn
    )


def test_on_real_chains_it_gives_the_floors_of_the_one_step_dashboard(real_data) -> None:
    traces = []
    with gzip.open(real_data / "ci_small.jsonl.gz", "rt") as file:
        for line in file:
            ca = torch.tensor(json.loads(line)["coords"]["CA"], dtype=torch.float64)
            if 60 <= len(ca) <= 125 and ca.isfinite().all():
                traces.append(ca)
    mask = torch.arange(125) < torch.tensor([len(ca) for ca in traces])[:, None]
    x0 = torch.zeros(len(traces), 125, 3, dtype=torch.float64)
    for row, ca in zip(x0, traces, strict=True):
        row[: len(ca)] = ca
    x0 = center(x0, mask)
    # Measured in an audit on other chains of these lengths, with independent bonds.
    for t, floor in zip((25, 75, 225, 475, 725, 975), (0.94, 0.82, 0.60, 0.38, 0.22, 0.105), strict=True):
        noised, alpha = _noised(x0, mask, t)
        tm = tm_kabsch(wiener_smoother(noised, alpha, mask), x0, mask)
        assert tm.mean().item() == pytest.approx(floor, abs=0.05), t
        assert tm.mean() >= tm_kabsch(noised, x0, mask).mean()
