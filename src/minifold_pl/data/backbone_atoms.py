"""The protein residues of parsed structures.

Everything works on whole columns of atoms, those of several files at once: a step a residue in Python costs more than
parsing the file does, and of a small file even a step of numpy does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, islice, pairwise
from typing import Any, Final

import gemmi
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from minifold_pl.constants import BACKBONE_ATOMS, C_ATOM, CA_ATOM, N_ATOM, ONE_TO_THREE
from minifold_pl.data.residue_names import AMINO, OTHER, UNHEARD, UNKNOWN_LETTER, letters_and_kinds

MAX_COORDINATE: Final = 9999.999
"""Å; the largest value a PDB file can hold. An atom further out is damage, and would drown the rest in float32."""

_ATOM_NAMES: Final = np.array([name.encode() for name in BACKBONE_ATOMS], dtype="S8").view("<u8")
_STANDARD: Final = np.array([name.encode() for name in ONE_TO_THREE.values()], dtype="S8")
_POLYMER: Final = int(gemmi.EntityType.Polymer.value)
_UNSAID: Final = int(gemmi.EntityType.Unknown.value)
_HETATM: Final = ord("H")
_NO_CODE: Final = ord(" ")
_LONGEST_NAME: Final = 8
NO_NUMBER: Final = -(2**31)
"""In place of a residue number where there is none."""


@dataclass(frozen=True)
class Residues:
    """Protein residues, ``l`` in all, in the file's order."""

    letters: str
    coords: Float[np.ndarray, "l 4 3"]
    """float32; NaN where there is no such atom."""
    numbers: Int[np.ndarray, " l"]
    """The author's; :data:`NO_NUMBER` where there is none."""
    insertions: UInt8[np.ndarray, " l"]
    """Insertion codes as bytes, 0 where there is none."""
    subchains: Shaped[np.ndarray, " l"]
    """Names of the polymers that they belong to."""
    index: Int[np.ndarray, " l"]
    """Place of an atom of the residue among all atoms of the files that were read at once."""
    impossible: Int[np.ndarray, " l"]
    """Atoms of the residue left out because they are too far out to be true."""

    def __len__(self) -> int:
        return len(self.letters)

    @cached_property
    def plainly_numbered(self) -> bool:
        """No residue has an insertion code."""
        return not self.insertions.any()

    def between(self, first: int, last: int) -> Residues:
        """Those of the rows ``first`` to ``last`` (not included)."""
        return self._part(first, last)

    def runs(self) -> Iterator[tuple[str, Residues]]:
        """The residues of a chain by polymer, in order."""
        new = self.subchains[1:] != self.subchains[:-1]
        edges = [0, len(self)]
        if np.count_nonzero(new):
            edges[1:1] = (np.flatnonzero(new) + 1).tolist()
        for start, stop in pairwise(edges):
            part = self if stop - start == len(self) else self._part(start, stop)
            yield part.subchains[0].decode("utf-8", "replace"), part

    def _part(self, start: int, stop: int) -> Residues:
        return Residues(
            self.letters[start:stop],
            self.coords[start:stop],
            self.numbers[start:stop],
            self.insertions[start:stop],
            self.subchains[start:stop],
            self.index[start:stop],
            self.impossible[start:stop],
        )


class RepeatedAtoms(Exception):
    """Some residues have an atom of one conformer several times: they may be several residues of one number."""

    def __init__(self, models: list[int]) -> None:
        super().__init__(f"in models {models}")
        self.models = models
        """Places of the models in which they are, among those that were read at once."""


class Model:
    """One model of a structure: its atoms, as columns, and where its chains begin.

    ``borders`` are atoms of the structure at which a residue begins, though its number and name say otherwise.
    """

    def __init__(
        self, structure: gemmi.Structure, flat: FlatAtoms, number: int, borders: Sequence[int] = ()
    ) -> None:
        first = sum(structure[i].count_atom_sites() for i in range(number))
        self.edges = list(
            accumulate((chain.count_atom_sites() for chain in structure[number]), initial=first)
        )
        """Where chains begin, and the last one ends, among all atoms of the structure."""
        self.borders = [atom for atom in borders if self.edges[0] <= atom < self.edges[-1]]
        self.structure = structure
        self.flat = flat

    @property
    def atoms(self) -> slice:
        """Its atoms among all of the structure."""
        return slice(self.edges[0], self.edges[-1])


class FlatAtoms:
    """All atoms of a structure as columns."""

    def __init__(self, structure: gemmi.Structure) -> None:
        self.columns, self.subchains = _flattened(structure)


def protein_residues(
    models: Sequence[Model], *, repeats: bool = False
) -> tuple[Residues, list[list[int]], list[list[int]]]:
    """The protein residues of several models, in their order.

    Returns:
        The residues; for every model, the rows where those of its chains begin and end; and where the chains' atoms
        do, counted as ``Residues.index`` is.

    Raises:
        RepeatedAtoms: an atom is there several times, unless ``repeats`` are known; then the first one holds.
    """
    found = _BackboneAtoms(models)
    edges = found.edges
    first = found.firsts()
    starts = first.nonzero()[0]
    of_atom = first.cumsum() - 1
    order, holder = found.preferred(starts, of_atom)
    impossible = np.zeros(len(starts), dtype=np.int64)
    lowest, highest = found.position.min(initial=0.0), found.position.max(initial=0.0)
    if not (lowest >= -MAX_COORDINATE and highest <= MAX_COORDINATE):  # NaN, too
        far = ~(np.abs(found.position) <= MAX_COORDINATE).all(1)
        np.add.at(impossible, of_atom[far], 1)
        found.position[far] = np.nan
    coords = _in_places(found, of_atom, len(starts), order)

    names = found.residue[holder]
    index = found.index[holder]
    letters, kinds = letters_and_kinds(names)
    if UNKNOWN_LETTER in letters:
        letters, kinds = _with_given_parents(
            models, names, index.searchsorted([e[0] for e in edges]), letters, kinds
        )
    kept = found.protein(kinds, names, holder, coords)
    if not repeats and len(again := found.repeated(of_atom, kept)):
        raise RepeatedAtoms(
            np.unique(np.searchsorted([own[-1] for own in edges], again, side="right")).tolist()
        )
    codes = found.code[holder]
    columns = (
        coords,
        found.number[holder],
        codes * (codes != _NO_CODE),
        found.subchains(index),
        index,
        impossible,
    )
    if not kept.all():
        letters = np.frombuffer(letters.encode(), dtype="S1")[kept].tobytes().decode()
        columns = tuple(column[kept] for column in columns)
    residues = Residues(letters, *columns)
    rows = iter(residues.index.searchsorted([edge for own in edges for edge in own]).tolist())
    return residues, [list(islice(rows, len(own))) for own in edges], edges


def _in_places(
    found: _BackboneAtoms, of_atom: Int[np.ndarray, " a"], residues: int, order: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "l 4 3"]:
    """Positions by residue and atom, NaN where there is none; the atoms ``order`` come last."""
    places = of_atom * len(BACKBONE_ATOMS) + found.slot
    if len(places) == residues * len(BACKBONE_ATOMS) and not np.count_nonzero(np.diff(places) != 1):
        return found.position.astype(np.float32).reshape(residues, len(BACKBONE_ATOMS), 3)
    coords = np.full((residues, len(BACKBONE_ATOMS), 3), np.nan, dtype=np.float32)
    position = found.position
    if len(order) or (np.diff(places) <= 0).any():  # perhaps several atoms in one place: the last one stays
        places, position = (
            np.concatenate([places[::-1], places[order]]),
            np.concatenate([position[::-1], position[order]]),
        )
    coords.reshape(-1, 3)[places] = position
    return coords


def _with_given_parents(
    models: Sequence[Model],
    names: Shaped[np.ndarray, " l"],
    firsts: Int[np.ndarray, " m"],
    letters: str,
    kinds: UInt8[np.ndarray, " l"],
) -> tuple[str, UInt8[np.ndarray, " l"]]:
    """Letters and kinds by the files' own tables of modified residues; ``firsts``: each model's first residue."""
    stops = [*firsts[1:].tolist(), len(names)]
    parts = []
    for model, start, stop in zip(models, firsts.tolist(), stops, strict=True):
        if UNKNOWN_LETTER in letters[start:stop] and (given := model.structure.mod_residues):
            parents = {m.res_id.name.encode(): m.parent_comp_id.encode() for m in given}
            own = [parents.get(name, name) for name in names[start:stop].tolist()]
            parts.append((start, stop, *letters_and_kinds(np.array(own, dtype=names.dtype))))
    for start, stop, own_letters, own_kinds in parts:
        letters = letters[:start] + own_letters + letters[stop:]
        kinds[start:stop] = own_kinds
    return letters, kinds


def _flattened(structure: gemmi.Structure) -> tuple[Any, dict[bytes, bytes]]:
    """The structure as columns; and names of its subchains, where they had to be replaced by shorter ones.

    Columns hold names of up to seven bytes.
    """
    try:
        flat: Any = gemmi.FlatStructure(structure)  # its columns are typed as object
        subchains: dict[str, str] = {}
    except RuntimeError:
        structure = structure.clone()
        subchains = {}
        for model in structure:
            for place, chain in enumerate(model):
                chain.name = str(place)
                for residue in chain:
                    residue.subchain = subchains.setdefault(residue.subchain, str(len(subchains)))
                    residue.entity_id = ""
                    if len(residue.name.encode()) >= _LONGEST_NAME:
                        residue.name = "?"
                    for atom in residue:
                        if len(atom.name.encode()) >= _LONGEST_NAME:
                            atom.name = "?"
        flat = gemmi.FlatStructure(structure)
    flat.strings_as_numbers = False
    return flat, {short.encode(): name.encode() for name, short in subchains.items()}


class _BackboneAtoms:
    """N, Cα, C and O, ``a`` in all, of residues of any kind that may stand in a polymer, as columns."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._models = models
        self.edges: list[list[int]] = []
        """Where the chains of each model begin and end among the atoms of all of them."""
        self.borders: list[int] = []
        """Atoms at which residues begin whatever their numbers: the chains' first ones, and of repeated residues."""
        stop = 0
        for model in models:
            shift = stop - model.edges[0]
            self.edges.append([edge + shift for edge in model.edges])
            stop = self.edges[-1][-1]
            own = self.edges[-1][:-1]
            self.borders += (
                sorted([*own, *(atom + shift for atom in model.borders)]) if model.borders else own
            )
        names = self._column("atom_names").view("<u8")
        n, ca, c, o = (names == code for code in _ATOM_NAMES)
        entity = self._column("entity_type")
        wanted = (n | ca | c | o) & ((entity == _POLYMER) | (entity == _UNSAID))
        index = wanted.nonzero()[0]
        # Where lines were left out beforehand nearly all atoms are wanted, and nothing need be gathered.
        chosen = slice(None) if len(index) == len(wanted) else index
        slot = ca.view(np.int8) + 2 * c.view(np.int8) + 3 * o.view(np.int8)
        self.slot: Int[np.ndarray, " a"] = slot[chosen]
        self.index: Int[np.ndarray, " a"] = index
        """Place among the atoms of all models."""
        self.position: Float[np.ndarray, "a 3"] = self._column("pos")[chosen]
        self.number: Int[np.ndarray, " a"] = self._column("resnums")[chosen]
        self.code: UInt8[np.ndarray, " a"] = self._column("icodes")[chosen].view(np.uint8)
        self.residue: Shaped[np.ndarray, " a"] = self._column("residue_names")[chosen]
        self.entity: Int[np.ndarray, " a"] = entity[chosen]
        self.conformer: Int[np.ndarray, " a"] = self._column("altlocs")[chosen]

    def _column(self, name: str) -> Shaped[np.ndarray, "n ..."]:
        """A column of all atoms."""
        parts = [getattr(model.flat.columns, name)[model.atoms] for model in self._models]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def subchains(self, index: Int[np.ndarray, " l"]) -> Shaped[np.ndarray, " l"]:
        """Names of the polymers of some atoms."""
        names = self._column("subchains")[index]
        if not any(model.flat.subchains for model in self._models):
            return names
        told = names.tolist()
        for model, edges in zip(self._models, self.edges, strict=True):
            if longer := model.flat.subchains:
                start, stop = index.searchsorted((edges[0], edges[-1])).tolist()
                told[start:stop] = [longer[name] for name in told[start:stop]]
        return np.array(told, dtype=bytes)

    def __len__(self) -> int:
        return len(self.index)

    def firsts(self) -> Bool[np.ndarray, " a"]:
        """True at the first atom of every residue."""
        first = np.ones(len(self), dtype=bool)
        new = first[1:]
        np.not_equal(self.number[1:], self.number[:-1], out=new)
        new |= self.code[1:] != self.code[:-1]
        if len(self.borders) > 1:
            starts = self.index.searchsorted(self.borders[1:])
            first[starts[starts < len(self)]] = True
        residue = self.residue.view("<u8")
        renamed = (residue[1:] != residue[:-1]) & ~new
        if renamed.any():
            # Two amino acids in one place are told apart by their conformers; without these they are two residues
            # of the same number.
            new |= renamed & (self.conformer[1:] == 0) & (self.conformer[:-1] == 0)
        return first

    def repeated(self, of_atom: Int[np.ndarray, " a"], kept: Bool[np.ndarray, " l"]) -> Int[np.ndarray, " n"]:
        """Atoms, as ``index`` counts them, of protein residues in which one of the same conformer is before them."""
        places = of_atom * len(BACKBONE_ATOMS) + self.slot
        back = (places[1:] <= places[:-1]).nonzero()[0]
        if not len(back):
            return self.index[:0]
        doubtful = np.zeros(len(kept), dtype=bool)
        doubtful[of_atom[back]] = True
        atoms = (doubtful & kept)[of_atom].nonzero()[0]
        keys = places[atoms] << 8 | self.conformer[atoms].view(np.uint8)
        order = keys.argsort(kind="stable")
        again = keys[order][1:] == keys[order][:-1]
        return self.index[np.sort(atoms[order[1:][again]])]

    def preferred(
        self, starts: Int[np.ndarray, " l"], of_atom: Int[np.ndarray, " a"]
    ) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " l"]]:
        """Atoms of residues with several conformations, those to be preferred last, and of every residue one atom.

        That one tells its name.
        """
        if not np.count_nonzero(self.conformer):
            return starts[:0], starts
        holder = starts.copy()
        order: list[int] = []
        occupancy = self._column("occ")[self.index]
        stops = np.append(starts[1:], len(self))
        for residue in np.unique(of_atom[self.conformer != 0]).tolist():
            start = int(starts[residue])
            atoms = slice(start, int(stops[residue]))
            conformers = self.conformer[atoms].tolist()
            occupancies = [o if o == o else 0.0 for o in occupancy[atoms].tolist()]
            chosen = _preferred_conformer(conformers, occupancies, self.slot[atoms].tolist())
            rank = [
                3.0 if conformer == chosen else 2.0 if conformer == 0 else min(max(occupancy, 0.0), 1.0)
                for conformer, occupancy in zip(conformers, occupancies, strict=True)
            ]
            order += sorted(range(start + len(rank) - 1, start - 1, -1), key=lambda atom: rank[atom - start])
            holder[residue] += conformers.index(chosen)
        return np.array(order), holder

    def protein(
        self,
        kind: Int[np.ndarray, " l"],
        names: Shaped[np.ndarray, " l"],
        holder: Int[np.ndarray, " l"],
        coords: Float[np.ndarray, "l 4 3"],
    ) -> Bool[np.ndarray, " l"]:
        """Which residues are part of a protein chain."""
        entity = self.entity[holder]
        polymer = entity == _POLYMER
        plain = polymer & (kind == AMINO)
        if plain.all():
            return plain
        # Files without entities, TER or SEQRES leave it open what is a polymer. An amino acid by itself is then
        # one that is written as HETATM without being a modified one.
        het = self._column("het_flags")[self.index[holder]] == _HETATM
        standard = np.isin(names, _STANDARD)
        unsaid = entity == _UNSAID
        seen = ~np.isnan(coords).any(-1)
        amino = plain | ((kind == AMINO) & unsaid & ~(het & standard))
        unheard = (kind == UNHEARD) & seen[:, CA_ATOM] & (polymer | (unsaid & ~het))
        # A compound that is no amino acid by the tables, and yet has a backbone and stands in the chain.
        other = (kind == OTHER) & polymer & seen[:, [N_ATOM, CA_ATOM, C_ATOM]].all(1)
        return amino | unheard | other


def _preferred_conformer(conformers: list[int], occupancies: list[float], slots: list[int]) -> int:
    """The conformer of highest occupancy: of its Cα, then of its backbone, then the first."""
    weight: dict[int, tuple[float, float]] = {}
    for conformer, occupancy, slot in zip(conformers, occupancies, slots, strict=True):
        if conformer:
            trace, backbone = weight.get(conformer, (0.0, 0.0))
            weight[conformer] = (trace + occupancy * (slot == CA_ATOM), backbone + occupancy)
    return max(weight, key=lambda conformer: weight[conformer])  # the first of equals
