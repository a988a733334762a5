"""Attention that is biased by the distances in the noised chain and in the previous estimate."""

from __future__ import annotations

import pytest
import torch

from minifold_pl.geometry.frames import random_rotations
from minifold_pl.nn.distance_bias import DistanceBias
from minifold_pl.types import Condition, Denoised

TIMES = torch.tensor([100, 500, 900])


@pytest.fixture
def problem(make_mask, make_chain, make_condition):
    mask = make_mask()
    return make_chain(mask), TIMES, make_condition(mask)


@pytest.fixture
def biased(small_denoiser):
    return small_denoiser(distance_bias=True, timesteps=1000)


def estimate(x):
    return Denoised(x, torch.eye(3).expand(*x.shape[:2], 3, 3))


def test_it_adds_its_own_parameters_alone_and_no_effect_before_training(small_denoiser, biased, problem):
    plain = small_denoiser(timesteps=1000)
    new = biased.state_dict().keys() - plain.state_dict().keys()
    assert new and all(name.startswith("distance_bias.") for name in new)
    plain.load_state_dict(biased.state_dict(), strict=False)
    x, t, condition = problem
    for previous in (None, estimate(x)):
        assert torch.equal(biased(x, t, condition, previous).x0, plain(x, t, condition, previous).x0)


@pytest.mark.parametrize("with_previous", [False, True])
def test_the_denoiser_turns_with_its_input_at_every_noise_level(
    with_previous, biased, reawaken, problem, make_chain
):
    model = reawaken(biased, scale=0.5)
    x, t, condition = problem
    earlier = make_chain(condition.mask)
    for q in random_rotations(3):
        here = model(x, t, condition, estimate(earlier) if with_previous else None)
        there = model(x @ q.T, t, condition, estimate(earlier @ q.T) if with_previous else None)
        torch.testing.assert_close(there.x0, here.x0 @ q.T, rtol=0, atol=1e-4)


def test_the_bias_ignores_rigid_motion_and_sees_a_stretch(reawaken):
    bias = reawaken(DistanceBias(2, 3, 8))
    x, time = torch.randn(2, 6, 3), torch.randn(2, 8)
    q = random_rotations(1)[0]
    torch.testing.assert_close(bias(x @ q.T + 1, time), bias(x, time), rtol=0, atol=1e-4)
    assert bias(x, time).shape == (2, 2, 3, 6, 6)
    stretched = x * torch.tensor([1.0, 1.0, 2.0])
    assert (bias(stretched, time) - bias(x, time)).abs().max() > 1e-2


def test_distances_time_and_the_estimate_reach_every_layer(biased, reawaken, problem, make_chain):
    bias = reawaken(biased).distance_bias
    x, _, condition = problem
    time = torch.randn(3, bias.time.in_features)
    plain = bias(x, time)
    for changed in (bias(x * 1.2, time), bias(x, time + 1), bias(x, time, x)):
        assert ((changed - plain).abs().amax((1, 2, 3, 4)) > 1e-3).all()
    some = torch.tensor([True, False, True])
    mixed = bias(x, time, make_chain(condition.mask), some)
    assert torch.equal(mixed[:, ~some], plain[:, ~some])
    assert not torch.allclose(mixed[:, some], plain[:, some])


def test_only_the_chains_that_use_the_estimate_feel_it(biased, reawaken, problem, make_chain):
    model = reawaken(biased, scale=0.5)
    x, t, condition = problem
    earlier = estimate(make_chain(condition.mask))
    some = torch.tensor([True, False, True])
    poisoned = Denoised(torch.where(some[:, None, None], earlier.x0, torch.nan), earlier.rotation)
    mixed = model(x, t, condition, poisoned, some).x0
    torch.testing.assert_close(mixed[some], model(x, t, condition, earlier).x0[some], rtol=0, atol=1e-5)
    torch.testing.assert_close(mixed[~some], model(x, t, condition).x0[~some], rtol=0, atol=1e-5)


def test_what_was_computed_of_the_condition_before_gives_the_same(biased, reawaken, problem, make_chain):
    model = reawaken(biased, scale=0.5)
    x, t, condition = problem
    earlier = estimate(make_chain(condition.mask))
    torch.testing.assert_close(
        model(x, t, model.prepare(condition), earlier).x0,
        model(x, t, condition, earlier).x0,
        rtol=0,
        atol=1e-5,
    )


def test_a_chain_does_not_feel_its_batch_or_its_padding(biased, reawaken, problem, make_chain):
    model = reawaken(biased, scale=0.5)
    x, t, condition = problem
    x = torch.where(condition.mask[..., None], x, torch.nan)
    together = model(x, t, condition, estimate(x)).x0
    assert together.isfinite().all()
    for row, n in enumerate(condition.mask.sum(1).tolist()):
        one = slice(row, row + 1)
        alone = Condition(
            condition.single[one, :n], condition.pair[one, :n, :n], condition.mask[one, :n], condition.bonded[one, :n]
        )  # fmt: skip
        out = model(x[one, :n], t[one], alone, estimate(x[one, :n])).x0
        torch.testing.assert_close(together[row, :n], out[0], rtol=0, atol=1e-4)


def test_every_parameter_gets_a_finite_gradient_also_from_coincident_residues(
    biased, reawaken, problem, make_chain
):
    model = reawaken(biased, scale=0.5)
    x, t, condition = problem
    model.checkpoint_activations = True
    out = model(x, t, condition, estimate(make_chain(condition.mask)))
    (out.x0 * torch.randn(3)).sum().backward()
    reached = [(n, p.grad) for n, p in model.named_parameters() if n.startswith("distance_bias.")]
    assert len(reached) > 5 and all(g is not None and g.any() for _, g in reached)
    flat = torch.zeros_like(x).requires_grad_()
    (model(flat, t, condition).x0 * torch.randn(3)).sum().backward()
    assert flat.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_with_far_residues(dtype, biased, reawaken, problem):
    model = reawaken(biased, scale=0.3)
    x, t, condition = problem
    x = x.clone()
    x[0, 4] = 1e3
    with torch.autocast("cpu", dtype=dtype):
        out = model(x, t, condition, estimate(x))
    assert out.x0.dtype == torch.float32 and out.x0.isfinite().all()


def test_one_basis_function_is_refused_by_name():
    with pytest.raises(ValueError, match="basis=1"):
        DistanceBias(1, 1, 4, basis=1)
