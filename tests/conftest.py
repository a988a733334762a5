"""Fixtures every room may use."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import gemmi
import pytest
import torch

_BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real chains; skips where there is none."""
    folder = Path(os.environ.get("MINIFOLD_TEST_DATA", _BESIDE_THE_REPOSITORY))
    if not (folder / "chain_set.jsonl.gz").is_file():
        pytest.skip("no real chains: set MINIFOLD_TEST_DATA to the folder that holds chain_set.jsonl.gz")
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


# Å and degrees, Engh & Huber 1991 and AlphaFold 2, suppl. Table 2; not read from the constants that are tested.
_BONDS = {"N-CA": 1.458, "CA-C": 1.523, "C-N": 1.329, "C=O": 1.231}
_ANGLES = {"N-CA-C": 111.0, "CA-C-N": 116.6, "C-N-CA": 121.4, "CA-C=O": 120.1}


@pytest.fixture
def assert_sound_peptides() -> Callable[[Path], int]:
    """Hold a structure file, as gemmi reads it, to ideal bonds (0.05 Å), angles, planes (5°); counts residues."""

    def check(path: Path) -> int:
        (chain,) = gemmi.read_structure(str(path))[0]
        at = [{atom.name: atom.pos for atom in residue} for residue in chain]
        assert all(residue.keys() == {"N", "CA", "C", "O"} for residue in at)
        bonds = [(name, a[x].dist(a[y])) for a in at for name, x, y in
                 (("N-CA", "N", "CA"), ("CA-C", "CA", "C"), ("C=O", "C", "O"))]  # fmt: skip
        angles = [("N-CA-C", gemmi.calculate_angle(a["N"], a["CA"], a["C"])) for a in at]
        angles += [("CA-C=O", gemmi.calculate_angle(a["CA"], a["C"], a["O"])) for a in at]
        for a, b in pairwise(at):
            bonds.append(("C-N", a["C"].dist(b["N"])))
            angles.append(("CA-C-N", gemmi.calculate_angle(a["CA"], a["C"], b["N"])))
            angles.append(("C-N-CA", gemmi.calculate_angle(a["C"], b["N"], b["CA"])))
            omega = abs(math.degrees(gemmi.calculate_dihedral(a["CA"], a["C"], b["N"], b["CA"])))
            assert omega < 5 or omega > 175, f"omega {omega:.1f}"
        for name, length in bonds:
            assert abs(length - _BONDS[name]) < 0.05, f"{name} {length:.3f}"
        for name, radians in angles:
            assert abs(math.degrees(radians) - _ANGLES[name]) < 5, f"{name} {math.degrees(radians):.1f}"
        return len(at)

    return check
