"""Residues of one chain that have the same number, insertion code and name, told apart.

A parser puts atoms of the same number, code and name into one residue, wherever in a chain they stand: parts of a
residue may be scattered over a file (a second conformer that follows the whole chain), and belong together. But where
numbers begin anew within a chain (two molecules under one letter, or under none) that makes one residue of several.

What stands apart in the file, or gives an atom again, is another residue when it has a Cα of the same conformer that
lies elsewhere; else it is the same one, and of atoms that are given twice the first hold.
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, product
from math import floor
from typing import Final, NamedTuple

import gemmi

from minifold_pl.constants import BACKBONE_ATOMS, CA_ATOM

SAME_RESIDUE: Final = 2.0
"""Å between two Cα of one residue at most: conformers seldom are so far apart, and neighbours are never so near (2.9
across a cis peptide)."""

_FARTHEST: Final = 10**9
_CA: Final = BACKBONE_ATOMS[CA_ATOM]
_MOST_PLAIN: Final = 99_999
"""Largest serial number that a PDB file can hold in digits; then follow letters (hybrid-36)."""
_FIRST_LETTERED: Final = 10 * 36**4  # "A0000"
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Repeats(NamedTuple):
    """What was found in a chain."""

    residues: int = 0
    """Whose number, code and name an earlier one has."""
    atoms: int = 0
    """Of the backbone, left out because they were given twice."""


@dataclass
class _Residue:
    """One that was told apart from others of its number."""

    source: gemmi.Residue
    first: int
    """Serial of its first atom."""
    place: int
    """Among those of its number."""
    atoms: list[gemmi.Atom] = field(default_factory=list)
    taken: set[tuple[str, str]] = field(default_factory=set)
    """Names and conformers of its backbone's atoms."""
    conformers: frozenset[str] = frozenset()
    """Those of which there is a Cα."""


class _Copies:
    """Residues of one number, code and name, which may be thousands: the nearest are found by their place."""

    def __init__(self) -> None:
        self.all: list[_Residue] = []
        self._cells: dict[tuple[str, int, int, int], list[tuple[gemmi.Position, int]]] = defaultdict(list)
        self._of_conformers: dict[frozenset[str], list[int]] = defaultdict(list)
        """Their places among all by the conformers they have, in descending order; some may have others by now."""

    def new(self, source: gemmi.Residue, first: int) -> _Residue:
        """One more, without any atom."""
        self.all.append(_Residue(source, first, place=len(self.all)))
        return self.all[-1]

    def add(self, residue: _Residue, traces: list[gemmi.Atom]) -> None:
        """Cα of a residue."""
        for atom in traces:
            self._cells[_cell(atom)].append((atom.pos, residue.place))
        conformers = residue.conformers.union(atom.altloc for atom in traces)
        if conformers != residue.conformers or not conformers:
            residue.conformers = conformers
            insort(self._of_conformers[conformers], residue.place, key=lambda place: -place)

    def holding(self, traces: list[gemmi.Atom]) -> _Residue | None:
        """The first residue to which atoms with these Cα may belong; None if they are another one's.

        Its Cα of one of the conformers is near, or it has none of any of them: then nothing speaks against it.
        """
        found = [place for atom in traces for place in self._near(atom)]
        mine = {atom.altloc for atom in traces}
        for conformers, places in self._of_conformers.items():
            if mine.isdisjoint(conformers):
                while places and self.all[places[-1]].conformers != conformers:
                    places.pop()
                found += places[-1:]
        return self.all[min(found)] if found else None

    def _near(self, atom: gemmi.Atom) -> Iterator[int]:
        conformer, *cell = _cell(atom)
        for x, y, z in product(*((c - 1, c, c + 1) for c in cell)):
            for position, place in self._cells.get((conformer, x, y, z), ()):
                if position.dist(atom.pos) <= SAME_RESIDUE:
                    yield place


def _cell(atom: gemmi.Atom) -> tuple[str, int, int, int]:
    """Its conformer, and the place of its cube of :data:`SAME_RESIDUE`; what is no number is far out."""
    x, y, z = (floor(c / SAME_RESIDUE) if abs(c) < _FARTHEST else _FARTHEST for c in atom.pos.tolist())
    return atom.altloc, x, y, z


def with_serials(text: bytes) -> bytes:
    """A PDB file whose atoms are numbered from 1 on in the order of its lines."""
    lines = text.splitlines(keepends=True)
    serial = 0
    for place, line in enumerate(lines):
        if line.startswith((b"ATOM", b"HETATM")):
            serial += 1
            lines[place] = line[:6] + _serial(serial) + line[11:]
    return b"".join(lines)


def number_atoms(block: gemmi.cif.Block) -> None:
    """Number the atoms of an mmCIF file from 1 on in the order of its rows."""
    column = block.find_values("_atom_site.id")
    for row in range(len(column)):
        column[row] = str(row + 1)


def _serial(number: int) -> bytes:
    if number <= _MOST_PLAIN:
        return b"%5d" % number
    rest, letters = number - _MOST_PLAIN - 1 + _FIRST_LETTERED, ""
    while rest:
        rest, digit = divmod(rest, 36)
        letters = _DIGITS[digit] + letters
    return letters.encode()[-5:]


def tell_apart(
    structure: gemmi.Structure, block: gemmi.cif.Block | None
) -> tuple[dict[tuple[int, int], Repeats], list[int]]:
    """Put every residue of a structure by itself, in the file's order.

    Args:
        structure: Its atoms' serials are those of :func:`with_serials` or :func:`number_atoms`. It is changed.
        block: Where it comes from, if that is mmCIF.

    Returns:
        What was found, by place of model and chain; and the first atoms of residues that follow one of the same
        number and name, counted over the whole structure.
    """
    labels = _column(block, "label_seq_id")
    subchains = _column(block, "label_asym_id")
    found: dict[tuple[int, int], Repeats] = {}
    borders: list[int] = []
    count = 0
    for m, model in enumerate(structure):
        for c, chain in enumerate(model):
            residues, repeats = _residues(chain)
            if repeats != Repeats():
                found[m, c] = repeats
                rebuilt = [_rebuilt(residue, labels, subchains) for residue in residues]
                while len(chain):
                    del chain[0]
                chain.append_residues(rebuilt)
            before = None
            for residue in chain:
                own = (residue.seqid.num, residue.seqid.icode, residue.name)
                if own == before:
                    borders.append(count)
                before = own
                count += len(residue)
    return found, borders


def _residues(chain: gemmi.Chain) -> tuple[list[_Residue], Repeats]:
    """The residues of a chain by first atom."""
    atoms = sorted(
        ((atom.serial, place, atom) for place, residue in enumerate(chain) for atom in residue),
        key=lambda item: item[0],
    )
    copies: dict[int, _Copies] = defaultdict(_Copies)
    left_out = 0
    for place, stretch in groupby(atoms, key=lambda item: item[1]):
        for part in _parts([atom for *_, atom in stretch]):
            traces = [atom for atom in part if atom.name == _CA]
            own = copies[place].holding(traces)
            if own is None:
                own = copies[place].new(chain[place], part[0].serial)
            for atom in part:
                key = (atom.name, atom.altloc)
                if key in own.taken:
                    left_out += 1
                    continue
                if atom.name in BACKBONE_ATOMS:
                    own.taken.add(key)
                own.atoms.append(atom)
            copies[place].add(own, traces)
    residues = sorted(
        (copy for own in copies.values() for copy in own.all), key=lambda residue: residue.first
    )
    return residues, Repeats(len(residues) - len(copies), left_out)


def _parts(atoms: list[gemmi.Atom]) -> list[list[gemmi.Atom]]:
    """Atoms that follow one another, cut where one of the backbone is given again."""
    parts: list[list[gemmi.Atom]] = [[]]
    seen: set[tuple[str, str]] = set()
    for atom in atoms:
        key = (atom.name, atom.altloc)
        if key in seen:
            parts.append([])
            seen.clear()
        if atom.name in BACKBONE_ATOMS:
            seen.add(key)
        parts[-1].append(atom)
    return parts


def _rebuilt(residue: _Residue, labels: list[str], subchains: list[str]) -> gemmi.Residue:
    source = residue.source
    new = gemmi.Residue()
    new.name, new.seqid, new.segment = source.name, source.seqid, source.segment
    new.het_flag, new.entity_type, new.entity_id = source.het_flag, source.entity_type, source.entity_id
    new.subchain, new.label_seq = source.subchain, source.label_seq
    row = residue.first - 1
    if labels:
        new.label_seq = int(labels[row]) if labels[row].isdecimal() else None
    if subchains:
        new.subchain = gemmi.cif.as_string(subchains[row]) or source.subchain
    for atom in residue.atoms:
        new.add_atom(atom)
    return new


def _column(block: gemmi.cif.Block | None, tag: str) -> list[str]:
    return [] if block is None else list(block.find_values(f"_atom_site.{tag}"))
