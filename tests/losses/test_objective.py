from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, fields
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import torch

from minifold_pl.losses.objective import (
    DiffusionObjective,
    LinearRamp,
    LossWeights,
    final_weights,
    weighted_total,
    weights_at,
)
from minifold_pl.types import StructurePrediction

# Mini-Fold write-up, "v13 Training Progress", all 15 rows:
# epoch, val total, FAPE, frame rot, dist MSE, bond, aux, chirality, angle, Rg
V13_TABLE = """
 1 2.571 1.657 0.846 0.353 0.009 0.323 0.347 0.130 0.036
 2 2.494 1.610 0.792 0.359 0.007 0.324 0.336 0.115 0.036
 3 2.533 1.611 0.829 0.374 0.008 0.324 0.336 0.120 0.036
 4 2.373 1.546 0.771 0.312 0.008 0.323 0.319 0.113 0.036
 5 2.467 1.595 0.809 0.338 0.006 0.324 0.332 0.113 0.036
 6 2.447 1.588 0.780 0.343 0.006 0.324 0.319 0.108 0.035
 7 2.539 1.622 0.834 0.365 0.007 0.350 0.334 0.116 0.035
 8 2.550 1.651 0.841 0.346 0.005 0.350 0.347 0.112 0.035
 9 2.568 1.623 0.826 0.391 0.007 0.353 0.344 0.117 0.035
10 2.501 1.588 0.810 0.377 0.005 0.360 0.341 0.107 0.035
11 2.504 1.611 0.815 0.355 0.005 0.384 0.333 0.106 0.035
12 2.431 1.555 0.783 0.353 0.006 0.391 0.329 0.107 0.035
13 2.494 1.591 0.811 0.363 0.005 0.400 0.342 0.110 0.035
14 2.534 1.622 0.810 0.375 0.006 0.362 0.336 0.108 0.035
15 2.390 1.556 0.770 0.318 0.006 0.396 0.354 0.110 0.035
"""
COLUMNS = ("fape", "frame_rot", "dist", "bond", "aux", "chirality", "angle", "rg")
ROWS = [line.split() for line in V13_TABLE.split("\n") if line]


@pytest.mark.parametrize("row", ROWS, ids=[f"epoch {row[0]}" for row in ROWS])
def test_the_v13_table_recomputes_from_weights_and_ramp(row: list[str]) -> None:
    """To ±0.0025, what rounding to three places allows; row 15 to ±0.007 (its figures fit no better)."""
    epoch, total, *values = row
    terms = {n: torch.tensor(float(v), dtype=torch.float64) for n, v in zip(COLUMNS, values, strict=True)}
    terms["clash"] = torch.tensor(1e6, dtype=torch.float64)  # not in the table: its weight is 0
    computed = weighted_total(terms, weights_at(LossWeights(), int(epoch))).item()
    assert abs(computed - float(total)) <= (0.007 if epoch == "15" else 0.0025)


def test_the_table_is_sharp_enough_to_notice_a_wrong_weight() -> None:
    """Negative control: each of these readings of the write-up misses at least three rows."""
    for wrong in (
        LossWeights(bond=LinearRamp(start=1.0, end=1.0)),
        LossWeights(bond=LinearRamp(start=3.0, end=3.0)),
        LossWeights(aux=0.1),
        LossWeights(chirality=0.5),
        LossWeights(frame_rot=1.0),
        LossWeights(rg=0.0),
    ):
        missed = 0
        for epoch, total, *values in ROWS[:14]:
            terms = {n: torch.tensor(float(v)) for n, v in zip(COLUMNS, values, strict=True)}
            terms["clash"] = torch.tensor(0.0)
            computed = weighted_total(terms, weights_at(wrong, int(epoch))).item()
            missed += abs(computed - float(total)) > 0.0025
        assert missed >= 3, wrong


def test_the_bond_ramp_is_the_one_of_the_write_up() -> None:
    """β(e) = min(3, 1 + 2 min(e/10, 1)), e from 1."""
    ramp = LossWeights().bond
    assert [ramp.at(e) for e in (1, 5, 10, 60)] == [1.2, 2.0, 3.0, 3.0]


def test_the_ramp_of_v10_is_a_setting() -> None:
    """β(e) = min(5, 1 + 4 min(e/15, 1))."""
    ramp = LinearRamp(start=1.0, end=5.0, epochs=15)
    assert ramp.at(15) == ramp.at(99) == 5.0 and abs(ramp.at(3) - 1.8) < 1e-12


def test_epoch_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="counted from 1"):
        weights_at(LossWeights(), 0)


def test_the_final_weights_are_those_of_the_end_of_the_ramp() -> None:
    assert final_weights(LossWeights()) == weights_at(LossWeights(), 1000)
    assert final_weights(LossWeights())["bond"] == 3.0


def test_every_weight_has_a_term_and_every_term_a_weight(case: Any) -> None:
    names = [f.name for f in fields(LossWeights)]
    assert list(DiffusionObjective()(*case)) == names
    assert list(weights_at(LossWeights(), 1)) == names


@pytest.mark.parametrize("change", [{"novel": 1.0}, {"fape": None}])
def test_a_term_without_weight_and_a_weight_without_term_are_refused(change: dict[str, Any]) -> None:
    weights = weights_at(LossWeights(), 1)
    terms = dict.fromkeys(weights, torch.ones(()))
    for name, value in change.items():
        if value is None:
            del terms[name]
        else:
            terms[name] = torch.ones(())
    with pytest.raises(ValueError, match=f"differ in \\['{next(iter(change))}'\\]"):
        weighted_total(terms, weights)


def test_a_term_of_weight_zero_cannot_reach_the_total_or_its_gradient() -> None:
    x = torch.tensor(2.0, requires_grad=True)
    weights = weights_at(LossWeights(), 1)
    terms = dict.fromkeys(weights, x * 1)
    terms["clash"] = x * float("inf")
    total = weighted_total(terms, weights)
    total.backward()
    assert total.isfinite() and x.grad is not None and x.grad.isfinite()


def test_weights_that_are_all_zero_are_refused() -> None:
    weights = dict.fromkeys(weights_at(LossWeights(), 1), 0.0)
    with pytest.raises(ValueError, match="every loss weight is 0"):
        weighted_total({name: torch.ones(()) for name in weights}, weights)


def test_a_term_of_weight_zero_is_computed_all_the_same(case: Any) -> None:
    assert LossWeights().clash == 0
    assert DiffusionObjective(clash_threshold=20.0)(*case)["clash"] > 0


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_impossible_weights_are_refused_by_name(value: float) -> None:
    with pytest.raises(ValueError, match="loss weight angle"):
        LossWeights(angle=value)
    with pytest.raises(ValueError, match="loss weight ramp end"):
        LinearRamp(end=value)
    with pytest.raises(ValueError, match="ramp epochs is 0"):
        LinearRamp(epochs=0)


def test_impossible_objectives_are_refused() -> None:
    with pytest.raises(ValueError, match="fape_clamp is 0"):
        DiffusionObjective(fape_clamp=0.0)
    with pytest.raises(ValueError, match="distance bins"):
        DiffusionObjective(distance_bins=1)
    with pytest.raises(ValueError, match="clash_threshold is -3"):
        DiffusionObjective(clash_threshold=-3.0)


def test_weights_cannot_change_behind_the_log() -> None:
    with pytest.raises(FrozenInstanceError):
        LossWeights().fape = 2.0  # type: ignore[misc]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_yaml_files_merge_field_by_field(tmp_path: Path) -> None:
    """A variant states only what it changes, down into the ramp."""
    base, overlay = tmp_path / "base.yaml", tmp_path / "overlay.yaml"
    base.write_text("objective: {weights: {angle: 0.7, bond: {end: 5.0}}, fape_clamp: 10.0}\n")
    overlay.write_text("objective: {weights: {bond: {epochs: 15}}, fape_clamp: null}\n")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--objective", type=DiffusionObjective, default=DiffusionObjective())
    parsed = parser.parse_args([f"--config={base}", f"--config={overlay}", "--objective.weights.clash=0.1"])
    objective = parser.instantiate_classes(parsed).objective
    expected = LossWeights(angle=0.7, clash=0.1, bond=LinearRamp(end=5.0, epochs=15))
    assert objective == DiffusionObjective(expected)


def test_the_clamp_reaches_fape_in_angstrom(case: Any) -> None:
    """Random frames see every far point wrongly by more than 1 Å."""
    clamped = DiffusionObjective(fape_clamp=1.0)(*case)["fape"]
    assert clamped <= 0.1 < DiffusionObjective()(*case)["fape"]


def test_every_prediction_is_reached_by_a_gradient_and_no_term_by_anothers(case: Any) -> None:
    """The learned rotation counts (v11 lost it); the auxiliary head and Rg touch nothing but themselves."""
    reaches = {
        "fape": {"x0", "rotation"},
        "frame_rot": {"rotation"},
        "rg": {"log_rg"},
        "aux": {"distance_logits"},
    }
    for name in weights_at(LossWeights(), 1):
        leaves = [x.clone().requires_grad_() for x in case.prediction if x is not None]
        prediction = StructurePrediction(*leaves)
        DiffusionObjective(clash_threshold=20.0)(prediction, case.target)[name].backward()
        reached = {
            field
            for field, leaf in zip(StructurePrediction._fields[:4], leaves, strict=True)
            if leaf.grad is not None and leaf.grad.any()
        }
        assert reached == reaches.get(name, {"x0"}), name


def test_in_units_of_their_own_size_chains_are_judged_as_shapes(case: Any) -> None:
    """Å and the auxiliary terms stay as they are; a bond of 3.8 Å is 3.8/Rg, and FAPE counts radii of gyration."""
    prediction, target = case.to(torch.float64)
    unit = torch.tensor([10.0, 25.0], dtype=torch.float64)
    scale = (10 / unit)[:, None, None]
    own = prediction._replace(x0=prediction.x0 * scale), target._replace(x0=target.x0 * scale, unit=unit)
    fixed = DiffusionObjective(clash_threshold=8.0).per_example(prediction, target)
    found = DiffusionObjective(clash_threshold=8.0).per_example(*own)
    lengths = {"fape": 1, "dist": 2, "bond": 2, "clash": 2}
    for name, value in fixed.items():
        factor = (10 / unit) ** lengths.get(name, 0)
        assert torch.allclose(found[name], value * factor, rtol=1e-3, atol=1e-7), name
    assert fixed["bond"].min() > 1e-3 and fixed["clash"].min() > 1e-3


def test_clamps_are_in_angstrom_in_every_unit(case: Any) -> None:
    prediction, target = case
    unit = torch.tensor([25.0, 25.0], dtype=prediction.x0.dtype)
    own = prediction._replace(x0=prediction.x0 * 0.4), target._replace(x0=target.x0 * 0.4, unit=unit)
    clamped = DiffusionObjective(fape_clamp=2.0)
    assert torch.allclose(clamped(*own)["fape"], 0.4 * clamped(*case)["fape"], rtol=1e-3)


def test_a_clash_threshold_in_model_units_is_the_mistake_of_v9(case: Any) -> None:
    """3.0 model units are 30 Å at the fixed scale, and three radii of gyration at the other."""
    prediction, target = case.truth
    wrong = DiffusionObjective(clash_unit="model")
    assert torch.allclose(
        wrong(prediction, target)["clash"],
        DiffusionObjective(clash_threshold=30.0)(prediction, target)["clash"],
    )
    own = target._replace(unit=torch.tensor([12.0, 12.0], dtype=target.x0.dtype))
    assert torch.allclose(wrong(prediction, own)["clash"], wrong(prediction, target)["clash"])
    assert wrong(prediction, target)["clash"] > 100 * DiffusionObjective()(prediction, target)["clash"]


def test_a_predicted_contact_triples_the_overlap_of_its_pair(case: Any) -> None:
    prediction, target = case
    objective = DiffusionObjective(clash_threshold=20.0, clash_contacts=True)
    contacts = torch.zeros(*target.mask.shape, target.mask.shape[1], dtype=prediction.x0.dtype)
    none, sure, half = (
        objective(prediction._replace(contacts=contacts + c), target)["clash"] for c in (0.0, 1.0, 0.5)
    )
    assert torch.allclose(none, DiffusionObjective(clash_threshold=20.0)(prediction, target)["clash"])
    assert torch.allclose(sure, 9 * none) and torch.allclose(half, 4 * none)
    blind = DiffusionObjective(clash_threshold=20.0)(prediction._replace(contacts=contacts + 1), target)
    assert torch.allclose(blind["clash"], none)


def test_any_weight_may_be_a_ramp() -> None:
    ramp = LinearRamp(start=0.0, end=1.0, epochs=20)

    @dataclass(frozen=True, kw_only=True)
    class More(LossWeights):
        later: LinearRamp = ramp

    weights = More(bond=LinearRamp(start=5.0, end=5.0))
    assert [weights_at(weights, e)["later"] for e in (1, 10, 30)] == [0.05, 0.5, 1.0]
    assert weights_at(weights, 1)["bond"] == 5.0
    assert final_weights(weights)["later"] == 1.0
