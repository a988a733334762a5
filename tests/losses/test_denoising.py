"""The rigid-aligned squared error, its weight over the timesteps, and smooth lDDT."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from minifold_pl.diffusion.schedule import CosineSchedule
from minifold_pl.geometry.frames import random_rotations
from minifold_pl.losses.denoising import (
    DenoisingWeights,
    SNRWeighting,
    aligned_mse_per_chain,
    smooth_lddt_per_chain,
)
from minifold_pl.losses.objective import DiffusionObjective, LossWeights, by_term, weights_at

TERMS = {"x0": aligned_mse_per_chain, "lddt": smooth_lddt_per_chain}
AT_THE_TRUTH = 1 - sum(1 / (1 + math.exp(-k)) for k in (0.5, 1, 2, 4)) / 4
"""0.1959: AlphaFold 3, suppl. Algorithm 27, lines 3 and 4, where every distance is right."""


def value(name: str, case: Any) -> torch.Tensor:
    return TERMS[name](case.prediction.x0, case.target.x0, case.target.mask).value


def test_at_the_truth_the_error_is_0_and_smooth_lddt_what_it_was_published_to_be(case: Any) -> None:
    assert value("x0", case.truth).max() < 1e-12
    torch.testing.assert_close(value("lddt", case.truth), torch.full((2,), AT_THE_TRUTH, dtype=torch.float64))
    assert value("x0", case).min() > 1e-3
    assert (value("lddt", case) > AT_THE_TRUTH + 1e-2).all()


@pytest.mark.parametrize("name", TERMS)
def test_rigid_motion_of_the_prediction_or_of_the_truth_changes_nothing(name: str, case: Any) -> None:
    before = value(name, case)
    torch.testing.assert_close(value(name, case.moved()), before)
    turn = random_rotations(1, dtype=torch.float64)[0]
    other = case._replace(target=case.target._replace(x0=case.target.x0 @ turn.T - 2))
    torch.testing.assert_close(value(name, other), before)


def test_the_error_sees_a_mirror_image_and_lddt_does_not(case: Any) -> None:
    assert (value("x0", case.mirrored()) > 1e-2).all()
    torch.testing.assert_close(value("lddt", case.mirrored()), value("lddt", case.truth))


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("junk", [1e3, float("nan")])
def test_padding_reaches_neither_value_nor_gradient(name: str, junk: float, case: Any) -> None:
    def value_and_gradient(c: Any) -> tuple[torch.Tensor, torch.Tensor]:
        x0 = c.prediction.x0.clone().requires_grad_()
        found = TERMS[name](x0, c.target.x0, c.target.mask).value
        found.sum().backward()
        return found, x0.grad

    (alone, gradient), (beside, same) = value_and_gradient(case), value_and_gradient(case.padded(junk=junk))
    torch.testing.assert_close(beside, alone)
    torch.testing.assert_close(same[:, :14], gradient)
    assert not same[:, 14:].any()


@pytest.mark.parametrize("name", TERMS)
def test_it_passes_gradcheck_in_float64_also_where_the_pose_moves_with_the_prediction(
    name: str, case: Any
) -> None:
    """The motion has no gradient of its own; a finite difference lets it move, and finds the same."""
    one = case.chain(1)
    x0 = one.prediction.x0.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: TERMS[name](x, one.target.x0, one.target.mask).value, (x0,), atol=1e-6
    )


def test_a_pose_that_is_not_the_best_fails_that_check(case: Any, monkeypatch) -> None:
    """Negative control: with the identity in place of the best rotation the value is larger."""
    best = value("x0", case.moved())
    from minifold_pl.types import Frames

    monkeypatch.setattr(
        "minifold_pl.losses.denoising.kabsch",
        lambda mobile, target, mask: Frames(
            torch.eye(3, dtype=mobile.dtype).expand(len(mobile), 3, 3), torch.zeros_like(mobile[:, 0])
        ),
    )
    assert (value("x0", case.moved()) > 2 * best).all()


def test_the_error_of_points_that_were_worked_out_by_hand() -> None:
    """A square of side 2 and one of side 4 about the same centre, turned: each corner is √2 away, 2/3 a coordinate."""
    square = torch.tensor([[[1.0, 1, 0], [-1, 1, 0], [-1, -1, 0], [1, -1, 0]]])
    turned = 2 * square @ random_rotations(1)[0].T + 5
    found = aligned_mse_per_chain(turned, square, torch.ones(1, 4, dtype=torch.bool)).value
    torch.testing.assert_close(found, torch.tensor([2 / 3]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", ["point", "line", "far", "broken"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_degenerate_predictions_have_finite_gradients_and_broken_ones_stop_nothing(
    shape: str, dtype: torch.dtype, case: Any
) -> None:
    """A NaN is the guard's to see: the pose must not raise on it."""
    target = case.to(torch.float32).target
    along = torch.arange(14.0)[:, None] * torch.tensor([0.38, 0.0, 0.0])
    x0 = {"point": torch.zeros(14, 3), "line": along, "far": 1e3 * torch.randn(14, 3)}.get(shape)
    x0 = torch.full((14, 3), torch.nan) if x0 is None else x0
    leaf = x0.expand(2, 14, 3).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        terms = [term(leaf, target.x0, target.mask).mean() for term in TERMS.values()]
    torch.stack(terms).sum().backward()
    for term in terms:
        assert term.dtype == torch.float32
        assert bool(term.isfinite()) == (shape != "broken")
    assert leaf.grad.isfinite().all() or shape == "broken"


@pytest.mark.parametrize("length", [0, 1])
def test_chains_without_residues_count_nothing_and_one_residue_is_a_point(length: int, case: Any) -> None:
    mask = torch.arange(14).expand(2, 14) < length
    for name, term in TERMS.items():
        found = term(case.prediction.x0, case.target.x0, mask)
        assert found.value.abs().max() < 1e-12
        assert found.counted.all() == (name == "x0" and length == 1)


def test_a_unit_of_its_own_changes_lddt_by_nothing_but_the_unit(case: Any) -> None:
    p, t = case.prediction.x0, case.target
    unit = torch.tensor([10.0, 20.0], dtype=torch.float64)
    scaled = [x * (10 / unit)[:, None, None] for x in (p, t.x0)]
    torch.testing.assert_close(
        smooth_lddt_per_chain(*scaled, t.mask, unit=unit).value, smooth_lddt_per_chain(p, t.x0, t.mask).value
    )


# --- the weight of a timestep --------------------------------------------------------------------


def test_the_weight_is_min_snr_by_default_and_a_floor_keeps_high_noise() -> None:
    snr = CosineSchedule().snr(torch.tensor([1, 225, 497, 730, 975]))
    plain = SNRWeighting()(snr)
    assert plain[0] == plain[1] == 5
    torch.testing.assert_close(plain[2:], snr[2:])
    assert plain[3] == pytest.approx(0.2, abs=0.01) and plain[4] < 0.003
    assert (SNRWeighting(floor=0.5)(snr) >= 0.5).all()
    assert torch.equal(SNRWeighting(floor=1, gamma=1)(snr), torch.ones(5))
    torch.testing.assert_close(SNRWeighting(offset=1, gamma=math.inf)(snr), snr + 1)


@pytest.mark.parametrize("wrong", [{"floor": -1}, {"gamma": 0}, {"floor": 6}, {"offset": math.inf}])
def test_weights_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="x0_weighting"):
        SNRWeighting(**wrong)


def test_the_objective_weighs_each_chain_by_its_own_timestep(case: Any) -> None:
    snr = torch.tensor([100.0, 0.25], dtype=torch.float64)
    objective = DiffusionObjective(denoising=True)
    terms = objective.per_chain(case.prediction, case.target._replace(snr=snr))
    torch.testing.assert_close(
        terms["x0"].value, value("x0", case) * torch.tensor([5.0, 0.25], dtype=torch.float64)
    )
    torch.testing.assert_close(terms["lddt"].value, value("lddt", case))
    weights = by_term(LossWeights()) | by_term(DenoisingWeights(x0=2.0))
    assert weights_at(weights, 5)["bond"] == 2.0 and weights_at(weights, 5)["x0"] == 2.0
    assert terms.keys() == weights.keys()


def test_without_the_noise_level_the_objective_says_what_is_missing(case: Any) -> None:
    with pytest.raises(ValueError, match=r"target\.snr"):
        DiffusionObjective(denoising=True)(*case)


def test_the_other_terms_are_what_they_are_without_these(case: Any) -> None:
    target = case.target._replace(snr=torch.ones(2))
    more = DiffusionObjective(denoising=True)(case.prediction, target)
    for name, term in DiffusionObjective()(case.prediction, target).items():
        assert torch.equal(more[name], term)
