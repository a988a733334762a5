"""The backbone atoms of a parsed structure as columns, and the protein residues they make up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

import gemmi
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from minifold_pl.constants import BACKBONE_ATOMS, C_ATOM, CA_ATOM, N_ATOM, ONE_TO_THREE
from minifold_pl.data.residue_names import AMINO, OTHER, UNHEARD, UNKNOWN_LETTER, letter_and_kind

MAX_COORDINATE: Final = 9999.999
"""Å; the largest value a PDB file can hold. An atom further out is damage, and would drown the rest in float32."""

_ATOM_NAMES: Final = np.array([name.encode() for name in BACKBONE_ATOMS], dtype="S8").view("<u8")
_STANDARD: Final = frozenset(name.encode() for name in ONE_TO_THREE.values())
_POLYMER: Final = int(gemmi.EntityType.Polymer.value)
_UNSAID: Final = int(gemmi.EntityType.Unknown.value)
_HETATM: Final = ord("H")
_NO_CODE: Final = ord(" ")
_NO_NUMBER: Final = -(10**9)
"""gemmi's number of a residue that has none is far below."""


@dataclass(frozen=True, kw_only=True)
class Residues:
    """Protein residues of a chain, ``l`` in all, in the file's order."""

    letters: str
    coords: Float[np.ndarray, "l 4 3"]
    """float32; NaN where there is no such atom."""
    numbers: Int[np.ndarray, " l"]
    codes: Int[np.ndarray, " l"]
    """Insertion codes as bytes; a space where there is none."""
    subchains: Shaped[np.ndarray, " l"]
    index: Int[np.ndarray, " l"]
    """Place of an atom of the residue among all atoms of the file."""
    impossible: int
    """Atoms left out because they are too far out to be true."""

    def __len__(self) -> int:
        return len(self.letters)

    @cached_property
    def ids(self) -> list[str]:
        """Number and insertion code; empty where the file has no number."""
        names = ["" if number < _NO_NUMBER else str(number) for number in self.numbers.tolist()]
        if self.plainly_numbered:
            return names
        codes = map(chr, self.codes.tolist())
        return [name and (name + code).rstrip() for name, code in zip(names, codes, strict=True)]

    @property
    def plainly_numbered(self) -> bool:
        """No residue has an insertion code."""
        return bool((self.codes == _NO_CODE).all())

    def runs(self) -> Iterator[tuple[str, Residues]]:
        """The residues by subchain (one polymer each), in order."""
        same = self.subchains[1:] == self.subchains[:-1]
        if same.all():
            yield self.subchains[0].decode("latin-1"), self
            return
        edges = [0, *(np.flatnonzero(~same) + 1).tolist(), len(self)]
        for start, stop in pairwise(edges):
            yield self.subchains[start].decode("latin-1"), self._only(slice(start, stop))

    def only(self, kept: Bool[np.ndarray, " l"]) -> Residues:
        """Some of the residues."""
        return self._only(np.flatnonzero(kept))

    def _only(self, part: slice | Int[np.ndarray, " k"]) -> Residues:
        letters = np.frombuffer(self.letters.encode(), dtype="S1")[part]
        return replace(
            self,
            letters=letters.tobytes().decode(),
            coords=self.coords[part],
            numbers=self.numbers[part],
            codes=self.codes[part],
            subchains=self.subchains[part],
            index=self.index[part],
        )


@dataclass(frozen=True)
class BackboneAtoms:
    """N, Cα, C and O of all models and chains, ``a`` in all, of residues of any kind."""

    index: Int[np.ndarray, " a"]
    """Place among all atoms of the file."""
    slot: Int[np.ndarray, " a"]
    """Which of N, Cα, C, O."""
    position: Float[np.ndarray, "a 3"]
    number: Int[np.ndarray, " a"]
    code: Int[np.ndarray, " a"]
    residue: Shaped[np.ndarray, " a"]
    subchain: Shaped[np.ndarray, " a"]
    entity: Int[np.ndarray, " a"]
    het: Int[np.ndarray, " a"]
    conformer: Int[np.ndarray, " a"]
    occupancy: Float[np.ndarray, " a"]

    @classmethod
    def of(cls, structure: gemmi.Structure) -> BackboneAtoms:
        """Those of a structure, in its order."""
        flat: Any = gemmi.FlatStructure(structure)  # its columns are typed as object
        flat.strings_as_numbers = False
        wanted = flat.atom_names.view("<u8")[:, None] == _ATOM_NAMES
        index = np.flatnonzero(wanted.any(1))
        position = flat.pos[index]
        position[~(np.abs(position) <= MAX_COORDINATE).all(1)] = np.nan
        return cls(
            index=index,
            slot=wanted[index].argmax(1),
            position=position,
            number=flat.resnums[index],
            code=flat.icodes[index],
            residue=flat.residue_names[index],
            subchain=flat.subchains[index],
            entity=flat.entity_type[index],
            het=flat.het_flags[index],
            conformer=flat.altlocs[index],
            occupancy=flat.occ[index],
        )

    def residues(self, first: int, last: int, parents: Mapping[bytes, bytes]) -> Residues | None:
        """The protein residues among atoms ``first`` to ``last`` of the file (not included), None where none is.

        ``parents`` are the amino acids that the file names as parents of its modified residues.
        """
        start, stop = np.searchsorted(self.index, (first, last)).tolist()
        if start == stop:
            return None
        return self._part(slice(start, stop))._residues(parents)

    def _part(self, part: slice) -> BackboneAtoms:
        return BackboneAtoms(*(getattr(self, column.name)[part] for column in fields(self)))

    def _residues(self, parents: Mapping[bytes, bytes]) -> Residues | None:
        starts = self._starts()
        of_atom = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(self.index)))
        order, holder = self._preferred(starts, of_atom)
        coords = np.full((len(starts), len(BACKBONE_ATOMS), 3), np.nan, dtype=np.float32)
        # The last of several atoms in one place stays.
        coords[of_atom[order], self.slot[order]] = self.position[order]
        names = self.residue[holder].tolist()
        known = [letter_and_kind(name) for name in names]
        letters = "".join([letter for letter, _ in known])
        if parents and UNKNOWN_LETTER in letters:
            known = [letter_and_kind(parents.get(n, n)) for n in names]
            letters = "".join([letter for letter, _ in known])
        residues = Residues(
            letters=letters,
            coords=coords,
            numbers=self.number[holder],
            codes=self.code[holder],
            subchains=self.subchain[holder],
            index=self.index[holder],
            impossible=int(np.isnan(self.position[:, 0]).sum()),
        )
        kept = self._protein(np.array([kind for _, kind in known]), names, holder, coords)
        return residues if kept.all() else residues.only(kept) if kept.any() else None

    def _starts(self) -> Int[np.ndarray, " l"]:
        """The first atom of every residue."""
        new = (self.number[1:] != self.number[:-1]) | (self.code[1:] != self.code[:-1])
        renamed = (self.residue[1:] != self.residue[:-1]) & ~new
        if renamed.any():
            # Two amino acids in one place are told apart by their conformers; without these they are two residues
            # of the same number.
            new |= renamed & (self.conformer[1:] == 0) & (self.conformer[:-1] == 0)
        return np.concatenate([[0], np.flatnonzero(new) + 1])

    def _preferred(
        self, starts: Int[np.ndarray, " l"], of_atom: Int[np.ndarray, " a"]
    ) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " l"]]:
        """All atoms, those to be preferred last, and an atom of every residue that tells its name."""
        order = np.arange(len(of_atom))[::-1]  # of two like atoms the first counts
        if not self.conformer.any():
            return order, starts
        holder = starts.copy()
        rank = np.zeros(len(of_atom))
        for residue in np.unique(of_atom[self.conformer != 0]).tolist():
            stop = starts[residue + 1] if residue + 1 < len(starts) else len(of_atom)
            atoms = range(int(starts[residue]), int(stop))
            chosen = self._conformer(atoms)
            for atom in atoms:
                if self.conformer[atom] == chosen:
                    rank[atom] = 3.0
                else:
                    rank[atom] = (
                        2.0 if self.conformer[atom] == 0 else min(max(float(self.occupancy[atom]), 0.0), 1.0)
                    )
            holder[residue] = next(atom for atom in atoms if self.conformer[atom] == chosen)
        return order[np.argsort(np.nan_to_num(rank[order]), kind="stable")], holder

    def _conformer(self, atoms: range) -> int:
        """The conformer of highest occupancy: of its Cα, then of its backbone, then the first."""
        weight: dict[int, tuple[float, float]] = {}
        for atom in atoms:
            conformer = int(self.conformer[atom])
            if conformer:
                occupancy = float(np.nan_to_num(self.occupancy[atom]))
                trace, backbone = weight.get(conformer, (0.0, 0.0))
                trace += occupancy if self.slot[atom] == CA_ATOM else 0.0
                weight[conformer] = (trace, backbone + occupancy)
        return max(weight, key=lambda conformer: weight[conformer])  # the first of equals

    def _protein(
        self,
        kind: Int[np.ndarray, " l"],
        names: list[bytes],
        holder: Int[np.ndarray, " l"],
        coords: Float[np.ndarray, "l 4 3"],
    ) -> Bool[np.ndarray, " l"]:
        """Which residues are part of a protein chain."""
        entity = self.entity[holder]
        polymer = entity == _POLYMER
        if polymer.all() and (kind == AMINO).all():
            return polymer
        # Files without entities, TER or SEQRES leave it open what is a polymer. An amino acid by itself is then
        # one that is written as HETATM without being a modified one.
        het = self.het[holder] == _HETATM
        standard = np.array([name in _STANDARD for name in names])
        unsaid = entity == _UNSAID
        seen = ~np.isnan(coords).any(-1)
        amino = (kind == AMINO) & (polymer | (unsaid & ~(het & standard)))
        unheard = (kind == UNHEARD) & seen[:, CA_ATOM] & (polymer | (unsaid & ~het))
        # A compound that is no amino acid by the tables, and yet has a backbone and stands in the chain.
        other = (kind == OTHER) & polymer & seen[:, [N_ATOM, CA_ATOM, C_ATOM]].all(1)
        return amino | unheard | other
