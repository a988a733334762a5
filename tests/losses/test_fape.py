from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from minifold_pl.geometry.frames import ca_frame_mask
from minifold_pl.losses.fape import fape
from minifold_pl.losses.objective import DiffusionObjective
from minifold_pl.types import Frames


def _fape(case: Any, **options: Any) -> Tensor:
    framed = ca_frame_mask(case.target.mask, case.target.bonded)
    return fape(
        case.pred_frames,
        case.prediction.x0,
        case.true_frames,
        case.target.x0,
        framed,
        case.target.mask,
        **options,
    )


def test_fape_agrees_with_the_formula_written_out(case: Any) -> None:
    one, total, count = case.chain(1), 0.0, 0
    (x,), (t,), (mask,) = one.prediction.x0, one.target.x0, one.target.mask
    (rotation,), (true_rotation,) = one.prediction.rotation, one.target.rotation
    framed = ca_frame_mask(one.target.mask, one.target.bonded)[0]
    for f in framed.nonzero().flatten():
        for j in mask.nonzero().flatten():
            seen = rotation[f].T @ (x[j] - x[f])
            true = true_rotation[f].T @ (t[j] - t[f])
            total, count = total + (seen - true).norm().item(), count + 1
    assert abs(_fape(one).item() - total / count) < 2e-6  # a point seen from itself is 1e-5 away


def test_one_unit_of_fape_is_ten_angstrom() -> None:
    """A point 10 Å (1 model unit) away from its place, seen from one right frame."""
    frame = Frames(torch.eye(3)[None, None], torch.zeros(1, 1, 3))
    there, here = torch.tensor([[[1.0, 0.0, 0.0]]]), torch.zeros(1, 1, 3)
    valid = torch.ones(1, 1, dtype=torch.bool)
    assert torch.allclose(fape(frame, there, frame, here, valid, valid), torch.tensor(1.0))
    assert torch.allclose(fape(frame, there, frame, here, valid, valid, length_scale=5.0), torch.tensor(2.0))


def test_the_clamp_is_in_angstrom() -> None:
    frame = Frames(torch.eye(3)[None, None], torch.zeros(1, 1, 3))
    far, here = torch.tensor([[[30.0, 0.0, 0.0]]]), torch.zeros(1, 1, 3)
    valid = torch.ones(1, 1, dtype=torch.bool)
    assert torch.allclose(fape(frame, far, frame, here, valid, valid, clamp=10.0), torch.tensor(1.0))
    assert torch.allclose(fape(frame, far, frame, here, valid, valid, clamp=100.0), torch.tensor(10.0))
    assert torch.allclose(fape(frame, far, frame, here, valid, valid, clamp=None), torch.tensor(30.0))


def test_a_clamp_beyond_every_error_changes_nothing(case: Any) -> None:
    assert torch.equal(_fape(case, clamp=1e6), _fape(case, clamp=None))


@pytest.mark.parametrize("clamp", [0.0, -10.0, float("nan"), float("inf")])
def test_a_clamp_that_is_no_length_is_refused(clamp: float, case: Any) -> None:
    with pytest.raises(ValueError, match=r"clamp.*positive length in Å"):
        _fape(case, clamp=clamp)


def test_the_gradient_reaches_points_and_rotations(case: Any) -> None:
    x0 = case.prediction.x0.clone().requires_grad_()
    rotation = case.prediction.rotation.clone().requires_grad_()
    valid = case.target.mask
    fape(Frames(rotation, x0), x0, case.true_frames, case.target.x0, valid, valid).backward()
    for leaf in (x0, rotation):
        assert leaf.grad is not None and leaf.grad[valid].flatten(1).norm(dim=-1).min() > 0


def test_a_share_of_chains_is_clamped_and_the_others_are_not(case: Any) -> None:
    """AlphaFold 2, suppl. 1.11.5. Undrawn, a chain counts with what is expected of it."""
    objectives = [
        DiffusionObjective(fape_clamp=c, fape_clamp_share=s) for c, s in ((2.0, 0.9), (2.0, 1.0), (None, 1.0))
    ]
    drawn = case.target._replace(clamped=torch.tensor([1.0, 0.0]))
    mixed, cut, free = (o.per_chain(case.prediction, drawn)["fape"].value for o in objectives)
    assert (cut < free - 1e-3).all()
    assert mixed[0] == cut[0] and mixed[1] == free[1]
    expected = objectives[0].per_chain(*case)["fape"].value
    torch.testing.assert_close(expected, 0.9 * cut + 0.1 * free, rtol=1e-6, atol=0)


def test_an_unclamped_chain_gets_a_gradient_from_errors_beyond_the_clamp(case: Any) -> None:
    far = case.prediction._replace(x0=(case.prediction.x0 * 50).requires_grad_())
    objective = DiffusionObjective(fape_clamp=1.0, fape_clamp_share=0.5)
    objective(far, case.target._replace(clamped=torch.tensor([1.0, 0.0])))["fape"].backward()
    moved = far.x0.grad.abs().sum((1, 2))
    assert moved[1] > 10 * moved[0]


@pytest.mark.parametrize(
    ("clamp", "share", "told"), [(None, 0.9, "fape_clamp is null"), (10.0, 1.5, "from 0 to 1")]
)
def test_a_share_that_makes_no_sense_is_refused(clamp: float | None, share: float, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        DiffusionObjective(fape_clamp=clamp, fape_clamp_share=share)
