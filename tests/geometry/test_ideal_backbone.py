"""The nearest chain that can exist: whatever was predicted, what comes out is a protein backbone."""

from __future__ import annotations

from math import pi, radians

import pytest
import torch
from torch import Tensor

from minifold_pl.constants import (
    C_N_BOND,
    C_N_CA_ANGLE,
    C_O_BOND,
    CA_ATOM,
    CA_C_BOND,
    CA_C_N_ANGLE,
    CA_C_O_ANGLE,
    N_CA_BOND,
    N_CA_C_ANGLE,
)
from minifold_pl.geometry import ideal_backbone
from minifold_pl.geometry.backbone import backbone_from_torsions, torsions
from minifold_pl.geometry.frames import random_rotations
from minifold_pl.geometry.ideal_backbone import (
    MOST_BENT,
    cis_peptides,
    nearest_ideal_backbone,
    nearest_ideal_backbones,
)


def angle(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Degrees, at ``b``."""
    u, v = a - b, c - b
    return torch.rad2deg(torch.atan2(torch.linalg.cross(u, v).norm(dim=-1), (u * v).sum(-1)))


def assert_ideal(backbone: Tensor) -> None:
    n, ca, c, o = backbone.double().unbind(1)
    for found, ideal in (
        ((n - ca).norm(dim=-1), N_CA_BOND),
        ((ca - c).norm(dim=-1), CA_C_BOND),
        ((c - o).norm(dim=-1), C_O_BOND),
        ((n[1:] - c[:-1]).norm(dim=-1), C_N_BOND),
    ):
        torch.testing.assert_close(found, torch.full_like(found, ideal), atol=1e-4, rtol=0)
    for found, ideal, within in (
        (angle(n, ca, c), N_CA_C_ANGLE, MOST_BENT + 0.01),
        (angle(ca, c, o), CA_C_O_ANGLE, 0.01),
        (angle(ca[:-1], c[:-1], n[1:]), CA_C_N_ANGLE, 0.01),
        (angle(c[:-1], n[1:], ca[1:]), C_N_CA_ANGLE, 0.01),
    ):
        torch.testing.assert_close(found, torch.full_like(found, ideal), atol=within, rtol=0)


def chain(length: int, generator: torch.Generator | None = None) -> Tensor:
    """A chain of helices and strands."""
    helical = torch.arange(length) // 8 % 2 == 0
    noise = 0.15 * torch.randn(2, length, generator=generator, dtype=torch.float64)
    phi = torch.where(helical, -1.1, -2.1).double() + noise[0]
    psi = torch.where(helical, -0.8, 2.3).double() + noise[1]
    return backbone_from_torsions(phi, psi)


PREDICTIONS = {
    "noise": lambda: 10 * torch.randn(40, 4, 3),
    "frames in a cloud": lambda: (
        10 * torch.randn(40, 1, 3) + chain(40)[:1].float() - chain(40)[:1, 1:2].float()
    ),
    "one point": lambda: torch.zeros(25, 4, 3),
    "a straight line": lambda: torch.arange(30.0)[:, None, None].expand(-1, 4, 3) * 3.0,
    "far away": lambda: 1e4 + chain(30).float(),
    "a mirror image": lambda: (chain(30) * torch.tensor([-1.0, 1.0, 1.0])).float(),
    "one residue": lambda: torch.randn(1, 4, 3),
    "two residues": lambda: torch.randn(2, 4, 3),
}


@pytest.mark.parametrize("name", PREDICTIONS)
def test_any_prediction_becomes_a_chain_of_ideal_lengths_and_angles(name: str) -> None:
    """The negative control is the prediction itself: but for those that are moved or mirrored, none is such a chain."""
    predicted = PREDICTIONS[name]().double()
    found = nearest_ideal_backbone(predicted)
    assert found.shape == predicted.shape
    assert_ideal(found)
    if name not in ("far away", "a mirror image"):
        with pytest.raises(AssertionError):
            assert_ideal(predicted)
    omega = torsions(found)[2][:-1]
    torch.testing.assert_close(omega.abs(), torch.full_like(omega, pi), atol=1e-4, rtol=0)


def test_an_ideal_chain_stays_where_it_is() -> None:
    true = chain(60)
    assert (nearest_ideal_backbone(true) - true).norm(dim=-1).max() < 0.01


@pytest.mark.parametrize("noise", [0.2, 0.5])
def test_a_noised_chain_is_followed_more_closely_than_the_noise(noise: float) -> None:
    """Frames of a good model lie about their places: residues move as a whole."""
    generator = torch.Generator().manual_seed(0)
    true = chain(50, generator)
    predicted = true + noise * torch.randn(50, 1, 3, generator=generator, dtype=torch.float64)
    found = nearest_ideal_backbone(predicted)
    assert_ideal(found)
    moved = (found - predicted)[:, CA_ATOM].norm(dim=-1).square().mean().sqrt()
    assert moved < 3**0.5 * noise  # what the truth itself is away


def test_the_fit_turns_with_the_prediction() -> None:
    generator = torch.Generator().manual_seed(1)
    predicted = chain(40, generator) + 0.3 * torch.randn(40, 1, 3, generator=generator, dtype=torch.float64)
    turn = random_rotations(1, generator, dtype=torch.float64)[0]
    moved = nearest_ideal_backbone(predicted @ turn.T + 5)
    away = moved - (nearest_ideal_backbone(predicted) @ turn.T + 5)
    assert away[:, CA_ATOM].norm(dim=-1).max() < 0.05  # where the search ends is a matter of rounding


def test_segments_are_fitted_alone_and_no_bond_is_made_across_a_break() -> None:
    apart = torch.cat((chain(20), chain(15) + 40))
    bonded = torch.ones(35, dtype=torch.bool)
    bonded[19] = bonded[-1] = False
    found = nearest_ideal_backbone(apart, bonded)
    assert_ideal(found[:20])
    assert_ideal(found[20:])
    assert (found - apart).norm(dim=-1).max() < 0.05


@pytest.mark.parametrize("entries", [1, 10**8], ids=["one by one", "all at a time"])
def test_chains_side_by_side_are_fitted_as_each_alone(entries: int, monkeypatch) -> None:
    """Of unlike lengths, with breaks and cis peptides, near to a chain and far from any."""
    generator = torch.Generator().manual_seed(2)
    chains, bonds, cis = [], [], []
    for k, length in enumerate((30, 1, 17, 2, 45)):
        away = (0.3, 2.0)[k % 2] * torch.randn(length, 1, 3, generator=generator, dtype=torch.float64)
        chains.append(chain(length, generator) + away)
        bonds.append(torch.arange(length) != 11 if k % 2 == 0 else None)
        cis.append(torch.arange(length) == 5 if k != 2 else None)
    alone = [nearest_ideal_backbone(*each) for each in zip(chains, bonds, cis, strict=True)]
    monkeypatch.setattr(ideal_backbone, "_ENTRIES", entries)
    together = nearest_ideal_backbones([*chains, chains[0][:0]], [*bonds, None], [*cis, None])
    assert len(together.pop()) == 0
    for one, other, given in zip(alone, together, chains, strict=True):
        torch.testing.assert_close(
            one, other, atol=1e-4, rtol=0
        )  # where the search ends is a matter of rounding
        assert not torch.equal(one, given)


def test_a_cis_peptide_is_cis_where_it_is_asked_for_and_trans_elsewhere() -> None:
    phi = torch.full((12,), -1.3, dtype=torch.float64)
    omega = torch.full((12,), pi, dtype=torch.float64)
    omega[5] = radians(5)
    omega[8] = radians(-10)
    true = backbone_from_torsions(phi, phi + 3.5, omega)
    before_proline = torch.zeros(12, dtype=torch.bool)
    before_proline[[2, 5]] = True
    cis = cis_peptides(true, before_proline)
    assert cis.nonzero().flatten().tolist() == [5]  # 2 is trans, and 8 is before no proline
    found = torsions(nearest_ideal_backbone(true, cis=cis))[2]
    assert found[5].abs() < 1e-3
    assert (found[[2, 8]].abs() > 3.14).all()


def test_padding_of_a_bonds_mask_is_not_looked_at_and_precision_is_kept() -> None:
    predicted = chain(10).float()
    assert nearest_ideal_backbone(predicted, torch.ones(10, dtype=torch.bool)).dtype == torch.float32
    assert nearest_ideal_backbone(predicted[:0]).shape == (0, 4, 3)


@pytest.mark.parametrize(
    ("atoms", "told"),
    [(torch.zeros(5, 3), r"\(l, 4, 3\)|\(5, 3\)"), (torch.full((5, 4, 3), torch.nan), "not finite")],
)
def test_what_has_no_nearest_chain_is_refused(atoms: Tensor, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        nearest_ideal_backbone(atoms)


def test_real_chains_are_hardly_moved(real_backbones: list[Tensor]) -> None:
    """On all 182 of the small set 0.12 Å; cis peptides are given, as a model predicts them."""
    moved = []
    for atoms in [c for c in real_backbones if c.isfinite().all()][:24]:
        omega = torsions(atoms)[2]
        cis = omega.abs() < pi / 2
        cis[-1] = False
        found = nearest_ideal_backbone(atoms, cis=cis)
        assert_ideal(found.double())
        moved.append(float((found - atoms)[:, CA_ATOM].square().sum(-1).mean().sqrt()))
    assert sum(moved) / len(moved) < 0.2
    assert max(moved) < 1.0
