"""What the three letters of a residue stand for."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import gemmi

from minifold_pl.constants import AMINO_ACIDS

UNKNOWN_LETTER: Final = "X"

AMINO: Final = 0
"""An amino acid, standard or modified."""
NUCLEIC: Final = 1
OTHER: Final = 2
"""A known compound of another kind: water, ligand, ion, sugar, cap."""
UNHEARD: Final = 3
"""In no table."""

_FORCE_FIELD_NAMES: Final = {
    "HID": "H", "HIE": "H", "HIP": "H", "HSD": "H", "HSE": "H", "HSP": "H",
    "CYX": "C", "CYM": "C", "ASH": "D", "GLH": "E", "LYN": "K", "ARN": "R", "TYM": "Y",
}  # fmt: skip
"""Protonation states as the AMBER and CHARMM force fields name them; they are in no dictionary of compounds."""


@lru_cache(maxsize=4096)
def letter_and_kind(code: bytes) -> tuple[str, int]:
    """One letter (``X`` where there is none) and one of ``AMINO``, ``NUCLEIC``, ``OTHER``, ``UNHEARD``.

    A modified amino acid has its parent's letter, after gemmi's table of the PDB's compounds.
    """
    name = code.decode("latin-1")
    if name in _FORCE_FIELD_NAMES:
        return _FORCE_FIELD_NAMES[name], AMINO
    info = gemmi.find_tabulated_residue(name)
    if info.is_amino_acid():
        letter = info.one_letter_code.upper()
        return letter if letter in AMINO_ACIDS else UNKNOWN_LETTER, AMINO
    if info.is_nucleic_acid():
        return UNKNOWN_LETTER, NUCLEIC
    return UNKNOWN_LETTER, OTHER if info.found() else UNHEARD


@lru_cache(maxsize=4096)
def letter_of(name: str) -> str:
    """One letter of a residue of a full sequence; of several in one place (``SER,GLY``) the first one's."""
    return letter_and_kind(name.partition(",")[0].encode("latin-1", "replace"))[0]
