"""Bonds, angles, peptide planes, φ and ψ of predicted backbones."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, radians

import pytest
import torch
from torch import Tensor

from minifold_pl.constants import C_ATOM, C_N_BOND, CA_ATOM, N_ATOM, O_ATOM
from minifold_pl.geometry.backbone import backbone_from_torsions
from minifold_pl.geometry.frames import random_rotations
from minifold_pl.geometry.units import to_model_units
from minifold_pl.losses.backbone_geometry import (
    backbone_angle_per_chain,
    backbone_bond_per_chain,
    omega_per_chain,
    phi_psi_per_chain,
)
from minifold_pl.losses.reduction import PerChain

LENGTH = 12
MASK = torch.ones(2, LENGTH, dtype=torch.bool)
BONDED = torch.ones(2, LENGTH, dtype=torch.bool).index_fill(1, torch.tensor([LENGTH - 1]), False)
KNOWN = torch.ones(2, LENGTH, 4, dtype=torch.bool)
OMEGA = torch.full((2, LENGTH), pi, dtype=torch.float64)

Term = Callable[..., PerChain]


def bond(atoms: Tensor, true: Tensor, mask=MASK, known=KNOWN, bonded=BONDED) -> PerChain:
    return backbone_bond_per_chain(atoms, mask, bonded)


def bend(atoms: Tensor, true: Tensor, mask=MASK, known=KNOWN, bonded=BONDED) -> PerChain:
    return backbone_angle_per_chain(atoms, mask, bonded)


def omega(atoms: Tensor, true: Tensor, mask=MASK, known=KNOWN, bonded=BONDED) -> PerChain:
    return omega_per_chain(atoms, true, mask, known, bonded)


def phi_psi(atoms: Tensor, true: Tensor, mask=MASK, known=KNOWN, bonded=BONDED) -> PerChain:
    return phi_psi_per_chain(atoms, true, mask, known, bonded)


TERMS = (bond, bend, omega, phi_psi)


@pytest.fixture
def true() -> Tensor:
    """Two ideal chains, model units, float64; the second has a cis peptide after residue 4."""
    turns = torch.rand(2, 2, LENGTH, dtype=torch.float64) - 1.5
    bent = OMEGA.clone()
    bent[1, 4] = 0.0
    return to_model_units(backbone_from_torsions(turns[0], turns[1] + 2, bent))


@pytest.fixture
def noisy(true: Tensor) -> Tensor:
    return true + 0.02 * torch.randn_like(true)


@pytest.mark.parametrize("term", TERMS)
def test_a_term_is_zero_at_an_ideal_truth_and_not_beside_it(term: Term, true: Tensor, noisy: Tensor) -> None:
    """A cis peptide of the truth is no mistake."""
    assert term(true, true).value.max() < 1e-8
    assert term(noisy, true).value.min() > 1e-4


@pytest.mark.parametrize("term", TERMS)
def test_a_term_ignores_rigid_motion(term: Term, true: Tensor, noisy: Tensor) -> None:
    turn = random_rotations(1, dtype=torch.float64)[0]
    torch.testing.assert_close(term(noisy @ turn.T + 3, true).value, term(noisy, true).value)


@pytest.mark.parametrize("term", TERMS)
def test_a_term_ignores_padding_in_value_and_gradient(term: Term, true: Tensor, noisy: Tensor) -> None:
    mask = MASK.clone()
    mask[:, 9:] = False
    known = KNOWN & mask[..., None]
    for junk in (0.0, 1e3, torch.nan):
        filled = torch.where(mask[..., None, None], noisy, junk).requires_grad_()
        rest = torch.where(mask[..., None, None], true, junk)
        value = term(filled, rest, mask, known).value
        torch.testing.assert_close(
            value, term(noisy[:, :9], true[:, :9], mask[:, :9], known[:, :9], BONDED[:, :9]).value
        )
        (gradient,) = torch.autograd.grad(value.sum(), filled)
        assert gradient.isfinite().all()
        assert not gradient[~mask].any()


@pytest.mark.parametrize("term", TERMS)
def test_a_term_passes_gradcheck(term: Term, true: Tensor, noisy: Tensor) -> None:
    atoms = noisy[:1, :4].requires_grad_()
    short = {"mask": MASK[:1, :4], "known": KNOWN[:1, :4], "bonded": BONDED[:1, :4]}
    assert torch.autograd.gradcheck(lambda x: term(x, true[:1, :4], **short).value, atoms)


@pytest.mark.parametrize("term", TERMS)
def test_gradients_are_finite_where_all_atoms_coincide(term: Term, true: Tensor) -> None:
    atoms = torch.zeros_like(true).float().requires_grad_()
    term(atoms, true.float()).value.sum().backward()
    assert atoms.grad is not None
    assert atoms.grad.isfinite().all()


@pytest.mark.parametrize(("term", "changes"), [(bond, True), (bend, True), (omega, True), (phi_psi, True)])
def test_nothing_is_computed_across_a_chain_break(term: Term, changes: bool, true: Tensor) -> None:
    """The second half far away: seen with the bond, not without it."""
    apart = true.clone()
    apart[:, 6:] = apart[:, 6:] @ random_rotations(1, dtype=torch.float64)[0].T + 5
    broken = BONDED.clone()
    broken[:, 5] = False
    assert term(apart, true, bonded=broken).value.max() < 1e-8
    assert (term(apart, true).value.max() > 1e-4) == changes


def test_a_stretched_peptide_bond_costs_its_square(true: Tensor) -> None:
    """C–N of one peptide 0.2 Å too long, among 12 · 3 + 11 bonds."""
    stretched = true.clone()
    direction = stretched[0, 6, N_ATOM] - stretched[0, 5, C_ATOM]
    stretched[0, 6:] += 0.02 * direction / direction.norm()
    found = backbone_bond_per_chain(stretched, MASK, BONDED).value
    torch.testing.assert_close(found[0], torch.tensor(0.02**2 / 47, dtype=torch.float64), rtol=1e-3, atol=0)
    assert found[1] < 1e-9
    assert to_model_units(C_N_BOND) == pytest.approx(direction.norm().item(), abs=1e-6)


def test_a_peptide_turned_over_costs_two_and_the_truth_decides_where_it_is_known(true: Tensor) -> None:
    """Trans predicted where the truth is cis; where the truth is unknown, trans is right."""
    straight = true.clone()
    turns = torch.rand(2, 2, LENGTH, dtype=torch.float64) - 1.5
    straight = to_model_units(backbone_from_torsions(turns[0], turns[1] + 2, OMEGA))
    found = omega_per_chain(straight, true, MASK, KNOWN, BONDED).value
    torch.testing.assert_close(found, torch.tensor([0.0, 2.0 / 11], dtype=torch.float64), atol=1e-6, rtol=0)
    unknown = KNOWN.clone()
    unknown[1, 5, N_ATOM] = False
    assert omega_per_chain(straight, true, MASK, unknown, BONDED).value.max() < 1e-6
    assert omega_per_chain(true, true, MASK, unknown, BONDED).value[1] == pytest.approx(2 / 11, abs=1e-6)


@pytest.mark.parametrize("atom", [N_ATOM, CA_ATOM, C_ATOM, O_ATOM])
def test_phi_and_psi_count_only_where_all_their_atoms_are_known(
    atom: int, true: Tensor, noisy: Tensor
) -> None:
    known = KNOWN.clone()
    known[0, 4, atom] = False
    hidden = true.clone()
    hidden[0, 4, atom] = 100.0
    found = phi_psi_per_chain(noisy, hidden, MASK, known, BONDED).value
    torch.testing.assert_close(found, phi_psi_per_chain(noisy, true, MASK, known, BONDED).value)
    assert found[0] != phi_psi_per_chain(noisy, true, MASK, KNOWN, BONDED).value[0]


def test_an_error_of_psi_is_seen_in_the_next_n_and_in_o() -> None:
    phi = torch.full((1, LENGTH), -1.2, dtype=torch.float64)
    psi = phi + 3
    true = to_model_units(backbone_from_torsions(phi, psi))
    turned = psi.clone()
    turned[0, 3] += radians(60)
    found = to_model_units(backbone_from_torsions(phi, turned))
    short = (MASK[:1], KNOWN[:1], BONDED[:1])
    # 11 φ, 11 ψ and 12 O; the one ψ is wrong by 60° twice
    assert phi_psi_per_chain(found, true, *short).value.item() == pytest.approx(2 * 0.5 / 34, abs=1e-6)
    # O alone, as the head's own ψ moves it
    oxygen = true.clone()
    oxygen[:, :, O_ATOM] = found[:, :, O_ATOM]
    oxygen[:, 4:] = true[:, 4:]
    assert phi_psi_per_chain(oxygen, true, *short).value.item() == pytest.approx(0.5 / 34, abs=1e-6)
