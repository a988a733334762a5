from __future__ import annotations

import pytest
import torch

from minifold_pl.geometry.frames import ca_frames, random_rotations
from minifold_pl.nn.egnn import EGNNDenoiser, distance_features
from minifold_pl.types import Condition, Denoised

TIMES = torch.tensor([5, 50, 95])


def denoiser(**kwargs) -> EGNNDenoiser:
    sizes = {
        "d_single_in": 16,
        "d_pair": 12,
        "d": 24,
        "layers": 3,
        "timesteps": 100,
        "d_time": 16,
        "d_film": 8,
    }
    return EGNNDenoiser(**(sizes | kwargs))


@pytest.fixture
def problem(make_mask, make_chain, make_condition):
    mask = make_mask()
    return make_chain(mask), TIMES, make_condition(mask)


def estimate(x):
    return Denoised(x, torch.eye(3).expand(*x.shape[:2], 3, 3))


@pytest.mark.parametrize("with_previous", [False, True])
@pytest.mark.parametrize("mirror", [False, True])
def test_it_turns_shifts_and_reflects_with_its_input(with_previous, mirror, reawaken, problem, make_chain):
    """To 1e-5 model units, 1e-4 Å, of chains that move by more than 1 Å."""
    model = reawaken(denoiser())
    x, t, condition = problem
    q = random_rotations(1)[0] @ torch.diag(torch.tensor([1.0, 1.0, -1.0 if mirror else 1.0]))
    earlier = make_chain(condition.mask)
    here = model(x, t, condition, estimate(earlier) if with_previous else None)
    there = model(x @ q.T + 0.3, t, condition, estimate(earlier @ q.T) if with_previous else None)
    assert ((here.x0 - x)[condition.mask].norm(dim=-1)).max() > 0.1
    assert torch.allclose(there.x0, here.x0 @ q.T, atol=1e-5)
    if not mirror:
        turned = q @ here.rotation
        assert torch.allclose(there.rotation[condition.mask], turned[condition.mask], atol=1e-4)


def test_equivariance_is_exact_up_to_rounding(reawaken, problem):
    model = reawaken(denoiser().double())
    x, t, condition = problem
    condition = Condition(condition.single.double(), condition.pair.double(), *condition[2:])
    q = random_rotations(1, dtype=torch.float64)[0]
    here, there = model(x.double(), t, condition), model(x.double() @ q.T, t, condition)
    assert torch.allclose(there.x0, here.x0 @ q.T, atol=1e-12)


def test_a_term_that_knows_an_axis_is_noticed(reawaken, problem):
    """Negative control: a displacement along a fixed axis breaks the equivariance by far more than is allowed."""
    model = reawaken(denoiser(), scale=0.5)
    x, t, condition = problem
    q = random_rotations(1)[0]
    axis = torch.tensor([1e-3, 0.0, 0.0]) * torch.linspace(-1, 1, x.shape[1])[:, None]
    there, here = model(x @ q.T + axis, t, condition).x0, model(x + axis, t, condition).x0
    assert not torch.allclose(there, here @ q.T, atol=1e-5)


def test_it_starts_by_almost_returning_its_input(problem):
    x, t, condition = problem
    out = denoiser()(x, t, condition)
    assert (out.x0 - x).norm(dim=-1).mean() < 0.1
    expected = ca_frames(out.x0, condition.mask, condition.bonded).rotation
    assert torch.equal(out.rotation, expected)


def test_the_previous_estimate_reaches_the_output_of_the_chosen_chains_alone(reawaken, problem, make_chain):
    model = reawaken(denoiser(), scale=0.5)
    x, t, condition = problem
    earlier = estimate(make_chain(condition.mask))
    some = torch.tensor([True, False, True])
    without, with_all, mixed = (
        model(x, t, condition).x0, model(x, t, condition, earlier).x0, model(x, t, condition, earlier, some).x0
    )  # fmt: skip
    assert not torch.allclose(without, with_all, atol=1e-3)
    assert torch.allclose(mixed[some], with_all[some], atol=1e-6)
    assert torch.allclose(mixed[~some], without[~some], atol=1e-6)
    poisoned = Denoised(torch.where(some[:, None, None], earlier.x0, torch.nan), earlier.rotation)
    assert torch.allclose(model(x, t, condition, poisoned, some).x0, mixed, atol=1e-6)


def test_a_chain_does_not_feel_its_batch_or_its_padding(reawaken, problem, make_chain):
    model = reawaken(denoiser(), scale=0.5)
    x, t, condition = problem
    earlier = make_chain(condition.mask)
    together = model(x, t, condition, estimate(earlier)).x0
    for row, length in enumerate((9, 14, 5)):
        pick = slice(row, row + 1), slice(0, length)
        alone = Condition(
            condition.single[pick], condition.pair[row : row + 1, :length, :length],
            condition.mask[pick], condition.bonded[pick],
        )  # fmt: skip
        single = model(x[pick], t[row : row + 1], alone, estimate(earlier[pick])).x0
        assert torch.allclose(together[pick], single, atol=1e-5)
        assert not together[row, length:].any()


def test_what_padding_holds_never_matters(reawaken, problem):
    model = reawaken(denoiser(), scale=0.5)
    x, t, condition = problem
    out = ~condition.mask
    junk = Condition(
        condition.single.masked_fill(out[..., None], torch.nan),
        condition.pair.masked_fill((out[:, :, None] | out[:, None])[..., None], torch.nan),
        *condition[2:],
    )
    dirty = x.masked_fill(out[..., None], torch.nan)
    assert torch.equal(model(dirty, t, junk).x0, model(x, t, condition).x0)


def test_the_condition_and_the_time_reach_the_output(reawaken, problem):
    model = reawaken(denoiser(), scale=0.5)
    x, t, condition = problem
    here = model(x, t, condition).x0
    for other in (
        model(x, t + 3, condition),
        model(x, t, condition._replace(single=condition.single.flip(1))),
        model(x, t, condition._replace(pair=condition.pair.flip(1))),
    ):
        assert not torch.allclose(other.x0, here, atol=1e-4)


def test_every_parameter_gets_a_gradient(reawaken, problem, make_chain):
    model = reawaken(denoiser())
    x, t, condition = problem
    model(x, t, condition, estimate(make_chain(condition.mask))).x0.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", ["chain", "point", "line", "far"])
def test_it_and_its_gradients_are_finite_under_autocast(dtype, shape, reawaken, problem):
    """Coincident, collinear and 1e4 Å distant residues."""
    model = reawaken(denoiser(), scale=0.3)
    x, t, condition = problem
    along = torch.arange(14.0)[:, None] * torch.tensor([0.38, 0.0, 0.0])
    start = {"chain": x, "point": 0 * x, "line": along.expand_as(x), "far": 1e3 * torch.randn_like(x)}[shape]
    start = start.clone().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        out = model(start, t, condition)
    (out.x0.square().sum() * 1e-3).backward()
    assert out.x0.dtype == torch.float32 and out.x0.isfinite().all() and start.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_checkpointing_changes_neither_values_nor_gradients(reawaken, problem):
    x, t, condition = problem
    found = []
    for recompute in (False, True):
        model = reawaken(denoiser(checkpoint_activations=recompute), scale=0.5)
        out = model(x, t, condition).x0
        out.square().sum().backward()
        found.append((out, [p.grad for p in model.parameters() if p.grad is not None]))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.allclose(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_a_scaled_start_is_where_the_chain_starts(problem):
    x, t, condition = problem
    model = denoiser()
    model.scale_start(torch.linspace(1, 0, 100))
    out = model(x, t, condition).x0
    expected = x * torch.linspace(1, 0, 100)[t][:, None, None]
    assert (out - expected).norm(dim=-1).mean() < 0.1


def test_a_gate_for_frames_it_does_not_have_is_refused():
    with pytest.raises(ValueError, match="snr_gated_frames to false"):
        denoiser().gate_frames(torch.ones(100))
    with pytest.raises(ValueError, match="at least one layer"):
        denoiser(layers=0)
    with pytest.raises(ValueError, match="start_scale has shape"):
        denoiser().scale_start(torch.ones(5))


def test_distances_are_told_apart_from_a_bond_to_a_fold():
    near, bond, fold, far = distance_features(torch.tensor([1e-5, 0.38, 2.0, 1e3])).unbind(0)
    assert near.abs().max() < 1e-6
    assert (bond[1], fold[1]) > (0.7, 3.0) and (bond[0] < 0.2) and (1.5 < fold[0] < 1.7)
    assert far.isfinite().all()


def test_it_learns_to_take_noise_off_a_chain(problem):
    """Sixty steps on one batch."""
    torch.manual_seed(0)
    x, t, condition = problem
    model = denoiser(d=32)
    noised = x + 0.3 * torch.randn_like(x) * condition.mask[..., None]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        error = (model(noised, t, condition).x0 - x).square().sum(-1).mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        losses.append(error.item())
    assert losses[-1] < 0.25 * losses[0]
