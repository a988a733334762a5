"""φ and ψ of backbones."""

from __future__ import annotations

from math import pi

import numpy as np
import pytest
import torch

from minifold_pl.geometry.backbone import backbone_from_torsions
from minifold_pl.metrics.dihedrals import PHI_PSI_BASINS, basin_share
from minifold_pl.metrics.ramachandran import phi_psi, phi_psi_error, phi_psi_pairs

LENGTH = 20
KNOWN = torch.ones(2, LENGTH, 4, dtype=torch.bool)
BONDED = torch.ones(2, LENGTH, dtype=torch.bool)


@pytest.fixture
def angles() -> torch.Tensor:
    return torch.stack((torch.rand(2, LENGTH) * 2 - 2.5, torch.rand(2, LENGTH) * 6 - 3), -1).double()


def test_the_angles_a_chain_was_built_from_are_read_but_for_its_ends(angles) -> None:
    found, defined = phi_psi(backbone_from_torsions(angles[..., 0], angles[..., 1]), KNOWN, BONDED)
    assert defined.sum(1).tolist() == [LENGTH - 2] * 2
    assert not defined[:, [0, -1]].any()
    torch.testing.assert_close(found[defined], angles[defined], atol=1e-4, rtol=0)


@pytest.mark.parametrize("atom", [0, 1, 2])
def test_residues_beside_a_break_or_a_missing_atom_have_none(atom: int, angles) -> None:
    backbone = backbone_from_torsions(angles[..., 0], angles[..., 1])
    bonded, known = BONDED.clone(), KNOWN.clone()
    bonded[0, 9] = False
    known[1, 7, atom] = False
    backbone[1, 7, atom] = torch.nan
    found, defined = phi_psi(backbone, known, bonded)
    assert (~defined[0]).nonzero().flatten().tolist() == [0, 9, 10, LENGTH - 1]
    assert (~defined[1]).nonzero().flatten().tolist() == [0, 6, 7, 8, LENGTH - 1]
    assert found[defined].isfinite().all()


def test_the_error_goes_the_short_way_round_and_the_truth_has_none(angles) -> None:
    backbone = backbone_from_torsions(angles[..., 0], angles[..., 1])
    assert phi_psi_error(backbone, backbone, KNOWN, BONDED).max() < 1e-3
    turned = angles + torch.tensor([0.0, 2 * pi - 0.3])
    other = backbone_from_torsions(turned[..., 0], turned[..., 1])
    found = phi_psi_error(other, backbone, KNOWN, BONDED)
    torch.testing.assert_close(found, torch.full_like(found, np.degrees(0.15)), atol=0.05, rtol=0)
    nothing = phi_psi_error(backbone, backbone, KNOWN & False, BONDED)
    assert nothing.isnan().all()


def test_a_helix_lies_in_its_basin_and_its_mirror_image_in_none_but_the_left_handed() -> None:
    phi = torch.full((2, LENGTH), np.radians(-63.0))
    helix = backbone_from_torsions(phi, torch.full_like(phi, np.radians(-43.0)))
    shares = [
        [basin_share(phi_psi_pairs(side * helix, KNOWN, BONDED), basin) for basin in PHI_PSI_BASINS]
        for side in (torch.ones(3), torch.tensor([-1.0, 1.0, 1.0]))
    ]
    assert shares == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
