"""The sampler on denoisers whose right answer is known.

An oracle is necessary and too weak: it also reaches TM 1 with the sign of ε̂ turned, or a start of half the noise. A
denoiser that gives the exact posterior mean over a library of structures sees these: the first through how many of its
structures are met, the second, like every wrong scale of σ or ε̂, through the variance of each x_s. Checked to fail, put
wrong one at a time: √ᾱ_t in place of √ᾱ_s before x̂0; a last step to t = 1; the sign of ε̂; a start of half the noise;
one generator for the whole batch; noise drawn at the padded length.
"""

from itertools import pairwise

import pytest
import torch

from minifold_pl.diffusion.draws import centered_noise, keyed_generator
from minifold_pl.diffusion.known_data import Oracle
from minifold_pl.diffusion.samplers import ddim, sampling_timesteps
from minifold_pl.diffusion.schedule import CosineSchedule
from minifold_pl.geometry.units import to_angstrom
from minifold_pl.metrics.tm import tm_kabsch
from minifold_pl.types import Denoised

SCHEDULE = CosineSchedule()


def keys(*names):
    return [keyed_generator("sample", name) for name in names]


def rotations_like(x):
    return torch.eye(3).expand(*x.shape[:2], 3, 3)


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_oracle_denoiser_reaches_tm_one(make_mask, make_chain, steps, eta):
    mask = make_mask([60, 85])
    truth = torch.zeros(2, 85, 3)
    for k, length in enumerate((60, 85)):
        truth[k, :length] = make_chain(length, keyed_generator(k))
    sample = ddim(Oracle(truth), SCHEDULE, mask, generators=keys(0, 1), steps=steps, eta=eta)
    tm = tm_kabsch(to_angstrom(sample.x0), to_angstrom(truth), mask)
    torch.testing.assert_close(tm, torch.ones(2), atol=5e-4, rtol=0)


def best_tm(sample, library):
    """TM of each sample to the structure of the library it is nearest to."""
    pairs = [(to_angstrom(x.expand_as(library)), to_angstrom(library)) for x in sample]
    mask = torch.ones(library.shape[:2], dtype=torch.bool)
    return torch.stack([tm_kabsch(pred, true, mask).max() for pred, true in pairs])


def sample_posterior(denoise, length, eta, chains=16):
    mask = torch.ones(chains, length, dtype=torch.bool)
    return ddim(denoise, SCHEDULE, mask, generators=keys(*range(chains)), steps=50, eta=eta).x0


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_library_posterior_of_real_chains_reaches_tm_one(real_library, library_posterior, eta):
    sample = sample_posterior(library_posterior(real_library, SCHEDULE), 60, eta)
    assert best_tm(sample, real_library).min() > 0.9995


@pytest.mark.parametrize("wrong", [{"scale": 1.3}, {"scale": 0.7}, {"mirrored": True}], ids=str)
def test_wrong_library_posterior_drops_to_a_third(real_library, library_posterior, wrong):
    sample = sample_posterior(library_posterior(real_library, SCHEDULE, **wrong), 60, 0.0)
    # Measured at 60 residues: 0.39 scaled either way, 0.32 mirrored; at 120 residues scaling gives 0.52.
    assert 0.28 < best_tm(sample, real_library).mean() < 0.45


def test_library_posterior_visits_many_structures(make_chain, library_posterior):
    library = torch.stack([make_chain(30, keyed_generator("library", k)) for k in range(24)])
    sample = sample_posterior(library_posterior(library, SCHEDULE), 30, eta=0.0, chains=64)
    distance = (sample[:, None] - library).norm(dim=-1).amax(-1)
    nearest = distance.min(1)
    assert nearest.values.max() < 1e-4
    # 64 draws from 24 equal structures meet 22.4 of them on average, fewer than 16 practically never.
    assert nearest.indices.unique().numel() >= 16


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_marginal_variance_of_every_x_s_is_that_of_the_forward_process(eta):
    chains, length = 800, 4
    x0 = torch.zeros(chains, length, 3)
    mask = torch.ones(chains, length, dtype=torch.bool)
    result = ddim(
        Oracle(x0),
        SCHEDULE,
        mask,
        generators=keys(*range(chains)),
        steps=8,
        eta=eta,
        keep_trajectory=True,
    )
    times = torch.tensor([*sampling_timesteps(1000, 8), 0])
    expected = (1 - SCHEDULE.alpha_bar(times)) * (1 - 1 / length)
    # 9,600 numbers with 3/4 of their degrees of freedom: relative standard error 1.7 %.
    torch.testing.assert_close(result.trajectory.var((1, 2, 3)), expected, rtol=0.07, atol=1e-6)


def test_marginal_mean_of_every_x_s_is_the_scaled_truth(make_chain):
    x0 = make_chain(6, keyed_generator(0)).expand(500, 6, 3)
    mask = torch.ones(500, 6, dtype=torch.bool)
    result = ddim(
        Oracle(x0),
        SCHEDULE,
        mask,
        generators=keys(*range(500)),
        steps=5,
        eta=1.0,
        keep_trajectory=True,
    )
    times = torch.tensor([*sampling_timesteps(1000, 5), 0])
    expected = SCHEDULE.signal(times)[:, None, None] * x0[0]
    torch.testing.assert_close(result.trajectory.mean(1), expected, atol=0.2, rtol=0)


def shrinking(x_t, t, previous):
    """Answers from x_t alone, so that a sample shows every number that was drawn."""
    return Denoised(0.5 * x_t, rotations_like(x_t))


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_sample_of_a_chain_depends_neither_on_its_batch_nor_on_padding(make_mask, eta):
    alone = ddim(shrinking, SCHEDULE, make_mask([9]), generators=keys("x"), steps=6, eta=eta)
    mask = make_mask([13, 9, 4], padded=16)
    together = ddim(shrinking, SCHEDULE, mask, generators=keys("w", "x", "y"), steps=6, eta=eta)
    torch.testing.assert_close(together.x0[1, :9], alone.x0[0], atol=1e-6, rtol=1e-5)
    assert (together.x0[~mask] == 0).all()


def test_eta_zero_draws_nothing_after_the_start(make_mask):
    generators = keys("x")
    ddim(shrinking, SCHEDULE, make_mask([9]), generators=generators, steps=6)
    fresh = keys("x")
    centered_noise(make_mask([9]), fresh)
    assert torch.equal(torch.randn(3, generator=generators[0]), torch.randn(3, generator=fresh[0]))


def test_samples_of_one_key_repeat_and_of_two_keys_differ(make_mask):
    def sample(name):
        return ddim(shrinking, SCHEDULE, make_mask([9]), generators=keys(name), steps=6, eta=1.0).x0

    assert torch.equal(sample("x"), sample("x"))
    assert not torch.allclose(sample("x"), sample("y"), atol=1e-3)


@pytest.mark.parametrize("self_condition", [True, False])
def test_each_estimate_reaches_the_next_step_only_with_self_conditioning(make_mask, self_condition):
    seen, given = [], []

    def denoise(x_t, t, previous):
        seen.append(previous)
        given.append(shrinking(x_t, t, previous))
        return given[-1]

    ddim(denoise, SCHEDULE, make_mask([9]), generators=keys(0), steps=4, self_condition=self_condition)
    assert seen[0] is None
    expected = given[:-1] if self_condition else [None] * 3
    assert all(a is b for a, b in zip(seen[1:], expected, strict=True))


def test_last_step_returns_the_estimate_and_its_rotation(make_mask, make_chain):
    mask = make_mask([9])
    x0 = make_chain(9, keyed_generator(0))[None]
    rotation = torch.randn(1, 9, 3, 3)
    result = ddim(lambda *_: Denoised(x0, rotation), SCHEDULE, mask, generators=keys(0), steps=3, eta=1.0)
    torch.testing.assert_close(result.x0, x0, atol=1e-6, rtol=0)
    assert result.rotation is rotation
    assert result.trajectory is None


def test_drifting_estimate_is_recentred_at_every_step(make_mask):
    mask = make_mask([9, 6])
    drifting = lambda x_t, t, previous: Denoised(0.5 * x_t + 7, rotations_like(x_t))  # noqa: E731
    result = ddim(drifting, SCHEDULE, mask, generators=keys(0, 1), steps=6, eta=1.0, keep_trajectory=True)
    means = result.trajectory.sum(2)
    torch.testing.assert_close(means, torch.zeros_like(means), atol=1e-4, rtol=0)


def test_half_precision_estimates_leave_the_sample_in_float32(make_mask):
    half = lambda x_t, t, previous: Denoised(0.5 * x_t.bfloat16(), rotations_like(x_t))  # noqa: E731
    x0 = ddim(half, SCHEDULE, make_mask([9]), generators=keys(0), steps=6, eta=1.0).x0
    assert x0.dtype == torch.float32
    assert x0.isfinite().all()


@pytest.mark.parametrize("steps", [1, 2, 7, 50, 100, 999])
def test_sampling_timesteps_fall_evenly_from_the_noisiest_to_the_last_before_zero(steps):
    times = (*sampling_timesteps(1000, steps), 0)
    gaps = {a - b for a, b in pairwise(times)}
    assert times[0] == 999
    assert len(times) == steps + 1
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 2


@pytest.mark.parametrize("steps", [0, 1000])
def test_impossible_step_counts_are_refused(steps):
    with pytest.raises(ValueError, match=f"steps is {steps}"):
        sampling_timesteps(1000, steps)


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan")])
def test_eta_outside_zero_to_one_is_refused(make_mask, eta):
    with pytest.raises(ValueError, match="eta is"):
        ddim(shrinking, SCHEDULE, make_mask([9]), generators=keys(0), eta=eta)
