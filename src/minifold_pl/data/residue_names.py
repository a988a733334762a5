"""What the three letters of a residue stand for."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import gemmi
import numpy as np
from jaxtyping import Shaped, UInt8

from minifold_pl.constants import AMINO_ACIDS, ONE_TO_THREE

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


def letters_and_kinds(names: Shaped[np.ndarray, " l"]) -> tuple[str, UInt8[np.ndarray, " l"]]:
    """:func:`letter_and_kind` of many names, an array of up to eight bytes each."""
    codes = names.view("<u8")
    places = _COMMON.searchsorted(codes)
    places[places == len(_COMMON)] = 0
    if (_COMMON[places] == codes).all():
        return _COMMON_LETTERS[places].tobytes().decode(), np.zeros(len(codes), dtype=np.uint8)
    known = list(map(letter_and_kind, names.tolist()))
    letters = "".join([letter for letter, _ in known])
    return letters, np.array([kind for _, kind in known], dtype=np.uint8)


_COMMON: Final = np.sort(
    np.array([name.encode() for name in (*ONE_TO_THREE.values(), "MSE")], dtype="S8").view("<u8")
)
_COMMON_LETTERS: Final = np.array([letter_and_kind(name)[0].encode() for name in _COMMON.view("S8").tolist()])


@lru_cache(maxsize=4096)
def letter_of(name: str) -> str:
    """One letter of a residue of a full sequence; of several in one place (``SER,GLY``) the first one's."""
    return letter_and_kind(name.partition(",")[0].encode("latin-1", "replace"))[0]
