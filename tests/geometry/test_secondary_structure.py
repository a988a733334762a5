"""Helices and strands of ideal chains."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from minifold_pl.constants import CA_ATOM
from minifold_pl.geometry.backbone import backbone_from_torsions
from minifold_pl.geometry.secondary_structure import COIL, HELIX, STRAND, ca_secondary_structure


def ideal(phi: float, psi: float, length: int) -> Tensor:
    torsion = torch.ones(1, length)
    return backbone_from_torsions(torsion * math.radians(phi), torsion * math.radians(psi))[:, :, CA_ATOM]


def kinds(ca: Tensor, bonded: Tensor | None = None) -> list[int]:
    return ca_secondary_structure(ca, torch.ones(ca.shape[:2], dtype=torch.bool), bonded)[0].tolist()


def test_an_alpha_helix_is_helix_to_its_ends() -> None:
    found = kinds(ideal(-57, -47, 20))
    # Nothing is said of the first residue and the last two but by their neighbours: they lack a stretch of their own.
    assert found[1:17] == [HELIX] * 16
    assert STRAND not in found


def test_an_extended_chain_is_strand() -> None:
    found = kinds(ideal(-120, 130, 12))
    assert found[1:9] == [STRAND] * 8
    assert HELIX not in found


def test_a_polyproline_like_coil_is_neither() -> None:
    assert set(kinds(ideal(60, 30, 3))) == {COIL}
    walk = 3.8 * torch.nn.functional.normalize(
        torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0.2]]).repeat(4, 1), dim=-1
    )
    assert HELIX not in kinds(walk.cumsum(0)[None]), walk


def test_four_helical_residues_are_no_helix_and_three_lone_extended_ones_no_strand() -> None:
    # d(i−1, i+3) needs five residues, so seven hold three places for a helix of five.
    assert HELIX not in kinds(ideal(-57, -47, 7))
    assert STRAND not in kinds(ideal(-120, 130, 5))


def test_no_criterion_reaches_across_a_break() -> None:
    ca = ideal(-57, -47, 20)
    bonded = torch.ones(1, 20, dtype=torch.bool)
    bonded[0, 5::6] = False
    # Pieces of six residues are too short.
    assert HELIX in kinds(ca)
    assert HELIX not in kinds(ca, bonded)


def test_three_extended_residues_are_a_strand_where_others_lie_beside_them() -> None:
    ca = ideal(-120, 130, 6)
    # Across the least spread of the trace, so that each residue's nearest one is its own copy.
    across = 4.8 * torch.linalg.svd(ca[0] - ca[0].mean(0)).Vh[2]
    sheet = torch.cat([ca, ca + across, ca - across], 1)
    bonded = torch.ones(1, 18, dtype=torch.bool)
    bonded[0, [5, 11]] = False
    assert STRAND not in kinds(ca)
    middle = kinds(sheet, bonded)[:6]
    assert middle.count(STRAND) >= 3


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_the_shortest_chains_are_coil(length) -> None:
    assert kinds(torch.randn(1, length, 3)) == [COIL] * length
