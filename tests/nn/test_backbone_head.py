"""N, C and O in the frames of the residues."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from minifold_pl.constants import C_O_BOND, CA_C_BOND, CA_C_O_ANGLE, N_CA_BOND, N_CA_C_ANGLE
from minifold_pl.geometry.measures import dihedral
from minifold_pl.geometry.units import to_angstrom
from minifold_pl.nn.backbone_head import BackboneAtomHead
from minifold_pl.nn.denoiser import IPADenoiser

D = 24
MASK = torch.arange(9) < torch.tensor([[9], [6]])


def single() -> Tensor:
    return torch.randn(2, 9, D)


def angle(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    u, v = a - b, c - b
    return torch.rad2deg(torch.atan2(torch.linalg.cross(u, v).norm(dim=-1), (u * v).sum(-1)))


def assert_ideal_in_angstrom(atoms: Tensor) -> None:
    n, ca, c, o = atoms.unbind(-2)
    for found, ideal in (
        ((n - ca).norm(dim=-1), N_CA_BOND),
        ((c - ca).norm(dim=-1), CA_C_BOND),
        ((o - c).norm(dim=-1), C_O_BOND),
        (angle(n, ca, c), N_CA_C_ANGLE),
        (angle(ca, c, o), CA_C_O_ANGLE),
    ):
        torch.testing.assert_close(found, torch.full_like(found, ideal), atol=2e-4, rtol=0)


def test_a_fresh_head_places_an_ideal_residue_and_offsets_in_angstrom_would_be_seen() -> None:
    """The write-up's worst bug: ideal offsets in Å in a space of 10 Å stand ten times too far out."""
    local = BackboneAtomHead(D, hidden=8)(single(), MASK)[MASK]
    assert_ideal_in_angstrom(to_angstrom(local))
    with pytest.raises(AssertionError):
        assert_ideal_in_angstrom(to_angstrom(10 * local))


def test_calpha_is_the_origin_of_the_frame_whatever_is_learned() -> None:
    head = BackboneAtomHead(D, hidden=8)
    torch.nn.init.normal_(head.offsets.weight)
    assert not head(single(), MASK)[:, :, 1].any()


def test_o_lies_opposite_to_psi_in_the_plane_of_the_peptide() -> None:
    head = BackboneAtomHead(D, hidden=8)
    torch.nn.init.zeros_(head.psi.weight)
    for psi in (-0.8, 0.0, 2.4):
        with torch.no_grad():
            head.psi.bias.copy_(3 * torch.tensor([math.sin(psi), math.cos(psi)]))  # any length: a direction
        n, ca, c, o = head(single(), MASK)[MASK].unbind(-2)
        away = torch.remainder(dihedral(n, ca, c, o) - psi, 2 * torch.pi) - torch.pi
        torch.testing.assert_close(away, torch.zeros_like(away), atol=2e-3, rtol=0)


def test_what_is_learned_stays_within_reach() -> None:
    head = BackboneAtomHead(D, hidden=8, reach=0.1)
    fresh = head(single(), MASK)
    torch.nn.init.normal_(head.offsets.weight, std=100.0)
    moved = to_angstrom(head(single(), MASK) - fresh)[MASK][:, [0, 2]].abs()
    assert moved.max().item() == pytest.approx(0.1, abs=1e-5)


def test_every_parameter_gets_a_gradient_and_padding_gets_none() -> None:
    head = BackboneAtomHead(D, hidden=8)
    torch.nn.init.normal_(head.offsets.weight)  # at zero it lets nothing through to the layers before it
    features = single().requires_grad_()
    head(features, MASK).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())
    assert features.grad is not None
    assert not features.grad[~MASK].any()
    assert features.grad[MASK].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_an_ideal_residue_is_as_exact(dtype: torch.dtype) -> None:
    head = BackboneAtomHead(D, hidden=8)
    with torch.autocast("cpu", dtype=dtype):
        local = head(single(), MASK)
    assert local.dtype == torch.float32
    assert_ideal_in_angstrom(to_angstrom(local[MASK]))


def test_a_reach_that_is_no_length_is_refused() -> None:
    with pytest.raises(ValueError, match="reach is 0"):
        BackboneAtomHead(D, reach=0)


def test_a_head_beside_discarded_rotations_is_refused() -> None:
    with pytest.raises(ValueError, match="discard_rotation"):
        IPADenoiser(d=D, layers=1, discard_rotation=True, backbone_head=BackboneAtomHead(D))
