from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from minifold_pl.geometry.frames import random_rotations
from minifold_pl.geometry.measures import (
    bond_angle_cosines,
    bond_lengths,
    bond_mask,
    dihedral,
    distance,
    pairwise_distances,
    pseudo_dihedrals,
    quartet_mask,
    radius_of_gyration,
    signed_volumes,
    triplet_mask,
)

MEASURES = [pairwise_distances, bond_lengths, bond_angle_cosines, pseudo_dihedrals, signed_volumes]


def _rg(x: Tensor) -> Tensor:
    return radius_of_gyration(x, torch.ones(x.shape[:-1], dtype=torch.bool))


@pytest.mark.parametrize("measure", [*MEASURES, _rg])
def test_measures_ignore_rigid_motion(measure: Callable[[Tensor], Tensor], walk: Tensor) -> None:
    turn = random_rotations(1, dtype=torch.float64)[0]
    assert torch.allclose(measure(walk @ turn.T + 11), measure(walk), atol=1e-9)


@pytest.mark.parametrize("measure", [pseudo_dihedrals, signed_volumes])
def test_a_mirror_turns_the_sign_of_handed_measures(
    measure: Callable[[Tensor], Tensor], walk: Tensor
) -> None:
    mirrored = walk * torch.tensor([1.0, 1.0, -1.0], dtype=walk.dtype)
    assert measure(walk).abs().max() > 0.1
    assert torch.allclose(measure(mirrored), -measure(walk))


@pytest.mark.parametrize("measure", [pairwise_distances, bond_lengths, bond_angle_cosines])
def test_a_mirror_leaves_lengths_and_angles_alone(measure: Callable[[Tensor], Tensor], walk: Tensor) -> None:
    mirrored = walk * torch.tensor([1.0, 1.0, -1.0], dtype=walk.dtype)
    assert torch.allclose(measure(mirrored), measure(walk))


@pytest.mark.parametrize("measure", [*MEASURES, _rg])
def test_measures_gradcheck(measure: Callable[[Tensor], Tensor], walk: Tensor) -> None:
    x = walk[:1, :6].clone().requires_grad_()

    def off_diagonal(x: Tensor) -> Tensor:
        value = measure(x)
        # the root is flat only within 1e-5 of 0, where a finite difference cannot see it
        return value - torch.diag_embed(value.diagonal(dim1=-2, dim2=-1)) if value.dim() == 3 else value

    assert torch.autograd.gradcheck(off_diagonal, (x,))


@pytest.mark.parametrize("measure", [*MEASURES, _rg])
@pytest.mark.parametrize("shape", ["point", "line", "nearly straight"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_measures_and_their_gradients_are_finite_for_degenerate_chains(
    measure: Callable[[Tensor], Tensor], shape: str, dtype: torch.dtype
) -> None:
    along = torch.arange(6.0)[:, None] * torch.tensor([0.38, 0.0, 0.0])
    x = {"point": torch.zeros(6, 3), "line": along, "nearly straight": along + 1e-4 * torch.randn(6, 3)}[
        shape
    ]
    x = x[None].to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
        value = measure(x)
        assert value.dtype == torch.float32 and value.isfinite().all()
        value.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("measure", [*MEASURES, _rg])
def test_measures_are_finite_for_residues_a_micrometre_apart(measure: Callable[[Tensor], Tensor]) -> None:
    assert measure(torch.randn(1, 8, 3) * 1e4).isfinite().all()


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_short_chains_have_as_many_measures_as_they_can(length: int) -> None:
    x = torch.randn(2, length, 3)
    mask = torch.ones(2, length, dtype=torch.bool)
    for span, measure, valid in (
        (2, bond_lengths, bond_mask),
        (3, bond_angle_cosines, triplet_mask),
        (4, pseudo_dihedrals, quartet_mask),
        (4, signed_volumes, quartet_mask),
    ):
        expected = (2, max(length - span + 1, 0))
        assert measure(x).shape == expected and valid(mask, mask).shape == expected


def test_distance_is_the_norm_of_the_difference() -> None:
    assert math.isclose(
        distance(torch.tensor([3.0, 0.0, 1.0]), torch.tensor([0.0, 4.0, 1.0])).item(), 5.0, rel_tol=1e-6
    )


def test_pairwise_distances_are_symmetric_and_vanish_on_the_diagonal(walk: Tensor) -> None:
    d = pairwise_distances(walk)
    assert torch.equal(d, d.mT)
    assert d.diagonal(dim1=-2, dim2=-1).max() <= 1.001e-5
    assert torch.allclose(d[0, 3, 17], (walk[0, 3] - walk[0, 17]).norm())


def test_a_straight_trace_has_angle_cosine_minus_one_and_a_right_angle_zero() -> None:
    bent = torch.tensor([[0.0, 0.0, 0.0], [3.8, 0.0, 0.0], [7.6, 0.0, 0.0], [7.6, 3.8, 0.0]])
    assert torch.allclose(bond_angle_cosines(bent), torch.tensor([-1.0, 0.0]), atol=1e-6)


@pytest.mark.parametrize("degrees", [-179.0, -90.0, -1.0, 0.0, 45.0, 90.0, 179.0])
def test_a_dihedral_has_the_iupac_sign(degrees: float) -> None:
    """Looking from p1 to p2 (here down the z axis, from above), the far bond turned clockwise is positive."""
    angle = math.radians(degrees)
    p0, p1, p2 = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, -1.5]])
    p3 = p2 + torch.tensor([math.cos(angle), -math.sin(angle), 0.0])
    assert math.isclose(dihedral(p0, p1, p2, p3).item(), angle, abs_tol=1e-5)


def test_a_straight_chain_has_dihedral_0_without_gradient() -> None:
    """Rounding alone would otherwise decide the angle, with a gradient of 1e7."""
    x = torch.arange(6.0, dtype=torch.float64)[:, None] * torch.tensor([0.38, 0.0, 0.0], dtype=torch.float64)
    x = (x + 1e-7 * torch.randn_like(x)).requires_grad_()
    angles = pseudo_dihedrals(x)
    angles.sum().backward()
    assert not angles.any() and x.grad is not None and not x.grad.any()


def test_an_alpha_helix_has_bonds_of_3_8_and_dihedrals_of_50_degrees(alpha_helix: Tensor) -> None:
    """Pauling's helix: Cα–Cα 3.8 Å; pseudo-dihedral 50° (the α cluster of real chains)."""
    assert (bond_lengths(alpha_helix) - 3.8).abs().max() < 0.03
    assert (pseudo_dihedrals(alpha_helix).rad2deg() - 50).abs().max() < 1.5
    assert (signed_volumes(alpha_helix) > 0.5).all()


def test_real_chains_are_right_handed_and_bent_by_far_less_than_120_degrees(
    real_backbones: list[Tensor],
) -> None:
    """Measured: 106° over the whole set, 108.5° over this one (the write-up's 120° is an estimate)."""
    cosines = torch.cat([bond_angle_cosines(x[:, 1]) for x in real_backbones])
    helical = torch.cat([pseudo_dihedrals(x[:, 1]).rad2deg() for x in real_backbones])
    assert abs(cosines.clamp(-1, 1).arccos().rad2deg().mean() - 108.5) < 1
    assert ((helical - 50).abs() < 15).float().mean() > 3 * ((helical + 50).abs() < 15).float().mean()


def test_radius_of_gyration_of_a_square_is_half_its_diagonal() -> None:
    square = torch.tensor([[[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [-1.0, -1.0, 0.0]]])
    assert math.isclose(_rg(square).item(), math.sqrt(2), rel_tol=1e-6)


def test_radius_of_gyration_ignores_masked_residues_and_survives_none(walk: Tensor) -> None:
    mask = torch.arange(24) < torch.tensor([[10], [0]])
    poisoned = walk.where(mask[..., None], torch.tensor(float("nan"), dtype=walk.dtype))
    rg = radius_of_gyration(poisoned, mask)
    assert torch.allclose(rg[0], _rg(walk[:1, :10])[0]) and rg[1] < 1e-4


def test_bonds_triplets_and_quartets_never_cross_a_break_or_a_missing_residue() -> None:
    mask = torch.tensor([[True] * 9 + [False] + [True] * 2])
    bonded = torch.tensor([[True, True, True, False] + [True] * 8])
    assert bond_mask(mask, bonded)[0].nonzero().flatten().tolist() == [0, 1, 2, 4, 5, 6, 7, 10]
    assert triplet_mask(mask, bonded)[0].nonzero().flatten().tolist() == [0, 1, 4, 5, 6]
    assert quartet_mask(mask, bonded)[0].nonzero().flatten().tolist() == [0, 4, 5]
