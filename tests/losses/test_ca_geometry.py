from __future__ import annotations

import math
from typing import Any

import torch

from minifold_pl.geometry.measures import quartet_mask, signed_volumes
from minifold_pl.losses.ca_geometry import bond_angle_loss, bond_length_loss, chirality_loss, clash_loss

VALID = torch.ones(1, 3, dtype=torch.bool)


def _elbow(degrees: float, bond: float = 0.38) -> torch.Tensor:
    """Three residues with the angle ``degrees`` at the middle one."""
    angle = math.radians(degrees)
    return torch.tensor(
        [[[bond, 0.0, 0.0], [0.0, 0.0, 0.0], [bond * math.cos(angle), bond * math.sin(angle), 0.0]]]
    )


def test_a_bond_of_4_8_angstrom_costs_a_hundredth_in_model_units() -> None:
    assert torch.allclose(bond_length_loss(_elbow(106, 0.48), VALID, VALID), torch.tensor(0.01), atol=1e-6)


def test_the_ideal_bond_is_given_in_angstrom() -> None:
    assert bond_length_loss(_elbow(106, 0.29), VALID, VALID, ideal=2.9) < 1e-10


def test_the_angle_loss_compares_with_the_truth_and_not_with_an_ideal() -> None:
    assert bond_angle_loss(_elbow(90), _elbow(90), VALID, VALID) < 1e-10
    expected = (math.cos(math.radians(120)) - math.cos(math.radians(90))) ** 2
    loss = bond_angle_loss(_elbow(120), _elbow(90), VALID, VALID)
    assert math.isclose(loss.item(), expected, rel_tol=1e-4)


def test_a_mirror_image_costs_four_times_the_mean_squared_volume(case: Any) -> None:
    one = case.chain(0)
    _, t = one
    volumes = signed_volumes(t.x0)[quartet_mask(t.mask, t.bonded)]
    loss = chirality_loss(one.mirrored().prediction.x0, t.x0, t.mask, t.bonded)
    assert torch.allclose(loss, 4 * volumes.square().mean())


def test_chirality_does_not_depend_on_the_scale(case: Any) -> None:
    p, t = case
    loss = chirality_loss(p.x0, t.x0, t.mask, t.bonded)
    assert torch.allclose(chirality_loss(10 * p.x0, 10 * t.x0, t.mask, t.bonded), loss, rtol=1e-4)


def test_two_residues_2_angstrom_apart_clash_by_1_angstrom() -> None:
    """Pairs 0–2 only: 0–1 and 1–2 are bonded. (3 Å - 2 Å)² = 0.01 model units²."""
    x0 = torch.tensor([[[0.0, 0.0, 0.0], [0.1, 0.36, 0.0], [0.2, 0.0, 0.0]]])
    assert torch.allclose(clash_loss(x0, VALID, VALID), torch.tensor(0.01), atol=1e-6)
    assert clash_loss(x0, VALID, VALID, threshold=1.9) == 0


def test_real_packing_does_not_clash() -> None:
    """Neighbours at 3.8 Å, helix turns at 5 Å: the write-up's threshold in the wrong unit punished both."""
    angle = torch.arange(20) * math.radians(100.0)
    helix = torch.stack((0.23 * angle.cos(), 0.23 * angle.sin(), 0.15 * torch.arange(20)), dim=-1)[None]
    valid = torch.ones(1, 20, dtype=torch.bool)
    assert clash_loss(helix, valid, valid) == 0


def test_neighbours_that_are_not_bonded_can_clash() -> None:
    x0 = torch.tensor([[[0.0, 0.0, 0.0], [0.2, 0.0, 0.0], [0.9, 0.0, 0.0]]])
    broken = torch.tensor([[False, True, False]])
    assert clash_loss(x0, VALID, broken) > 0
    assert clash_loss(x0, VALID, VALID) == 0
