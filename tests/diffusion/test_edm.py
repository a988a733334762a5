"""Heun's and Euler's samplers on denoisers whose right answer is known.

The ground is the Gaussian case: of chains with N(0, c²) in every coordinate E[x0 | x_t] is a line, the ODE has a
solution on paper, and the SDE has to keep a known variance. Checked to fail, put wrong one at a time in ``edm.py``: σ'
in place of σ̂ in the first slope, σ̂ in place of σ' in the second, or the network told so; √ᾱ left out before the
network; noise of variance (σ̂ − σ)² instead of σ̂² − σ²; the network told t where it is t̂; γ not divided by the number
of steps, or not capped; S_noise left out; a start of half the noise; one generator for the whole batch; noise drawn at
the padded length; estimates not centred; a long last step; another ρ; timesteps that meet, or that begin above the
first.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from minifold_pl.diffusion.draws import centered_noise, keyed_generator
from minifold_pl.diffusion.edm import edm, edm_timesteps
from minifold_pl.diffusion.samplers import ddim, sampling_timesteps
from minifold_pl.diffusion.schedule import CosineSchedule
from minifold_pl.geometry.units import to_angstrom
from minifold_pl.metrics.tm import tm_kabsch
from minifold_pl.types import Denoised

SCHEDULE = CosineSchedule()
FINE = CosineSchedule(timesteps=100_000)
"""So many timesteps that it hardly matters where σ are rounded to."""
SPREAD = 0.7
"""c: about that of the coordinates of a chain of 60 residues, in model units."""


def keys(*names):
    return [keyed_generator("sample", name) for name in names]


def rotations_like(x):
    return torch.eye(3).expand(*x.shape[:2], 3, 3)


def oracle(x0):
    return lambda x_t, t, previous: Denoised(x0, rotations_like(x_t))


def shrinking(x_t, t, previous):
    """Answers from x_t alone, so that a sample shows every number that was drawn."""
    return Denoised(0.5 * x_t, rotations_like(x_t))


def sigma(t, schedule=SCHEDULE):
    return schedule.sigma(torch.as_tensor(t), torch.float64)


def gaussian_posterior(schedule):
    """E[x0 | x_t] where every coordinate of x0 is N(0, c²)."""

    def denoise(x_t, t, previous):
        alpha_bar = schedule.alpha_bar(t, torch.float64)[:, None, None]
        gain = alpha_bar.sqrt() * SPREAD**2 / (alpha_bar * SPREAD**2 + 1 - alpha_bar)
        return Denoised(gain * x_t.double(), rotations_like(x_t))

    return denoise


# --- timesteps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [2, 7, 13, 25, 50, 100, 250, 992])
@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_timesteps_fall_from_sigma_max_to_the_least_noise(steps, rho) -> None:
    times = edm_timesteps(SCHEDULE, steps, rho=rho)
    assert len(times) == steps
    assert all(a > b for a, b in pairwise(times))
    assert times[-1] == 1
    assert times[0] == 992
    assert sigma(991) < 80 < sigma(993)


def test_timesteps_are_the_nearest_to_the_published_sigmas() -> None:
    """Karras et al. 2022, eq. 5, ρ = 7, from 80 to 0.5, in 9 steps."""
    root = [80 ** (1 / 7) + k / 8 * (0.5 ** (1 / 7) - 80 ** (1 / 7)) for k in range(9)]
    expected = [r**7 for r in root]
    times = edm_timesteps(FINE, 9, sigma_min=0.5, sigma_max=80.0)
    torch.testing.assert_close(
        sigma(times, FINE), torch.tensor(expected, dtype=torch.float64), rtol=2e-3, atol=0
    )
    for t, wanted in zip(edm_timesteps(SCHEDULE, 9, sigma_min=0.5), expected, strict=True):
        near = [abs(math.log(float(sigma(t + k)) / wanted)) for k in (-1, 0, 1)]
        assert min(near) == near[1]


def test_what_lies_beyond_the_schedule_is_its_end() -> None:
    assert edm_timesteps(SCHEDULE, 4, sigma_min=1e-6, sigma_max=1e6)[::3] == (999, 1)
    assert edm_timesteps(SCHEDULE, 1) == (992,)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 993}, "allow 1 to 992"),
        ({"sigma_min": 3.0, "sigma_max": 2.0}, "sigma_min is 3.0 and sigma_max 2.0"),
        ({"sigma_min": 0.0}, "sigma_min is 0.0"),
        ({"rho": 0.0}, "rho is 0.0"),
    ],
)
def test_impossible_levels_are_refused_by_name(wrong, named) -> None:
    with pytest.raises(ValueError, match=named):
        edm_timesteps(SCHEDULE, **{"steps": 5, **wrong})


# --- the ODE -------------------------------------------------------------------------------------


def ode_error(schedule, steps, order) -> float:
    """Relative, at the last σ, against the solution y(σ) = y(σ0) √((c² + σ²) / (c² + σ0²))."""
    times = edm_timesteps(schedule, steps)
    result = edm(
        gaussian_posterior(schedule), schedule, torch.ones(1, 20, dtype=torch.bool), generators=keys(0),
        times=times, order=order, keep_trajectory=True,
    )  # fmt: skip
    first, last = sigma([times[0], times[-1]], schedule)
    start, end = (result.trajectory[k].double() * (1 + s**2).sqrt() for k, s in ((0, first), (-2, last)))
    exact = start * ((SPREAD**2 + last**2) / (SPREAD**2 + first**2)).sqrt()
    return float((end - exact).norm() / exact.norm())


@pytest.mark.parametrize("schedule", [SCHEDULE, FINE], ids=["1000", "100000"])
@pytest.mark.parametrize(("order", "gain"), [(1, 2.0), (2, 4.0)], ids=["euler", "heun"])
def test_twice_the_steps_halve_eulers_error_and_quarter_heuns(schedule, order, gain) -> None:
    errors = [ode_error(schedule, steps, order) for steps in (16, 32, 64, 128)]
    ratios = [a / b for a, b in pairwise(errors)]
    # Measured: 1.97 to 2.00 and 4.56, 4.27, 4.12.
    assert all(ratio == pytest.approx(gain, rel=0.16) for ratio in ratios)
    assert ratios[-1] == pytest.approx(gain, rel=0.05)
    assert errors[-1] < (0.03 if order == 1 else 1e-3)


def test_at_the_same_number_of_network_calls_heun_is_nearer_to_the_solution() -> None:
    # Measured: 0.022 against 0.052 with 49 calls, 0.005 against 0.026 with 99; 0.094 against 0.101 with 25.
    for steps, share in ((25, 0.5), (50, 0.25)):
        assert ode_error(SCHEDULE, steps, 2) < share * ode_error(SCHEDULE, 2 * steps - 1, 1)


def test_euler_without_churn_is_ddim_at_eta_zero_step_for_step(make_mask) -> None:
    """Song et al. 2020, section 4.3: DDIM is Euler's method in x_t / √ᾱ."""

    def crooked(x_t, t, previous):
        return Denoised(x_t.tanh() * 0.5 + 0.1 * (3 * x_t).sin(), rotations_like(x_t))

    mask = make_mask([9, 6])
    song = ddim(crooked, SCHEDULE, mask, generators=keys(0, 1), steps=12, keep_trajectory=True)
    times = sampling_timesteps(1000, 12)
    euler = edm(crooked, SCHEDULE, mask, generators=keys(0, 1), times=times, order=1, keep_trajectory=True)
    torch.testing.assert_close(euler.trajectory, song.trajectory, atol=2e-5, rtol=0)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("churn", [0.0, 4.0])
def test_what_the_network_is_shown_has_the_noise_of_the_timestep_that_it_is_told(
    make_chain, order, churn
) -> None:
    """Of an oracle, so that all that differs from √ᾱ x0 is noise: its size is √(1 − ᾱ) at every call."""
    x0, seen = make_chain(400, keyed_generator(0))[None], []

    def denoise(x_t, t, previous):
        alpha_bar = SCHEDULE.alpha_bar(t, torch.float64)[0].item()
        noise = (x_t.double() - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5
        seen.append((int(t[0]), float(noise.square().mean().sqrt())))
        return Denoised(x0, rotations_like(x_t))

    mask = torch.ones(1, 400, dtype=torch.bool)
    times = edm_timesteps(SCHEDULE, 8)
    edm(denoise, SCHEDULE, mask, generators=keys(0), times=times, order=order, churn=churn)
    told = [t for t, _ in seen]
    assert all(size == pytest.approx(1, abs=0.08) for _, size in seen)
    assert len(told) == (15 if order == 2 else 8)
    if churn == 0:
        expected = list(times) if order == 1 else [times[0], *(t for t in times[1:] for _ in range(2))]
        assert told == expected
    else:
        assert max(told) > times[0]


# --- the SDE -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("churn", [0.0, 2.0, 40.0])
def test_marginal_variance_of_every_x_s_is_that_of_the_forward_process(order, churn) -> None:
    chains, length = 800, 4
    mask = torch.ones(chains, length, dtype=torch.bool)
    times = edm_timesteps(SCHEDULE, 8)
    result = edm(
        oracle(torch.zeros(chains, length, 3)), SCHEDULE, mask, generators=keys(*range(chains)), times=times,
        order=order, churn=churn, keep_trajectory=True,
    )  # fmt: skip
    expected = (1 - SCHEDULE.alpha_bar(torch.tensor([*times, 0]))) * (1 - 1 / length)
    # 9,600 numbers with 3/4 of their degrees of freedom: relative standard error 1.7 %.
    torch.testing.assert_close(result.trajectory.var((1, 2, 3)), expected, rtol=0.07, atol=1e-6)


@pytest.mark.parametrize("churn", [0.0, 10.0, 40.0])
def test_samples_of_gaussian_chains_have_the_variance_of_the_data(churn) -> None:
    chains, length = 120, 41
    mask = torch.ones(chains, length, dtype=torch.bool)
    times = edm_timesteps(SCHEDULE, 100)
    x0 = edm(
        gaussian_posterior(SCHEDULE),
        SCHEDULE,
        mask,
        generators=keys(*range(chains)),
        times=times,
        churn=churn,
    ).x0
    # 14,400 degrees of freedom: relative standard error of the variance 1.2 %. The error of the steps falls with their
    # number: at a churn of 40 it is 22 % with 20 steps, 6 % with 40 and not to be seen with 100.
    assert x0.var().item() == pytest.approx(SPREAD**2 * (1 - 1 / length), rel=0.05)


def test_too_little_fresh_noise_or_too_much_shows_in_the_variance() -> None:
    """The last test could otherwise pass on noise that is of no consequence."""
    chains, length = 40, 41
    mask = torch.ones(chains, length, dtype=torch.bool)

    def variance(noise_scale):
        return edm(
            gaussian_posterior(SCHEDULE), SCHEDULE, mask, generators=keys(*range(chains)),
            times=edm_timesteps(SCHEDULE, 100), churn=40.0, noise_scale=noise_scale,
        ).x0.var().item()  # fmt: skip

    assert variance(0.8) < 0.85 * variance(1.0) < 0.75 * variance(1.2)


def test_churn_acts_between_its_limits_alone(make_mask) -> None:
    def told(**limits):
        seen = []

        def denoise(x_t, t, previous):
            seen.append(int(t[0]))
            return shrinking(x_t, t, previous)

        times = edm_timesteps(SCHEDULE, 10)
        edm(denoise, SCHEDULE, make_mask([9]), generators=keys(0), times=times, order=1, churn=3.0, **limits)
        return [float(sigma(t)) for t, hat in zip(times, seen, strict=True) if hat != t]

    everywhere, middle = told(), told(churn_min=0.05, churn_max=50.0)
    assert len(everywhere) >= 9  # at one end or the other a timestep may be too coarse for a third more noise
    assert middle == [s for s in everywhere if 0.05 <= s <= 50]
    assert 0 < len(middle) < len(everywhere)


def test_churn_is_shared_by_the_steps_and_adds_at_most_as_much_noise_as_there_is(make_mask) -> None:
    def growth(churn):
        seen = []

        def denoise(x_t, t, previous):
            seen.append(int(t[0]))
            return shrinking(x_t, t, previous)

        times = (800, 500)
        edm(denoise, SCHEDULE, make_mask([9]), generators=keys(0), times=times, order=1, churn=churn)
        return [float(sigma(hat)) / float(sigma(t)) for t, hat in zip(times, seen, strict=True)]

    assert growth(0.4) == [pytest.approx(1.2, rel=0.01)] * 2
    # γ = √2 − 1: σ̂² = 2 σ², whatever is asked for beyond 2 (√2 − 1).
    assert growth(1.0) == growth(1e6) == [pytest.approx(2**0.5, rel=0.01)] * 2


def test_a_longer_step_goes_further_and_not_in_the_last_step(make_mask, make_chain) -> None:
    mask, x0 = make_mask([9]), make_chain(9, keyed_generator(0))[None]
    times = (900, 500)

    def trajectory(step_scale):
        result = edm(
            oracle(x0), SCHEDULE, mask, generators=keys(0), times=times, order=1, step_scale=step_scale,
            keep_trajectory=True,
        )  # fmt: skip
        return result.trajectory[:2] * (1 + sigma(list(times))[:, None, None, None] ** 2).sqrt(), result.x0

    (start, plain), _ = trajectory(1.0)
    (_, longer), end = trajectory(1.5)
    torch.testing.assert_close(longer - start, 1.5 * (plain - start))
    torch.testing.assert_close(end, x0)


# --- as for DDIM ---------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [3, 10])
@pytest.mark.parametrize("churn", [0.0, 5.0])
@pytest.mark.parametrize("order", [1, 2])
def test_oracle_denoiser_reaches_tm_one(make_mask, make_chain, steps, churn, order) -> None:
    mask = make_mask([60, 85])
    truth = torch.zeros(2, 85, 3)
    for k, length in enumerate((60, 85)):
        truth[k, :length] = make_chain(length, keyed_generator(k))
    times = edm_timesteps(SCHEDULE, steps)
    sample = edm(oracle(truth), SCHEDULE, mask, generators=keys(0, 1), times=times, churn=churn, order=order)
    tm = tm_kabsch(to_angstrom(sample.x0), to_angstrom(truth), mask)
    torch.testing.assert_close(tm, torch.ones(2), atol=5e-4, rtol=0)


def best_tm(sample, library):
    pairs = [(to_angstrom(x.expand_as(library)), to_angstrom(library)) for x in sample]
    mask = torch.ones(library.shape[:2], dtype=torch.bool)
    return torch.stack([tm_kabsch(pred, true, mask).max() for pred, true in pairs])


def sample_posterior(denoise, length, chains=16, steps=25, **settings):
    mask = torch.ones(chains, length, dtype=torch.bool)
    times = edm_timesteps(SCHEDULE, steps)
    return edm(denoise, SCHEDULE, mask, generators=keys(*range(chains)), times=times, **settings).x0


@pytest.mark.parametrize("settings", [{}, {"churn": 10.0}, {"order": 1, "churn": 10.0}], ids=str)
def test_library_posterior_of_real_chains_reaches_tm_one(real_library, library_posterior, settings) -> None:
    sample = sample_posterior(library_posterior(real_library, SCHEDULE), 60, **settings)
    assert best_tm(sample, real_library).min() > 0.9995


@pytest.mark.parametrize("wrong", [{"scale": 1.3}, {"scale": 0.7}, {"mirrored": True}], ids=str)
def test_wrong_library_posterior_drops(real_library, library_posterior, wrong) -> None:
    sample = sample_posterior(library_posterior(real_library, SCHEDULE, **wrong), 60)
    assert best_tm(sample, real_library).mean() < 0.6


@pytest.mark.parametrize("churn", [0.0, 10.0])
def test_library_posterior_visits_many_structures(make_chain, library_posterior, churn) -> None:
    library = torch.stack([make_chain(30, keyed_generator("library", k)) for k in range(24)])
    sample = sample_posterior(library_posterior(library, SCHEDULE), 30, chains=64, churn=churn)
    nearest = (sample[:, None] - library).norm(dim=-1).amax(-1).min(1)
    assert nearest.values.max() < 1e-4
    # 64 draws from 24 equal structures meet 22.4 of them on average, fewer than 16 practically never.
    assert nearest.indices.unique().numel() >= 16


@pytest.mark.parametrize("churn", [0.0, 5.0])
def test_sample_of_a_chain_depends_neither_on_its_batch_nor_on_padding(make_mask, churn) -> None:
    times = edm_timesteps(SCHEDULE, 6)
    alone = edm(shrinking, SCHEDULE, make_mask([9]), generators=keys("x"), times=times, churn=churn)
    mask = make_mask([13, 9, 4], padded=16)
    together = edm(shrinking, SCHEDULE, mask, generators=keys("w", "x", "y"), times=times, churn=churn)
    torch.testing.assert_close(together.x0[1, :9], alone.x0[0], atol=1e-5, rtol=1e-5)
    assert (together.x0[~mask] == 0).all()


def test_without_churn_nothing_is_drawn_after_the_start(make_mask) -> None:
    generators = keys("x")
    edm(shrinking, SCHEDULE, make_mask([9]), generators=generators, times=edm_timesteps(SCHEDULE, 6))
    fresh = keys("x")
    centered_noise(make_mask([9]), fresh)
    assert torch.equal(torch.randn(3, generator=generators[0]), torch.randn(3, generator=fresh[0]))


def test_samples_of_one_key_repeat_and_of_two_keys_differ(make_mask) -> None:
    def sample(name):
        times = edm_timesteps(SCHEDULE, 6)
        return edm(shrinking, SCHEDULE, make_mask([9]), generators=keys(name), times=times, churn=5.0).x0

    assert torch.equal(sample("x"), sample("x"))
    assert not torch.allclose(sample("x"), sample("y"), atol=1e-3)


@pytest.mark.parametrize("self_condition", [True, False])
def test_each_estimate_reaches_the_next_call_only_with_self_conditioning(make_mask, self_condition) -> None:
    seen, given = [], []

    def denoise(x_t, t, previous):
        seen.append(previous)
        given.append(shrinking(x_t, t, previous))
        return given[-1]

    edm(
        denoise, SCHEDULE, make_mask([9]), generators=keys(0), times=edm_timesteps(SCHEDULE, 4),
        self_condition=self_condition,
    )  # fmt: skip
    assert len(seen) == 7
    assert seen[0] is None
    expected = given[:-1] if self_condition else [None] * 6
    assert all(a is b for a, b in zip(seen[1:], expected, strict=True))


def test_last_step_returns_the_estimate_and_its_rotation(make_mask, make_chain) -> None:
    x0, rotation = make_chain(9, keyed_generator(0))[None], torch.randn(1, 9, 3, 3)
    times = edm_timesteps(SCHEDULE, 3)
    result = edm(
        lambda *_: Denoised(x0, rotation),
        SCHEDULE,
        make_mask([9]),
        generators=keys(0),
        times=times,
        churn=5.0,
    )
    torch.testing.assert_close(result.x0, x0, atol=1e-6, rtol=0)
    assert result.rotation is rotation
    assert result.trajectory is None


def test_drifting_estimate_is_recentred_at_every_step(make_mask) -> None:
    drifting = lambda x_t, t, previous: Denoised(0.5 * x_t + 7, rotations_like(x_t))  # noqa: E731
    result = edm(
        drifting, SCHEDULE, make_mask([9, 6]), generators=keys(0, 1), times=edm_timesteps(SCHEDULE, 6), churn=5.0,
        keep_trajectory=True,
    )  # fmt: skip
    means = result.trajectory.sum(2)
    # σ up to 80: float32 rounds its sums to that.
    torch.testing.assert_close(means, torch.zeros_like(means), atol=1e-3, rtol=0)


def test_half_precision_estimates_leave_the_sample_in_float32(make_mask) -> None:
    half = lambda x_t, t, previous: Denoised(0.5 * x_t.bfloat16(), rotations_like(x_t))  # noqa: E731
    times = edm_timesteps(SCHEDULE, 6)
    x0 = edm(half, SCHEDULE, make_mask([9]), generators=keys(0), times=times, churn=5.0).x0
    assert x0.dtype == torch.float32
    assert x0.isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"times": ()}, "times are"),
        ({"times": (5, 5)}, "times are"),
        ({"times": (5, 0)}, "times are"),
        ({"times": (1000, 5)}, "times are"),
        ({"churn": -1.0}, "churn is -1.0"),
        ({"churn": float("nan")}, "churn is nan"),
        ({"step_scale": 1.5}, "step_scale is 1.5"),
    ],
)
def test_impossible_settings_are_refused_by_name(make_mask, wrong, named) -> None:
    with pytest.raises(ValueError, match=named):
        edm(shrinking, SCHEDULE, make_mask([9]), generators=keys(0), **{"times": (900, 5), **wrong})
