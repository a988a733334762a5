"""One protein chain, as every reader yields it and the store keeps it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float

from minifold_pl.constants import (
    BACKBONE_ATOMS,
    C_ATOM,
    CA_ATOM,
    CA_TRACE_CUTOFF,
    N_ATOM,
    PEPTIDE_BOND_CUTOFF,
)

TRAIN: Final = "train"
VALIDATION: Final = "validation"
TEST: Final = "test"
NO_SPLIT: Final = "none"
SPLITS: Final = (TRAIN, VALIDATION, TEST, NO_SPLIT)
"""Where a chain may belong; ``none`` is kept in the store and used by no loader unless asked."""

_RESIDUE_ID: Final = re.compile(r"(0|-?[1-9][0-9]{0,8})([A-Za-z]?)")


@dataclass(frozen=True, kw_only=True)
class ChainRecord:
    """A chain of ``l`` residues with its labels; coordinates in Å.

    Raises:
        ValueError: coordinates and sequence differ in length, or a break or split is not possible.
    """

    name: str
    """Verbatim from the source, e.g. ``1abc.A``; never used as a file name here."""
    sequence: str
    """One letter a residue: the 20 amino acids, or ``X`` where unknown."""
    coords: Float[np.ndarray, "l 4 3"]
    """float32, N, Cα, C, O; NaN where an atom is missing."""
    breaks: tuple[int, ...] = ()
    """``i``: there is no peptide bond between residues ``i`` and ``i + 1``. What the source says; breaks seen
    in the coordinates are added by :func:`peptide_bonds`."""
    cath: tuple[str, ...] = ()
    """CATH codes of the chain's domains, ``3.40.50`` or ``3.40.50.300``."""
    split: str = NO_SPLIT
    """One of ``SPLITS``."""
    cluster: str | None = None
    """Chains with the same value are similar in sequence; None where unknown."""
    representative: bool = False
    """True for the one chain that stands for its cluster."""
    residue_ids: tuple[str, ...] = ()
    """The author's residue numbers with their insertion codes, ``-3``, ``12``, ``12A``; empty where unknown,
    and the residues then count from 1."""

    def __post_init__(self) -> None:
        length = len(self.sequence)
        if self.coords.shape != (length, len(BACKBONE_ATOMS), 3):
            raise ValueError(
                f"{self.name}: coords have shape {self.coords.shape}; "
                f"a sequence of {length} needs ({length}, {len(BACKBONE_ATOMS)}, 3)"
            )
        if self.coords.dtype != np.float32:
            raise ValueError(f"{self.name}: coords are {self.coords.dtype}; convert them to float32")
        if any(not 0 <= i < length - 1 for i in self.breaks):
            raise ValueError(f"{self.name}: breaks {self.breaks} must lie in 0…{length - 2}")
        if self.split not in SPLITS:
            raise ValueError(f"{self.name}: split {self.split!r} is none of {', '.join(SPLITS)}")
        if self.residue_ids and len(self.residue_ids) != length:
            raise ValueError(f"{self.name}: {len(self.residue_ids)} residue numbers for {length} residues")
        if self.residue_ids and (bad := [i for i in self.residue_ids if not _RESIDUE_ID.fullmatch(i)]):
            raise ValueError(
                f"{self.name}: residue number {bad[0]!r} is not an integer with at most one letter after it"
            )

    def __len__(self) -> int:
        return len(self.sequence)

    @property
    def sequence_only(self) -> bool:
        """No atom of the chain is known."""
        return bool(np.isnan(self.coords).any(-1).all())


def split_residue_id(residue_id: str) -> tuple[int, str]:
    """Number and insertion code (empty where there is none) of ``12``, ``-3`` or ``12A``.

    Raises:
        ValueError: it has another form.
    """
    match = _RESIDUE_ID.fullmatch(residue_id)
    if match is None:
        raise ValueError(f"residue number {residue_id!r} is not an integer with at most one letter after it")
    return int(match[1]), match[2]


def peptide_bonds(coords: Float[np.ndarray, "l 4 3"], breaks: tuple[int, ...] = ()) -> Bool[np.ndarray, " l"]:
    """True at ``i`` when residues ``i`` and ``i + 1`` are joined; the last entry is always False.

    A bond is broken where ``breaks`` says so, or the coordinates do: C–N longer than ``PEPTIDE_BOND_CUTOFF``;
    where C or N is missing, Cα–Cα longer than ``CA_TRACE_CUTOFF``. A residue without Cα is bonded to neither
    neighbour, since no geometry may be computed across it.
    """
    bonded = np.zeros(len(coords), dtype=bool)
    if len(coords) < 2:
        return bonded
    peptide = _lengths(coords[1:, N_ATOM] - coords[:-1, C_ATOM])
    trace = _lengths(coords[1:, CA_ATOM] - coords[:-1, CA_ATOM])
    # A missing Cα makes `trace` NaN, and every comparison with NaN is False: no bond.
    joined = np.where(peptide == peptide, peptide <= PEPTIDE_BOND_CUTOFF, trace <= CA_TRACE_CUTOFF)
    np.logical_and(joined, trace == trace, out=bonded[:-1])
    if breaks:
        bonded[list(breaks)] = False
    return bonded


def _lengths(vectors: Float[np.ndarray, "l 3"]) -> Float[np.ndarray, " l"]:
    # np.linalg.norm takes five times as long for a chain.
    x, y, z = vectors.T
    return np.sqrt(x * x + y * y + z * z)
