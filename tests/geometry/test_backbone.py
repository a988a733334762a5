from __future__ import annotations

import gzip
import json
from math import pi, radians

import numpy as np
import pytest
import torch

from minifold_pl.constants import (
    C_N_BOND,
    C_N_CA_ANGLE,
    C_O_BOND,
    CA_ATOM,
    CA_C_BOND,
    CA_C_N_ANGLE,
    CA_C_O_ANGLE,
    CA_CA_BOND,
    N_CA_BOND,
    N_CA_C_ANGLE,
)
from minifold_pl.geometry.backbone import (
    backbone_from_ca,
    backbone_from_torsions,
    place_atom,
    place_beta,
    place_oxygen,
    torsions,
)
from minifold_pl.geometry.frames import random_rotations
from minifold_pl.geometry.measures import dihedral


def angle(a, b, c):
    """Degrees at ``b``."""
    u, v = a - b, c - b
    return torch.rad2deg(torch.arccos((u * v).sum(-1) / u.norm(dim=-1) / v.norm(dim=-1)))


def ideal(phi, psi, length):
    """A regular backbone, φ and ψ in degrees."""
    full = (torch.full((length,), radians(v), dtype=torch.float64) for v in (phi, psi))
    return backbone_from_torsions(*full)


@pytest.fixture
def random_torsions():
    return (torch.rand(3, 4, 17, dtype=torch.float64) * 2 - 1) * pi


def test_a_placed_atom_has_the_length_angle_and_dihedral_asked_for():
    a, b, c = torch.randn(3, 50, 3, dtype=torch.float64)
    length = 0.5 + torch.rand(50, dtype=torch.float64)
    bend = 0.2 + 2.7 * torch.rand(50, dtype=torch.float64)
    turn = (torch.rand(50, dtype=torch.float64) * 2 - 1) * 3.1
    d = place_atom(a, b, c, length, bend, turn)
    torch.testing.assert_close((d - c).norm(dim=-1), length)
    torch.testing.assert_close(angle(b, c, d), torch.rad2deg(bend))
    torch.testing.assert_close(dihedral(a, b, c, d), turn)


def test_a_placed_atom_is_finite_where_no_dihedral_exists():
    line = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]])
    assert place_atom(*line, 1.5, radians(110), 1.0).isfinite().all()


def test_the_scan_places_atoms_where_placing_them_one_by_one_does(random_torsions):
    phi, psi, omega = random_torsions
    n_ca_c = radians(N_CA_C_ANGLE) + 0.1 * torch.randn_like(phi)
    built = backbone_from_torsions(phi, psi, omega, n_ca_c)
    n, ca, c, _ = built[:, 0].unbind(-2)
    for i in range(phi.shape[-1]):
        o = place_oxygen(n, ca, c, psi[:, i])
        torch.testing.assert_close(built[:, i], torch.stack((n, ca, c, o), -2))
        if i + 1 < phi.shape[-1]:
            n_next = place_atom(n, ca, c, C_N_BOND, radians(CA_C_N_ANGLE), psi[:, i])
            ca_next = place_atom(ca, c, n_next, N_CA_BOND, radians(C_N_CA_ANGLE), omega[:, i])
            c = place_atom(c, n_next, ca_next, CA_C_BOND, n_ca_c[:, i + 1], phi[:, i + 1])
            n, ca = n_next, ca_next


def test_every_bond_length_and_angle_is_ideal_whatever_the_torsions(random_torsions):
    phi, psi, omega = random_torsions
    n, ca, c, o = backbone_from_torsions(phi, psi, omega).unbind(-2)
    n_next, ca_next = n[:, 1:], ca[:, 1:]

    def check(found, wanted):
        torch.testing.assert_close(found, torch.full_like(found, wanted))

    check((ca - n).norm(dim=-1), N_CA_BOND)
    check((c - ca).norm(dim=-1), CA_C_BOND)
    check((o - c).norm(dim=-1), C_O_BOND)
    check((n_next - c[:, :-1]).norm(dim=-1), C_N_BOND)
    check(angle(n, ca, c), N_CA_C_ANGLE)
    check(angle(ca, c, o), CA_C_O_ANGLE)
    check(angle(ca[:, :-1], c[:, :-1], n_next), CA_C_N_ANGLE)
    check(angle(c[:, :-1], n_next, ca_next), C_N_CA_ANGLE)


def test_a_trans_peptide_spans_the_ideal_ca_distance_and_a_cis_one_less():
    bond = ideal(-63, -42, 5)[:, CA_ATOM].diff(dim=0).norm(dim=-1)
    torch.testing.assert_close(bond, torch.full_like(bond, CA_CA_BOND), atol=0.01, rtol=0)
    flat = torch.zeros(2, dtype=torch.float64)
    cis = backbone_from_torsions(flat, flat, omega=flat)[:, CA_ATOM].diff(dim=0).norm()
    assert 2.7 < cis < 3.0  # 2.95 Å in crystal structures, where cis opens the two angles by a few degrees


def test_torsions_come_back(random_torsions):
    phi, psi, omega = random_torsions
    found = torsions(backbone_from_torsions(phi, psi, omega))
    torch.testing.assert_close(found[0][:, 1:], phi[:, 1:])
    torch.testing.assert_close(found[1], psi)
    torch.testing.assert_close(found[2][:, :-1], omega[:, :-1])


def test_an_alpha_helix_is_right_handed_with_its_textbook_rise_and_hydrogen_bonds():
    helix = ideal(-63, -42, 19)
    ca = helix[:, CA_ATOM]
    assert abs(dihedral(*ca[4:8]) - radians(50)) < radians(5)  # left-handed: -50°
    # Pauling, Corey & Branson 1951: 1.5 Å a residue, 3.6 a turn: 18 residues are 5 turns and 27 Å
    assert abs((ca[18] - ca[0]).norm() - 27.0) < 1.2
    bonds = (helix[:-4, 3] - helix[4:, 0]).norm(dim=-1)
    assert ((bonds > 2.8) & (bonds < 3.3)).all()


def test_a_strand_advances_3_3_angstrom_a_residue():
    ca = ideal(-120, 122, 11)[:, CA_ATOM]
    assert abs((ca[10] - ca[0]).norm() / 10 - 3.3) < 0.1


def test_the_beta_carbon_is_tetrahedral_and_of_an_l_amino_acid():
    n, ca, c, _ = ideal(-63, -42, 3)[1]
    beta = place_beta(n, ca, c)
    assert abs((beta - ca).norm() - 1.53) < 0.01
    assert abs(angle(n, ca, beta) - 110.4) < 0.5
    assert abs(angle(c, ca, beta) - 110.2) < 0.5
    # the CORN rule: looking from H to Cα, CO, R, N go clockwise
    hydrogen = ca - ((n - ca) + (c - ca) + (beta - ca))
    view = ca - hydrogen
    assert torch.linalg.cross(c - ca, beta - ca) @ view > 0


def test_the_backbone_is_differentiable_in_its_torsions(random_torsions):
    phi, psi, omega = (t[:2, :5].clone().requires_grad_() for t in random_torsions)
    assert torch.autograd.gradcheck(backbone_from_torsions, (phi, psi, omega))


def test_a_long_chain_in_half_precision_keeps_its_bonds():
    phi, psi = torch.full((2, 400), radians(-63.0)), torch.full((2, 400), radians(-42.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ca = backbone_from_torsions(phi, psi)[:, :, CA_ATOM]
    assert ca.dtype == torch.float32
    assert ((ca.diff(dim=1).norm(dim=-1) - CA_CA_BOND).abs() < 0.02).all()


# --- from a Cα trace -----------------------------------------------------------------------------


@pytest.mark.parametrize(("phi", "psi"), [(-63, -42), (-120, 130), (-72, 146)])
def test_regular_structures_come_back_from_their_trace(phi, psi):
    truth = ideal(phi, psi, 14)
    found = backbone_from_ca(truth[:, CA_ATOM])
    assert (found - truth).norm(dim=-1)[1:-1].max() < 0.6


def test_the_trace_itself_is_kept_and_its_atoms_move_with_it():
    ca = ideal(-63, -42, 9)[:, CA_ATOM] + 0.05 * torch.randn(9, 3, dtype=torch.float64)
    found = backbone_from_ca(ca)
    assert torch.equal(found[:, CA_ATOM], ca)
    turn = random_rotations(1, torch.Generator().manual_seed(3))[0].double()
    torch.testing.assert_close(
        backbone_from_ca(ca @ turn.T + 7.0), found @ turn.T + 7.0, atol=1e-6, rtol=1e-6
    )


def test_nothing_is_read_across_a_chain_break(random_torsions):
    ca = backbone_from_torsions(*random_torsions)[0, :12, CA_ATOM]
    bonded = torch.ones(12, dtype=torch.bool)
    bonded[[5, 11]] = False
    apart = backbone_from_ca(ca, bonded)
    torch.testing.assert_close(apart, torch.cat((backbone_from_ca(ca[:6]), backbone_from_ca(ca[6:]))))
    assert not torch.allclose(apart, backbone_from_ca(ca))


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4])
def test_a_fragment_gets_atoms_too(length):
    found = backbone_from_ca(ideal(-120, 130, 6)[:length, CA_ATOM])
    assert found.shape == (length, 4, 3)
    assert found.isfinite().all()
    assert ((found[:, 0] - found[:, 1]).norm(dim=-1) - N_CA_BOND).abs().lt(1e-3).all()


def test_a_batch_of_traces_is_refused_with_its_shape():
    with pytest.raises(ValueError, match=r"\(2, 5, 3\)"):
        backbone_from_ca(torch.zeros(2, 5, 3))


def test_real_chains_come_back_within_the_error_the_docstring_states(real_data):
    squares, angles = [], []
    with gzip.open(real_data / "ci_small.jsonl.gz", "rt") as lines:
        for _, line in zip(range(100), lines, strict=False):
            record = json.loads(line)
            truth = torch.tensor([record["coords"][a] for a in ("N", "CA", "C", "O")], dtype=torch.float64)
            truth = truth.transpose(0, 1)
            if not truth[:, :3].isfinite().all():
                continue
            bonded = torch.zeros(len(truth), dtype=torch.bool)
            bonded[:-1] = (truth[1:, 0] - truth[:-1, 2]).norm(dim=-1) < 2.0
            found = backbone_from_ca(truth[:, CA_ATOM], bonded)
            squares.append((found - truth).square().sum(-1).numpy())
            angles.append(angle(*found[:, :3].unbind(1)))
    error = np.sqrt(np.nanmean(np.concatenate(squares), axis=0))
    assert error[0] < 0.30 and error[2] < 0.33 and error[3] < 0.90, error
    assert abs(torch.cat(angles).mean() - N_CA_C_ANGLE) < 2.0
