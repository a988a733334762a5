"""Residues, tokens and ideal geometry, each with its source.

This module imports nothing, so that every room may import it.
"""

from __future__ import annotations

from typing import Final

# --- tokens -----------------------------------------------------------------------------------

PAD: Final = 0
"""Padding. The attention mask is ``ids != PAD``."""
MASK: Final = 1
"""Null residue: what classifier-free guidance puts in place of a residue."""
CLS: Final = 2
EOS: Final = 3
FIRST_RESIDUE: Final = 4

AMINO_ACIDS: Final = "ACDEFGHIKLMNPQRSTVWY"
"""The 20 amino acids in the alphabetical order of their one-letter codes: tokens 4…23."""
UNK: Final = FIRST_RESIDUE + len(AMINO_ACIDS)
VOCABULARY_SIZE: Final = UNK + 1

ONE_TO_THREE: Final[dict[str, str]] = {
    "A": "ALA", "C": "CYS", "D": "ASP", "E": "GLU", "F": "PHE",
    "G": "GLY", "H": "HIS", "I": "ILE", "K": "LYS", "L": "LEU",
    "M": "MET", "N": "ASN", "P": "PRO", "Q": "GLN", "R": "ARG",
    "S": "SER", "T": "THR", "V": "VAL", "W": "TRP", "Y": "TYR",
    "X": "UNK",
}  # fmt: skip

# --- atoms ------------------------------------------------------------------------------------

BACKBONE_ATOMS: Final = ("N", "CA", "C", "O")
"""Order of the atom axis in every backbone tensor."""
N_ATOM: Final = 0
CA_ATOM: Final = 1
C_ATOM: Final = 2
O_ATOM: Final = 3

# --- ideal geometry (Å and degrees; Engh & Huber 1991, Acta Cryst. A47:392) ---------------------

CA_CA_BOND: Final = 3.80
"""Cα–Cα distance across a trans peptide, Å."""
N_CA_BOND: Final = 1.458
CA_C_BOND: Final = 1.523
C_N_BOND: Final = 1.329
C_O_BOND: Final = 1.231
N_CA_C_ANGLE: Final = 111.0
CA_C_N_ANGLE: Final = 116.6
C_N_CA_ANGLE: Final = 121.4
CA_C_O_ANGLE: Final = 120.1
"""Cα–C=O angle, degrees (Engh & Huber 1991: 120.1)."""

PEPTIDE_BOND_CUTOFF: Final = 2.0
"""C–N distances above this, in Å, are a chain break (ideal 1.33 Å; well past any refinement error)."""
CA_TRACE_CUTOFF: Final = 4.5
"""Cα–Cα distances above this, in Å, are a chain break where C or N is missing (trans 3.80, cis 2.95)."""

CONTACT_CUTOFF: Final = 8.0
"""Two residues whose Cα atoms are nearer than this, in Å, are in contact (Mini-Fold stage 1)."""
MEDIUM_RANGE: Final = (12, 23)
"""Sequence separations |i−j| of a medium-range contact, both ends included (CASP)."""
LONG_RANGE: Final = 24
"""Smallest sequence separation |i−j| of a long-range contact (CASP)."""

# --- scale ------------------------------------------------------------------------------------

MODEL_UNIT: Final = 10.0
"""Å per model unit. :mod:`minifold_pl.geometry.units` holds the only conversion."""

CATH_CLASSES: Final = ("Mainly Alpha", "Mainly Beta", "Alpha Beta", "Few Secondary Structures")
"""CATH classes 1…4; label ``k`` is class ``k + 1``."""

NO_LABEL: Final = -1
"""A missing CATH label: masked out of its own loss term only."""
