"""Hydrogen bonds of ideal and real backbones."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from minifold_pl.geometry.backbone import backbone_from_torsions
from minifold_pl.geometry.secondary_structure import COIL, HELIX, MASKED, STRAND, ca_secondary_structure
from minifold_pl.metrics.hydrogen_bonds import (
    backbone_helix_content,
    backbone_secondary_structure,
    backbone_strand_content,
    hydrogen_bonds,
)


def ideal(phi: float, psi: float, length: int) -> Tensor:
    torsion = torch.ones(1, length)
    return backbone_from_torsions(torsion * math.radians(phi), torsion * math.radians(psi))


def everywhere(backbone: Tensor) -> Tensor:
    return torch.ones(backbone.shape[:2], dtype=torch.bool)


@pytest.fixture(scope="module")
def real_backbones(real_data) -> list[tuple[Tensor, Tensor]]:
    found = []
    with gzip.open(real_data / "ci_small.jsonl.gz", "rt") as file:
        for line in file:
            record = json.loads(line)
            atoms = np.stack([record["coords"][name] for name in ("N", "CA", "C", "O")], 1).astype(float)
            if np.isfinite(atoms).all() and not record["breaks"]:
                found.append((torch.from_numpy(atoms), torch.tensor([c == "P" for c in record["seq"]])))
    return found[:40]


def loop_bonds(atoms: np.ndarray, proline: np.ndarray) -> np.ndarray:
    """Kabsch & Sander's energy, pair by pair."""
    n, _, c, o = atoms.transpose(1, 0, 2)
    bond = np.zeros((len(atoms), len(atoms)), dtype=bool)
    for j in range(1, len(atoms)):
        if proline[j]:
            continue
        carbonyl = c[j - 1] - o[j - 1]
        h = n[j] + 1.01 * carbonyl / np.linalg.norm(carbonyl)
        for i in range(len(atoms)):
            if i in (j, j - 1):
                continue

            def inverse(a, b):
                return 1 / max(np.linalg.norm(a - b), 0.5)

            energy = 27.888 * (
                inverse(o[i], n[j]) + inverse(c[i], h) - inverse(o[i], h) - inverse(c[i], n[j])
            )
            bond[i, j] = energy < -0.5
    return bond


def test_bonds_of_real_chains_are_those_of_a_loop_over_pairs(real_backbones) -> None:
    for atoms, proline in real_backbones[:3]:
        mask = torch.ones(1, len(atoms), dtype=torch.bool)
        found = hydrogen_bonds(atoms[None], mask, proline=proline[None])[0]
        np.testing.assert_array_equal(found.numpy(), loop_bonds(atoms.numpy(), proline.numpy()))


def test_an_alpha_helix_bonds_every_residue_to_the_fourth_after_it() -> None:
    backbone = ideal(-57, -47, 16)
    bond = hydrogen_bonds(backbone, everywhere(backbone))[0]
    assert torch.diagonal(bond, 4).all()
    found = backbone_secondary_structure(backbone, everywhere(backbone))[0]
    assert found[1:-1].tolist() == [HELIX] * 14
    assert {found[0].item(), found[-1].item()} == {COIL}


def test_a_lone_strand_has_no_bonds() -> None:
    backbone = ideal(-120, 130, 12)
    assert set(backbone_secondary_structure(backbone, everywhere(backbone))[0].tolist()) == {COIL}


def test_the_first_residue_prolines_and_those_after_a_break_give_no_bond() -> None:
    backbone = ideal(-57, -47, 16)
    bonded, proline = everywhere(backbone).clone(), ~everywhere(backbone)
    bonded[0, 7], proline[0, 11] = False, True
    bond = hydrogen_bonds(backbone, everywhere(backbone), bonded, proline)[0]
    assert not bond[:, [0, 8, 11]].any()
    assert bond[8, 12]


def test_a_helix_does_not_run_across_a_break() -> None:
    backbone = ideal(-57, -47, 16)
    bonded = everywhere(backbone).clone()
    bonded[0, 4::5] = False
    found = backbone_secondary_structure(backbone, everywhere(backbone), bonded)[0]
    assert HELIX not in found.tolist()


def test_masked_residues_are_masked_and_change_nothing(real_backbones) -> None:
    atoms = real_backbones[0][0][None]
    expected = backbone_secondary_structure(atoms, everywhere(atoms))
    padded = torch.cat([atoms, torch.full((1, 5, 4, 3), float("nan"), dtype=atoms.dtype)], 1)
    mask = torch.arange(padded.shape[1])[None] < atoms.shape[1]
    found = backbone_secondary_structure(padded, mask)
    assert torch.equal(found[:, : atoms.shape[1]], expected)
    assert (found[:, atoms.shape[1] :] == MASKED).all()


def test_backbone_and_trace_agree_on_most_residues_of_real_chains(real_backbones) -> None:
    same = total = swapped = 0
    for atoms, proline in real_backbones:
        mask = torch.ones(1, len(atoms), dtype=torch.bool)
        from_bonds = backbone_secondary_structure(atoms[None], mask, proline=proline[None])
        from_trace = ca_secondary_structure(atoms[None, :, 1], mask)
        same += (from_bonds == from_trace).sum().item()
        swapped += (
            ((from_bonds + from_trace == HELIX + STRAND) & (from_bonds != COIL) & (from_trace != COIL))
            .sum()
            .item()
        )
        total += len(atoms)
    assert same / total > 0.7
    # They differ in where an element ends, hardly ever in what it is.
    assert swapped / total < 0.02


def test_contents_are_shares_of_the_residues(real_backbones) -> None:
    atoms = real_backbones[1][0][None]
    kinds = backbone_secondary_structure(atoms, everywhere(atoms))[0]
    assert backbone_helix_content(atoms, everywhere(atoms)).item() == pytest.approx(
        (kinds == HELIX).double().mean().item()
    )
    assert backbone_strand_content(atoms, everywhere(atoms)).item() == pytest.approx(
        (kinds == STRAND).double().mean().item()
    )
