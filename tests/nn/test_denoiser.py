from __future__ import annotations

import pytest
import torch

from minifold_pl.geometry.frames import ca_frames, random_rotations
from minifold_pl.nn.denoiser import IPADenoiser
from minifold_pl.types import Condition, Denoised

TIMES = torch.tensor([5, 50, 95])


@pytest.fixture
def problem(make_mask, make_chain, make_condition):
    mask = make_mask()
    return make_chain(mask), TIMES, make_condition(mask)


def estimate(x):
    return Denoised(x, torch.eye(3).expand(*x.shape[:2], 3, 3))


@pytest.mark.parametrize("with_previous", [False, True])
def test_without_the_gate_it_turns_with_its_input(
    with_previous, small_denoiser, reawaken, problem, make_chain
):
    model = reawaken(small_denoiser(), scale=0.5)
    x, t, condition = problem
    q = random_rotations(1)[0]
    earlier = make_chain(condition.mask)
    here = model(x, t, condition, estimate(earlier) if with_previous else None)
    there = model(x @ q.T, t, condition, estimate(earlier @ q.T) if with_previous else None)
    assert torch.allclose(there.x0, here.x0 @ q.T, atol=1e-4)
    assert torch.allclose(there.rotation[condition.mask], (q @ here.rotation)[condition.mask], atol=1e-4)


def test_with_the_gate_it_does_not(small_denoiser, reawaken, problem):
    model = reawaken(small_denoiser(frame_confidence=torch.full((100,), 0.5)), scale=0.5)
    x, t, condition = problem
    q = random_rotations(1)[0]
    assert not torch.allclose(model(x @ q.T, t, condition).x0, model(x, t, condition).x0 @ q.T, atol=1e-2)


def test_it_starts_by_almost_returning_its_input(small_denoiser, problem):
    x, t, condition = problem
    out = small_denoiser()(x, t, condition)
    assert (out.x0 - x).norm(dim=-1).mean() < 0.1
    start = ca_frames(x, condition.mask, condition.bonded).rotation
    cosine = (torch.einsum("blxy,blxy->bl", out.rotation, start) - 1) / 2
    assert cosine[condition.mask].min() > 0.99


def test_the_gate_blends_the_first_rotations_with_the_identity(small_denoiser, problem):
    x, t, condition = problem
    shut = small_denoiser(frame_confidence=torch.zeros(100))(x, t, condition).rotation
    assert ((shut.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).min() > 0.99
    torch.manual_seed(3)
    free = small_denoiser()
    torch.manual_seed(3)
    opened = small_denoiser(frame_confidence=torch.ones(100))
    assert torch.allclose(free(x, t, condition).rotation, opened(x, t, condition).rotation, atol=1e-5)


def test_the_gate_is_looked_up_at_each_chains_own_time(small_denoiser, problem):
    x, _, condition = problem
    table = torch.zeros(100)
    table[7] = 1.0
    model = small_denoiser(frame_confidence=table)
    rotation = model(x, torch.tensor([7, 8, 7]), condition).rotation[:, 2]
    cosine = (rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    assert cosine[1] > 0.99 and (cosine[[0, 2]] < 0.98).all()


def test_the_estimates_frames_are_not_gated(small_denoiser, problem, make_chain):
    x, t, condition = problem
    earlier = make_chain(condition.mask)
    out = small_denoiser(frame_confidence=torch.zeros(100))(x, t, condition, estimate(earlier))
    expected = ca_frames(earlier, condition.mask, condition.bonded).rotation
    cosine = (torch.einsum("blxy,blxy->bl", out.rotation, expected) - 1) / 2
    assert cosine[condition.mask].min() > 0.99
    assert (out.x0 - x).norm(dim=-1).mean() < 0.1


def test_the_estimates_positions_reach_the_output(small_denoiser, reawaken, problem, make_chain):
    model = reawaken(small_denoiser())
    x, t, condition = problem
    earlier = make_chain(condition.mask)
    # the same frames, all positions shifted apart
    spread = estimate(earlier * 1.5)
    assert not torch.allclose(
        model(x, t, condition, estimate(earlier)).x0, model(x, t, condition, spread).x0, atol=1e-3
    )


def test_only_the_chosen_chains_use_the_estimate(small_denoiser, reawaken, problem, make_chain):
    model = reawaken(small_denoiser(frame_confidence=torch.linspace(1, 0, 100)))
    x, t, condition = problem
    earlier = estimate(make_chain(condition.mask))
    some = torch.tensor([True, False, True])
    mixed = model(x, t, condition, earlier, some).x0
    assert torch.allclose(mixed[some], model(x, t, condition, earlier).x0[some], atol=1e-6)
    assert torch.allclose(mixed[~some], model(x, t, condition).x0[~some], atol=1e-6)
    poisoned = Denoised(torch.where(some[:, None, None], earlier.x0, torch.nan), earlier.rotation)
    assert torch.allclose(model(x, t, condition, poisoned, some).x0, mixed, atol=1e-6)


def test_a_chain_does_not_feel_its_batch_or_its_padding(small_denoiser, reawaken, problem, make_chain):
    model = reawaken(small_denoiser(frame_confidence=torch.linspace(1, 0, 100)), scale=0.5)
    x, t, condition = problem
    earlier = make_chain(condition.mask)
    together = model(x, t, condition, estimate(earlier))
    for row, n in enumerate(condition.mask.sum(1).tolist()):
        one = slice(row, row + 1)
        alone = Condition(
            condition.single[one, :n],
            condition.pair[one, :n, :n],
            condition.mask[one, :n],
            condition.bonded[one, :n],
        )
        out = model(x[one, :n], t[one], alone, estimate(earlier[one, :n]))
        assert torch.allclose(together.x0[row, :n], out.x0[0], atol=1e-4)
        assert torch.allclose(together.rotation[row, :n], out.rotation[0], atol=1e-4)


def test_masked_residues_get_the_origin_and_the_identity(small_denoiser, reawaken, problem):
    model = reawaken(small_denoiser())
    x, t, condition = problem
    x = torch.where(condition.mask[..., None], x, torch.nan)
    condition.single[~condition.mask] = torch.nan
    out = model(x, t, condition)
    assert out.x0[~condition.mask].eq(0).all()
    assert torch.allclose(out.rotation[~condition.mask], torch.eye(3), atol=1e-6)
    (out.x0.sum() + out.rotation.sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert out.x0.isfinite().all() and out.rotation.isfinite().all()


def test_every_parameter_gets_a_gradient_from_positions_and_rotations(
    small_denoiser, reawaken, problem, make_chain
):
    model = reawaken(small_denoiser(), scale=0.5)
    x, t, condition = problem
    out = model(x, t, condition, estimate(make_chain(condition.mask)))
    ((out.x0 * torch.randn(3)).sum() + (out.rotation * torch.randn(3, 3)).sum()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_discarded_rotations_leave_the_last_turn_without_a_gradient(small_denoiser, reawaken, problem):
    model = reawaken(small_denoiser(discard_rotation=True), scale=0.5)
    x, t, condition = problem
    out = model(x, t, condition)
    ((out.x0 * torch.randn(3)).sum() + (out.rotation * torch.randn(3, 3)).sum()).backward()
    turn, move = model.layers[-1].frame_update.update[-1].weight.grad.split(3)
    assert turn.eq(0).all()
    assert move.any()
    rebuilt = ca_frames(out.x0, condition.mask, condition.bonded).rotation
    assert torch.allclose(out.rotation, rebuilt, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_with_far_and_collinear_residues(dtype, small_denoiser, reawaken, problem):
    model = reawaken(small_denoiser(frame_confidence=torch.linspace(1, 0, 100)), scale=0.3)
    x, t, condition = problem
    x = x.clone()
    x[0, 4] = 1e3  # 1e4 Å away
    x[1] = torch.arange(14)[:, None] * torch.tensor([0.38, 0.0, 0.0])
    x[2] = 0.0
    x.requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        out = model(x, t, condition, estimate(x.detach()))
    assert out.x0.dtype == torch.float32
    (out.x0.sum() + out.rotation.sum()).backward()
    assert out.x0.isfinite().all() and out.rotation.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert x.grad.isfinite().all()


def test_an_empty_chain_in_the_batch_is_finite(
    small_denoiser, reawaken, make_mask, make_chain, make_condition
):
    mask = make_mask((14, 0, 2))
    model = reawaken(small_denoiser())
    out = model(make_chain(mask), TIMES, make_condition(mask))
    (out.x0.square().sum() + out.rotation.sum()).backward()
    assert out.x0.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_recomputed_activations_give_the_same_output_and_gradients(
    small_denoiser, reawaken, problem, make_chain
):
    model = reawaken(small_denoiser(), scale=0.5)
    x, t, condition = problem
    earlier = estimate(make_chain(condition.mask))
    results = []
    for model.checkpoint_activations in (False, True):
        model.zero_grad()
        out = model(x, t, condition, earlier)
        (out.x0.square().sum() + out.rotation.square().sum()).backward()
        results.append((out.x0.detach(), [p.grad.clone() for p in model.parameters()]))
    (x0, grads), (x0_again, grads_again) = results
    assert torch.equal(x0, x0_again)
    assert all(torch.equal(a, b) for a, b in zip(grads, grads_again, strict=True))


def test_time_and_sequence_reach_the_output(small_denoiser, reawaken, problem, make_condition):
    model = reawaken(small_denoiser())
    x, t, condition = problem
    here = model(x, t, condition).x0
    assert not torch.allclose(here, model(x, t - 1, condition).x0, atol=1e-4)
    assert not torch.allclose(here, model(x, t, make_condition(condition.mask)).x0, atol=1e-2)


def test_the_gate_is_no_part_of_a_checkpoint(small_denoiser):
    gated, free = small_denoiser(frame_confidence=torch.ones(100)), small_denoiser()
    assert gated.state_dict().keys() == free.state_dict().keys()


def test_a_scaled_start_moves_the_first_translations_and_keeps_equivariance(
    small_denoiser, reawaken, problem
):
    x, t, condition = problem
    model = small_denoiser()
    model.scale_start(torch.linspace(1, 0, 100))
    scaled = x * torch.linspace(1, 0, 100)[t][:, None, None]
    assert (model(x, t, condition).x0 - scaled).norm(dim=-1).mean() < 0.1
    q = random_rotations(1)[0]
    reawaken(model, scale=0.5)
    assert torch.allclose(model(x @ q.T, t, condition).x0, model(x, t, condition).x0 @ q.T, atol=1e-4)


def test_a_start_scale_of_the_wrong_length_is_refused_by_name(small_denoiser):
    with pytest.raises(ValueError, match=r"\(5,\).*timesteps=100"):
        small_denoiser().scale_start(torch.ones(5))


def test_a_gate_of_the_wrong_length_is_refused_by_name():
    with pytest.raises(ValueError, match=r"\(5,\).*timesteps=100"):
        IPADenoiser(d=8, layers=1, heads=1, timesteps=100, frame_confidence=torch.ones(5))


def test_it_compiles_to_one_graph(small_denoiser, reawaken, problem):
    model = reawaken(small_denoiser(frame_confidence=torch.linspace(1, 0, 100)), scale=0.5)
    expected = model(*problem)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(*problem).x0, expected.x0, atol=1e-4)
