"""Which chains of structure files are sound, and as what they go into a store; many at once.

Chains are looked at end to end, as if they were one: a step of numpy takes longer than a small chain's share of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from minifold_pl.constants import BACKBONE_ATOMS, C_ATOM, CA_ATOM, N_ATOM, O_ATOM
from minifold_pl.data.chain_set import MOST_IN_ONE_PLACE, SAME_PLACE
from minifold_pl.data.outcome import Entry, Problem
from minifold_pl.data.packed_chain import pack_rows
from minifold_pl.data.structure_file import StructureChain

_FARTHEST: Final = {N_ATOM: 3.0, C_ATOM: 3.0, O_ATOM: 4.0}
"""Å from its own Cα: an atom further away (ideal 1.46, 1.52 and 2.40) is damage, or another residue's."""
_FARTHEST_SQUARED: Final = np.array(
    [_FARTHEST.get(slot, np.inf) ** 2 for slot in range(len(BACKBONE_ATOMS))], dtype=np.float32
)
_LARGEST_NUMBER: Final = 10**9


class Candidate(NamedTuple):
    """A chain, and what is asked of it."""

    chain: StructureChain
    name: str
    """In the store."""
    min_length: int
    min_complete: float


def check_chains(candidates: Sequence[tuple[StructureChain, str, int, float]]) -> list[Entry]:
    """Each chain as it goes into the store, or why it does not."""
    given = [Candidate(*candidate) for candidate in candidates]
    if not given:
        return []
    chains = [candidate.chain for candidate in given]
    rows = _Rows.of(chains)
    stray = _stray(rows.coords)
    strays = None
    if np.count_nonzero(stray):
        strays = rows.count(stray.sum(1))
        rows.coords[stray] = np.nan
    counts = _Counts.of(rows)
    packed = iter(
        pack_rows(
            [candidate.name for candidate in given],
            "".join([chain.sequence for chain in chains]),
            rows.coords,
            rows.numbers,
            rows.insertions,
            rows.edges,
            numbered=[not unsound for unsound in counts.unsound_numbers],
        )
    )
    entries = []
    for place, (candidate, chain) in enumerate(zip(given, packed, strict=True)):
        problems = [Problem("repaired", *note, candidate.name) for note in candidate.chain.notes]
        if strays and strays[place]:
            problems.append(
                Problem("repaired", "atoms far from their Cα left out", f"{strays[place]}", candidate.name)
            )
        if refusal := counts.refusal(place, candidate):
            entries.append(Entry((refusal,)))
            continue
        if not counts.n_or_c[place]:
            problems.append(Problem("noted", "only Cα coordinates", "", candidate.name))
        if counts.unsound_numbers[place]:
            what = "residue numbers left out"
            problems.append(Problem("repaired", what, "not all are numbers", candidate.name))
        entries.append(Entry(tuple(problems), chain))
    return entries


@dataclass(frozen=True)
class _Rows:
    """Residues of chains, ``l`` in all, end to end."""

    coords: Float[np.ndarray, "l 4 3"]
    numbers: Int[np.ndarray, " l"]
    insertions: UInt8[np.ndarray, " l"]
    edges: list[int]
    """Rows at which chains begin, and the last one ends; each has one at least."""

    @classmethod
    def of(cls, chains: Sequence[StructureChain]) -> _Rows:
        edges = [0]
        for chain in chains:
            edges.append(edges[-1] + len(chain.sequence))
        return cls(
            np.concatenate([chain.coords for chain in chains]),
            np.concatenate([chain.numbers for chain in chains]),
            np.concatenate([chain.insertions for chain in chains]),
            edges,
        )

    def count(self, rows: Bool[np.ndarray, " l"] | Int[np.ndarray, " l"]) -> list[int]:
        """Sums over the rows of each chain."""
        return np.add.reduceat(rows, self.edges[:-1], dtype=np.int64).tolist()


@dataclass(frozen=True)
class _Counts:
    """Numbers of residues of each chain."""

    observed: list[int]
    """With Cα."""
    n_or_c: list[int]
    whole: list[int]
    """With N, Cα and C."""
    together: list[int]
    """In their neighbour's place."""
    unsound_numbers: list[int]
    """Whose number is none."""

    @classmethod
    def of(cls, rows: _Rows) -> _Counts:
        seen = rows.coords[..., 0] == rows.coords[..., 0]
        n, ca, c = (seen[:, atom] for atom in (N_ATOM, CA_ATOM, C_ATOM))
        observed = ca.nonzero()[0]
        trace = rows.coords[observed, CA_ATOM]
        near = (_squared(trace[1:] - trace[:-1]) < SAME_PLACE**2).nonzero()[0]
        together = [0] * (len(rows.edges) - 1)
        if len(near):
            chain = np.searchsorted(rows.edges, observed, side="right") - 1
            mine = chain[near][chain[near] == chain[near + 1]]
            together = np.bincount(mine, minlength=len(together)).tolist()
        codes = rows.insertions
        unsound = (rows.numbers >= _LARGEST_NUMBER) | (rows.numbers <= -_LARGEST_NUMBER)  # NO_NUMBER, too
        if np.count_nonzero(codes):
            unsound |= (codes != 0) & ((codes | 32) - ord("a") >= 26)
        bad = rows.count(unsound) if np.count_nonzero(unsound) else [0] * len(together)
        return cls(rows.count(ca), rows.count(n | c), rows.count(n & ca & c), together, bad)

    def refusal(self, place: int, candidate: Candidate) -> Problem | None:
        """Why a chain is dropped."""
        chain, name, min_length, min_complete = candidate
        observed, ca_only = self.observed[place], not self.n_or_c[place]
        complete = observed if ca_only else self.whole[place]
        if observed < min_length:
            detail = f"{observed} Cα observed, at least {min_length} are needed"
            return Problem("dropped", "too short", detail, name)
        if complete < min_complete * len(chain):
            atoms = "Cα" if ca_only else "N, Cα and C"
            detail = f"{100 * complete / len(chain):.1f} % of {len(chain)} residues have {atoms}"
            return Problem("dropped", f"under {100 * min_complete:g} % complete", detail, name)
        if self.together[place] > MOST_IN_ONE_PLACE * observed:
            return Problem("dropped", "residues in one place", f"{self.together[place]} of {observed}", name)
        return None


def _stray(coords: Float[np.ndarray, "l 4 3"]) -> Bool[np.ndarray, "l 4"]:
    """Atoms that are too far from their residue's Cα to belong to it."""
    return _squared(coords - coords[:, CA_ATOM, None]) > _FARTHEST_SQUARED  # False for NaN


def _squared(vectors: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n"]:
    return np.einsum("...i,...i->...", vectors, vectors)
