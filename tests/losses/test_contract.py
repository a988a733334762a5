"""What every term of the second stage promises, checked on all of them at once."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from minifold_pl.losses.objective import DiffusionObjective, LossWeights, weighted_total, weights_at
from minifold_pl.types import StructurePrediction, StructureTarget, map_tensors

TERMS = [f.name for f in fields(LossWeights)]
STRUCTURAL = ["fape", "frame_rot", "dist", "bond", "chirality", "angle", "clash"]
OBJECTIVE = DiffusionObjective(clash_threshold=5.0)


@pytest.mark.parametrize("name", ["fape", "frame_rot", "dist", "chirality", "angle", "rg", "clash"])
def test_a_term_is_zero_at_the_truth_and_not_beside_it(name: str, case: Any) -> None:
    """Lengths are guarded by 1e-5 model units, 1e-4 Å; the clash threshold is one that the walk respects."""
    objective = DiffusionObjective(clash_threshold=0.05)
    assert objective(*case.truth)[name].abs() < 1.1e-5
    if name != "clash":
        assert objective(*case)[name] > 1e-3


def test_the_bond_term_is_zero_for_ideal_bonds(case: Any) -> None:
    """The steps of the true walk are 3.8 Å by construction."""
    assert OBJECTIVE(*case.truth)["bond"] < 1e-12
    assert OBJECTIVE(*case)["bond"] > 1e-3


@pytest.mark.parametrize("name", [t for t in TERMS if t != "frame_rot"])
def test_a_term_ignores_rigid_motion_of_the_prediction(name: str, case: Any) -> None:
    assert torch.allclose(OBJECTIVE(*case.moved())[name], OBJECTIVE(*case)[name], atol=1e-8)


@pytest.mark.parametrize("name", TERMS)
def test_a_term_ignores_rotation_of_prediction_and_truth_together(name: str, case: Any) -> None:
    assert torch.allclose(OBJECTIVE(*case.moved_together())[name], OBJECTIVE(*case)[name], atol=1e-8)


def test_the_frame_rotation_term_sees_a_turn_of_the_prediction_alone(case: Any) -> None:
    assert OBJECTIVE(*case.truth.moved())["frame_rot"] > 1e-2


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("junk", [1e3, float("nan")])
def test_a_term_ignores_padding_in_value_and_gradient(name: str, junk: float, case: Any) -> None:
    if junk != junk and name == "aux":
        junk = 1e3  # logits of padding come from the network: finite or the run is lost anyway

    def value_and_gradient(c: Any) -> tuple[Tensor, Tensor]:
        leaves = [x.detach().clone().requires_grad_() for x in c.prediction if x is not None]
        value = OBJECTIVE(StructurePrediction(*leaves), c.target)[name]
        value.backward()
        return value, sum(x.grad[:, :14].sum() for x in leaves[:2] if x.grad is not None)

    (alone, gradient), (beside, same) = value_and_gradient(case), value_and_gradient(case.padded(junk=junk))
    assert torch.allclose(beside, alone, atol=1e-12)
    assert torch.allclose(torch.as_tensor(same), torch.as_tensor(gradient), atol=1e-9)


@pytest.mark.parametrize("name", TERMS)
def test_a_chain_scores_the_same_alone_and_in_a_batch(name: str, case: Any) -> None:
    together = OBJECTIVE.per_example(*case)[name]
    alone = torch.stack([OBJECTIVE(*case.chain(i))[name] for i in range(2)])
    assert torch.allclose(together, alone, atol=1e-12)
    assert torch.allclose(OBJECTIVE(*case)[name], alone.mean(), atol=1e-12)


@pytest.mark.parametrize("name", ["fape", "chirality"])
def test_a_mirror_image_is_punished(name: str, case: Any) -> None:
    """Both see handedness; a mirrored trace keeps every distance."""
    assert OBJECTIVE(*case.mirrored())[name] > 0.1


@pytest.mark.parametrize("name", ["dist", "bond", "angle", "rg", "clash"])
def test_a_mirror_image_is_invisible_to_lengths_and_angles(name: str, case: Any) -> None:
    assert torch.allclose(OBJECTIVE(*case.mirrored())[name], OBJECTIVE(*case.truth)[name], atol=1e-12)


@pytest.mark.parametrize("name", TERMS)
def test_a_term_passes_gradcheck_in_float64(name: str, case: Any) -> None:
    """On five residues of chain 0 and four distance bins: a finite difference runs once per number."""
    prediction, target = case.chain(0)
    short = StructurePrediction(
        prediction.x0[:, :5],
        prediction.rotation[:, :5],
        prediction.log_rg,
        prediction.distance_logits[:, :5, :5, :3],
    )
    target = map_tensors(lambda x: x[:, :5], target)
    objective = DiffusionObjective(clash_threshold=5.0, distance_bins=4, distance_last=10.0)
    leaves = tuple(x.clone().requires_grad_() for x in short if x is not None)
    assert torch.autograd.gradcheck(lambda *p: objective(StructurePrediction(*p), target)[name], leaves)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("shape", ["point", "line", "nearly straight", "far"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_term_and_its_gradient_are_finite_under_autocast(
    name: str, shape: str, dtype: torch.dtype, case: Any
) -> None:
    """Coincident, collinear, almost collinear and 1e4 Å distant residues; half-precision predictions."""
    prediction, target = case.to(torch.float32)
    along = torch.arange(14.0)[:, None] * torch.tensor([0.38, 0.0, 0.0])
    x0 = {
        "point": torch.zeros(14, 3),
        "line": along,
        "nearly straight": along + 1e-4 * torch.randn(14, 3),
        "far": 1e3 * torch.randn(14, 3),
    }[shape]
    prediction = prediction._replace(x0=x0.expand(2, 14, 3))
    leaves = [x.to(dtype).requires_grad_() for x in prediction if x is not None]
    with torch.autocast("cpu", dtype=dtype):
        value = OBJECTIVE(StructurePrediction(*leaves), target)[name]
    assert value.dtype == torch.float32 and value.isfinite()
    value.backward()
    assert all(x.grad.isfinite().all() for x in leaves if x.grad is not None)


@pytest.mark.parametrize("name", TERMS)
def test_a_degenerate_truth_gives_finite_gradients(name: str, case: Any) -> None:
    prediction, target = case.to(torch.float32)
    target = target._replace(x0=torch.zeros_like(target.x0))
    x0 = torch.zeros_like(prediction.x0).requires_grad_()
    log_rg = prediction.log_rg.clone().requires_grad_()
    terms = OBJECTIVE(prediction._replace(x0=x0, log_rg=log_rg), target)
    (terms[name] + 0 * x0.sum()).backward()
    assert terms[name].isfinite() and x0.grad is not None and x0.grad.isfinite().all()


@pytest.mark.parametrize("length", [1, 2, 3])
def test_chains_too_short_for_a_term_contribute_nothing_to_it(length: int, case: Any) -> None:
    """Beside a whole chain the mean is that chain's; alone everything is 0 that needs more residues."""
    whole, short = case.chain(0), case.chain(0)
    mask = torch.arange(14)[None] < length
    both_target = StructureTarget(
        *(
            torch.cat((a, b))
            for a, b in zip(whole.target[:4], short.target._replace(mask=mask)[:4], strict=True)
        )
    )
    both = StructurePrediction(*(torch.cat((a, a)) for a in whole.prediction if a is not None))
    per_chain, expected = OBJECTIVE.per_chain(both, both_target), OBJECTIVE(*whole)
    for name in TERMS:
        needs = {"bond": 2, "angle": 3, "chirality": 4, "fape": 3, "frame_rot": 3, "clash": 3}.get(name, 2)
        assert per_chain[name].counted.tolist() == [True, length >= needs]
        if length < needs:
            assert per_chain[name].value[1] == 0
            assert torch.allclose(per_chain[name].mean(), expected[name])


def test_a_batch_of_nothing_is_zero_and_differentiable(case: Any) -> None:
    prediction, target = case
    leaves = [x.clone().requires_grad_() for x in prediction if x is not None]
    terms = OBJECTIVE(StructurePrediction(*leaves), target._replace(mask=torch.zeros_like(target.mask)))
    weighted_total(terms, weights_at(LossWeights(clash=1.0), 1)).backward()
    assert all(term == 0 for term in terms.values())
    assert all(x.grad is not None and not x.grad.any() for x in leaves)


def test_no_term_reaches_across_a_break_or_a_missing_residue(case: Any) -> None:
    """Pull chain 1 apart at its break: bonds, angles and quartets do not notice, distances do."""
    prediction, target = case.chain(1)
    apart, true = prediction.x0.clone(), target.x0.clone()
    apart[:, 8:] += 3.0
    true[:, 8:] -= 3.0
    apart[:, 4] = 77.0
    before = OBJECTIVE(prediction, target)
    after = OBJECTIVE(prediction._replace(x0=apart), target._replace(x0=true))
    for name in ("bond", "angle", "chirality", "frame_rot"):
        assert torch.allclose(after[name], before[name], atol=1e-9)
    assert not torch.allclose(after["dist"], before["dist"])
