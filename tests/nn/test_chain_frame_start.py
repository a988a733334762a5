"""A denoiser whose gate blends with the chain's own axes."""

from __future__ import annotations

import pytest
import torch

from minifold_pl.geometry.chain_frame import chain_rotation
from minifold_pl.geometry.frames import random_rotations, to_local
from minifold_pl.geometry.superpose import kabsch
from minifold_pl.types import Condition, Denoised, Frames

TIMES = torch.tensor([100, 500, 900])


@pytest.fixture
def problem(make_mask, make_chain, make_condition):
    mask = make_mask()
    return make_chain(mask), TIMES, make_condition(mask)


@pytest.fixture
def model(small_denoiser, reawaken):
    gate = torch.linspace(1, 0, 1000)
    return reawaken(small_denoiser(chain_frame=True, timesteps=1000, frame_confidence=gate), scale=0.5)


def estimate(x):
    return Denoised(x, torch.eye(3).expand(*x.shape[:2], 3, 3))


@pytest.mark.parametrize("with_previous", [False, True])
def test_it_turns_with_its_input_although_it_is_gated(with_previous, model, problem, make_chain):
    x, t, condition = problem
    earlier = make_chain(condition.mask)
    for q in random_rotations(3):
        here = model(x, t, condition, estimate(earlier) if with_previous else None)
        there = model(x @ q.T, t, condition, estimate(earlier @ q.T) if with_previous else None)
        torch.testing.assert_close(there.x0, here.x0 @ q.T, rtol=0, atol=1e-4)
        torch.testing.assert_close(
            there.rotation[condition.mask], (q @ here.rotation)[condition.mask], rtol=0, atol=1e-3
        )


def test_blended_with_the_identity_it_does_not(small_denoiser, reawaken, problem):
    x, t, condition = problem
    plain = reawaken(small_denoiser(timesteps=1000, frame_confidence=torch.full((1000,), 0.5)), scale=0.5)
    q = random_rotations(1)[0]
    assert (plain(x @ q.T, t, condition).x0 - plain(x, t, condition).x0 @ q.T).abs().max() > 1e-2


def test_where_the_gate_is_shut_every_residue_starts_with_the_axes_of_the_chain(small_denoiser, problem):
    x, t, condition = problem
    shut = small_denoiser(chain_frame=True, timesteps=1000, frame_confidence=torch.zeros(1000))
    rotation = shut(x, t, condition).rotation
    expected = chain_rotation(x, condition.mask)[:, None].expand_as(rotation)
    cosine = (torch.einsum("blxy,blxy->bl", rotation, expected) - 1) / 2
    assert cosine[condition.mask].min() > 0.99
    torch.testing.assert_close(
        rotation[~condition.mask], torch.eye(3).expand_as(rotation[~condition.mask]), rtol=0, atol=1e-6
    )


def test_its_own_parameter_starts_at_0_and_learns(small_denoiser, model, problem, make_chain):
    plain, new = small_denoiser(), small_denoiser(chain_frame=True)
    assert new.state_dict().keys() - plain.state_dict().keys() == {"place.weight"}
    assert not new.place.weight.any()
    x, t, condition = problem
    out = model(x, t, condition, estimate(make_chain(condition.mask)))
    (out.x0 * torch.randn(3)).sum().backward()
    assert model.place.weight.grad.abs().amax(0).min() > 0


def test_only_the_chains_that_use_the_estimate_feel_it_and_none_feels_its_padding(model, problem, make_chain):
    x, t, condition = problem
    x = torch.where(condition.mask[..., None], x, torch.nan)
    earlier = estimate(make_chain(condition.mask))
    some = torch.tensor([True, False, True])
    poisoned = Denoised(torch.where(some[:, None, None], earlier.x0, torch.nan), earlier.rotation)
    mixed = model(x, t, condition, poisoned, some).x0
    torch.testing.assert_close(mixed[some], model(x, t, condition, earlier).x0[some], rtol=0, atol=1e-5)
    torch.testing.assert_close(mixed[~some], model(x, t, condition).x0[~some], rtol=0, atol=1e-5)
    n = int(condition.mask[0].sum())
    one = Condition(
        condition.single[:1, :n], condition.pair[:1, :n, :n], condition.mask[:1, :n], condition.bonded[:1, :n]
    )
    alone = model(x[:1, :n], t[:1], one, estimate(earlier.x0[:1, :n])).x0
    torch.testing.assert_close(mixed[:1, :n], alone, rtol=0, atol=1e-4)


def test_without_a_gate_every_residue_starts_with_the_axes_of_the_chain_also_with_an_estimate(
    small_denoiser, problem, make_chain
):
    x, t, condition = problem
    model = small_denoiser(chain_frame=True, timesteps=1000)
    expected = chain_rotation(x, condition.mask)[:, None]
    for previous in (None, estimate(make_chain(condition.mask))):
        rotation = model(x, t, condition, previous).rotation
        cosine = (torch.einsum("blxy,blxy->bl", rotation, expected.expand_as(rotation)) - 1) / 2
        assert cosine[condition.mask].min() > 0.99


@pytest.fixture
def laid(small_denoiser, reawaken):
    return reawaken(small_denoiser(chain_frame=True, aligned=True, timesteps=1000), scale=0.5)


def test_an_aligned_prediction_lies_best_on_the_noised_chain_and_is_the_same_chain(laid, problem):
    x, t, condition = problem
    x, mask = x + 3, condition.mask
    out = laid(x, t, condition)
    laid.aligned = False
    free = laid(x, t, condition)
    rmsd = [((y - x).square().sum(-1) * mask).sum(1) for y in (out.x0, free.x0)]
    assert (rmsd[0] < rmsd[1]).all()
    motion = kabsch(out.x0, x, mask)
    torch.testing.assert_close(motion.rotation, torch.eye(3).expand(3, 3, 3), rtol=0, atol=1e-3)
    both = mask[:, :, None] & mask[:, None, :]
    seen = [to_local(Frames(d.rotation[:, :, None], d.x0[:, :, None]), d.x0[:, None]) for d in (out, free)]
    torch.testing.assert_close(seen[0][both], seen[1][both], rtol=0, atol=1e-3)
    assert out.x0[~mask].eq(0).all()


def test_an_aligned_prediction_turns_with_its_input_and_survives_what_is_no_number(laid, problem):
    x, t, condition = problem
    q = random_rotations(1)[0]
    here, there = laid(x, t, condition, estimate(x)), laid(x @ q.T, t, condition, estimate(x @ q.T))
    torch.testing.assert_close(there.x0, here.x0 @ q.T, rtol=0, atol=1e-4)
    broken = laid(torch.full_like(x, torch.nan), t, condition)
    assert broken.x0.isnan().any()
    flat = torch.zeros_like(x).requires_grad_()
    (laid(flat, t, condition).x0 * torch.randn(3)).sum().backward()
    assert flat.grad.isfinite().all()
