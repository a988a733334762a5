"""The objective of a model that predicts N, Cα, C and O."""

from __future__ import annotations

from math import pi
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from minifold_pl.geometry.backbone import backbone_from_torsions
from minifold_pl.geometry.frames import backbone_frames, ca_frames, random_rotations
from minifold_pl.geometry.measures import radius_of_gyration
from minifold_pl.geometry.units import center, to_angstrom, to_model_units
from minifold_pl.losses.backbone_objective import BackboneObjective, BackboneWeights, with_backbone
from minifold_pl.losses.objective import LossWeights, final_weights, weighted_total, weights_at
from minifold_pl.types import StructurePrediction, StructureTarget

OURS = ("bb_fape", "bb_bond", "bb_angle", "omega", "phi_psi")
OBJECTIVE = BackboneObjective()


class Pair(NamedTuple):
    perfect: StructurePrediction
    target: StructureTarget


@pytest.fixture
def pair() -> Pair:
    """Two ideal chains of 10, the second of 8 with C of residue 3 unobserved, and their perfect prediction; float64."""
    mask = torch.arange(10) < torch.tensor([[10], [8]])
    bonded = mask.clone()
    bonded[0, -1] = bonded[1, 7] = False
    turns = torch.rand(2, 2, 10, dtype=torch.float64) - 1.5
    atoms = to_model_units(backbone_from_torsions(turns[0], turns[1] + 2, torch.full((2, 10), pi).double()))
    x0 = center(atoms[:, :, 1], mask)
    atoms = atoms - atoms[:, :, 1:2] + x0[:, :, None]
    known = mask[..., None].expand(-1, -1, 4).clone()
    known[1, 3, 2] = False
    rotation = backbone_frames(atoms[:, :, 0], x0, atoms[:, :, 2]).rotation
    local = torch.einsum("blxd,blax->blad", rotation, atoms - x0[:, :, None])
    perfect = StructurePrediction(
        x0=x0,
        rotation=rotation,
        log_rg=radius_of_gyration(to_angstrom(x0), mask).log(),
        distance_logits=torch.randn(2, 10, 10, 31, dtype=torch.float64),
        local_atoms=local,
    )
    return Pair(perfect, StructureTarget(x0, rotation, mask, bonded, atoms=atoms, atom_mask=known))


def test_the_structural_terms_are_zero_at_the_truth_and_the_new_ones_not_beside_it(pair: Pair) -> None:
    terms = OBJECTIVE(*pair)
    for name in ("fape", "frame_rot", "dist", "chirality", "angle", *OURS):
        assert terms[name] < 1e-4, name
    noise = 0.05 * torch.randn_like(pair.perfect.local_atoms)
    terms = OBJECTIVE(pair.perfect._replace(local_atoms=pair.perfect.local_atoms + noise), pair.target)
    assert all(terms[name] > 1e-3 for name in OURS)
    assert all(terms[name] < 1e-4 for name in ("fape", "frame_rot", "dist"))


def test_the_terms_are_those_that_have_a_weight_and_the_total_is_built_from_them(pair: Pair) -> None:
    """bb_angle was computed, and added, and logged nowhere: no term can be in the total and not among those logged."""
    weights = with_backbone(LossWeights(), BackboneWeights())
    terms = OBJECTIVE(*pair)
    assert terms.keys() == weights_at(weights, 1).keys() == final_weights(weights).keys()
    unseen = {name: term for name, term in terms.items() if name != "bb_angle"}
    with pytest.raises(ValueError, match="bb_angle"):
        weighted_total(unseen, weights_at(weights, 1))


def test_frames_are_those_of_n_ca_and_c_and_count_where_these_are_known(pair: Pair) -> None:
    assert OBJECTIVE.framed(pair.target).sum(1).tolist() == [10, 7]
    turned = pair.target.rotation.clone()
    turned[1, 3] = random_rotations(1, dtype=torch.float64)[0]
    other = pair.target._replace(rotation=turned)
    torch.testing.assert_close(OBJECTIVE(pair.perfect, other)["frame_rot"], OBJECTIVE(*pair)["frame_rot"])
    of_trace = ca_frames(pair.target.x0, pair.target.mask, pair.target.bonded).rotation
    assert OBJECTIVE(pair.perfect._replace(rotation=of_trace), pair.target)["frame_rot"] > 0.02


def test_an_unobserved_atom_says_nothing(pair: Pair) -> None:
    atoms = pair.target.atoms.clone()
    atoms[1, 3, 2] = 77.0
    hidden = OBJECTIVE(pair.perfect, pair.target._replace(atoms=atoms))
    for name, term in OBJECTIVE(*pair).items():
        torch.testing.assert_close(hidden[name], term)


@pytest.mark.parametrize("name", OURS)
def test_a_new_term_reaches_the_atoms_and_the_frames(name: str, pair: Pair) -> None:
    p = pair.perfect
    leaves = [
        x.clone().requires_grad_() for x in (p.x0 + 0.01 * torch.randn_like(p.x0), p.rotation, p.local_atoms)
    ]
    OBJECTIVE(p._replace(x0=leaves[0], rotation=leaves[1], local_atoms=leaves[2]), pair.target)[
        name
    ].backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() and leaf.grad.any() for leaf in leaves)


def test_a_mirror_image_is_seen_by_bb_fape(pair: Pair) -> None:
    side = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    atoms = pair.target.atoms * side
    x0 = atoms[:, :, 1]
    rotation = backbone_frames(atoms[:, :, 0], x0, atoms[:, :, 2]).rotation
    local = torch.einsum("blxd,blax->blad", rotation, atoms - x0[:, :, None])
    mirrored = pair.perfect._replace(x0=x0, rotation=rotation, local_atoms=local)
    terms = OBJECTIVE(mirrored, pair.target)
    assert terms["bb_fape"] > 0.05
    assert terms["phi_psi"] > 0.05
    assert terms["bb_bond"] < 1e-6


def test_the_ramp_is_a_fifth_an_epoch_up_to_one() -> None:
    weights = with_backbone(LossWeights(), BackboneWeights(phi_psi=0.5))
    at = [weights_at(weights, epoch) for epoch in (1, 2, 4, 5, 30)]
    assert [w["bb_fape"] for w in at] == pytest.approx([0.2, 0.4, 0.8, 1, 1])
    assert [w["phi_psi"] for w in at] == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])
    assert final_weights(weights)["bb_fape"] == 1
    assert final_weights(weights)["bond"] == 3


@pytest.mark.parametrize(
    ("epoch", "total", "fape", "frame_rot", "dist", "bb_fape", "bb_bond", "omega"),
    [
        (1, 2.728, 1.550, 0.769, 0.347, 1.542, 0.004, 0.076),
        (2, 3.049, 1.559, 0.787, 0.327, 1.550, 0.004, 0.047),
    ],
)
def test_the_ramp_explains_the_totals_of_the_write_up(
    epoch: int,
    total: float,
    fape: float,
    frame_rot: float,
    dist: float,
    bb_fape: float,
    bb_bond: float,
    omega: float,
) -> None:
    """Its table of v14 leaves out six terms: five are taken from the row of v13 of that epoch, and bb_angle is 0 … 0.1.

    Without the ramp the second row would be 0.9 off, with the weights swapped 0.3.
    """
    weights = weights_at(with_backbone(LossWeights(), BackboneWeights()), epoch)
    seen = {
        "fape": fape, "frame_rot": frame_rot, "dist": dist, "bb_fape": bb_fape, "bb_bond": bb_bond, "omega": omega,
        "bond": 0.009, "aux": 0.323, "chirality": 0.34, "angle": 0.12, "rg": 0.036,
    }  # fmt: skip
    assert sum(weights[name] * value for name, value in seen.items()) == pytest.approx(total, abs=0.03)


def test_a_prediction_without_atoms_is_refused(pair: Pair) -> None:
    with pytest.raises(ValueError, match="backbone_head"):
        OBJECTIVE(pair.perfect._replace(local_atoms=None), pair.target)


@pytest.mark.parametrize("wrong", [{"bb_fape": -1.0}, {"omega": float("nan")}, {"ramp_epochs": 0}])
def test_weights_that_are_none_are_refused(wrong: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BackboneWeights(**wrong)
