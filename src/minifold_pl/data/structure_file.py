"""Protein chains of PDB and mmCIF files, plain or gzipped, as they are found in the wild.

What is taken, and what is left out:

- chains by author id, the parts of a chain put together in the file's order; of several models the first, or the
  one that is asked for;
- the residues of protein chains: the 20 amino acids, modified ones as their parent (MSE is M), and those without
  a known parent as X. Waters, ligands, caps and nucleic acids are left out; a chain without a protein residue is
  dropped with its reason;
- of alternative conformations, and of different amino acids in one place, the one of highest occupancy (of its
  Cα, then of its backbone; the first of equals). An atom that it lacks is taken from the others;
- residues in the file's order, whatever their numbers do: where numbers begin anew within a chain, all of them;
- residues inside a chain that were not observed, as rows of NaN where the file gives the chain's full sequence
  (SEQRES, ``_entity_poly_seq``). At the ends they are left out, and without a full sequence they are silent.

Parsing is gemmi's; what comes after it works on whole columns of atoms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import gemmi
import numpy as np
from jaxtyping import Float, Int, UInt8

from minifold_pl.constants import CA_ATOM
from minifold_pl.data.backbone_atoms import (
    NO_NUMBER,
    FlatAtoms,
    Model,
    RepeatedAtoms,
    Residues,
    protein_residues,
)
from minifold_pl.data.backbone_lines import mmcif_backbone_lines, pdb_backbone_lines
from minifold_pl.data.records import peptide_bonds, split_residue_id
from minifold_pl.data.repeated_residues import Repeats, number_atoms, tell_apart, with_serials
from minifold_pl.data.residue_names import AMINO, NUCLEIC, UNKNOWN_LETTER, letter_and_kind, letter_of
from minifold_pl.data.structure_content import (
    MMCIF,
    Format,
    StructureFileError,
    format_of,
    one_line,
    read_content,
    structure_name,
    unpacked,
)
from minifold_pl.data.structure_sequence import (
    agrees,
    filled_numbers,
    is_between,
    is_residue_id,
    placed_at_once,
    placed_between,
    placement,
)

__all__ = [
    "Dropped",
    "StructureChain",
    "StructureFile",
    "StructureFileError",
    "StructureReader",
    "parse_structure",
    "read_models",
    "read_structure",
    "read_together",
]

_OLD_COLUMNS: Final = 72
"""Columns before the segment and file names that old programs wrote where element and charge are now."""


class Dropped(NamedTuple):
    """A chain that is left out."""

    chain: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class StructureChain:
    """The protein residues of one chain, ``l`` in all, from the first observed one to the last."""

    name: str
    """The author's chain id; empty where the file has none."""
    sequence: str
    """One letter a residue: the 20 amino acids, or ``X`` where unknown."""
    coords: Float[np.ndarray, "l 4 3"]
    """float32, N, Cα, C, O in Å; NaN where an atom was not observed."""
    numbers: Int[np.ndarray, " l"]
    """The author's residue numbers, int32. A residue that was not observed has the number that the file gives it,
    else the next free one; ``NO_NUMBER`` where there is none."""
    insertions: UInt8[np.ndarray, " l"]
    """Insertion codes as bytes, 0 where there is none."""
    notes: tuple[tuple[str, str], ...] = ()
    """What a user should know of how it was read, as (reason, detail)."""

    def __len__(self) -> int:
        return len(self.sequence)

    @cached_property
    def residue_ids(self) -> tuple[str, ...]:
        """Numbers with insertion codes, ``-3``, ``12``, ``12A``; empty where there is no number."""
        return tuple(_ids(self.numbers, self.insertions))

    @cached_property
    def breaks(self) -> tuple[int, ...]:
        """``i``: residues ``i`` and ``i + 1`` were both observed, and are not joined."""
        observed = ~np.isnan(self.coords[:, CA_ATOM]).any(-1)
        apart = ~peptide_bonds(self.coords)[:-1] & observed[:-1] & observed[1:]
        return tuple(np.flatnonzero(apart).tolist())


@dataclass(frozen=True, kw_only=True)
class StructureFile:
    """One model of a file."""

    name: str
    """The file's name without folder and endings; an entry of the PDB archive by its four letters."""
    format: Format
    models: int
    """Models in the file."""
    model: int
    """The one that was read, from 1."""
    chains: tuple[StructureChain, ...]
    """Chains with at least one protein residue, in the file's order."""
    dropped: tuple[Dropped, ...]
    """The other chains."""


def read_structure(path: str | Path, model: int | None = None) -> StructureFile:
    """The protein chains of a file's first model, or of ``model``, counted from 1.

    Raises:
        StructureFileError: the file cannot be read, is of another format, damaged or without atoms, or has no such
            model.
    """
    return parse_structure(read_content(path), structure_name(path), model)


def read_models(path: str | Path) -> tuple[StructureFile, ...]:
    """Every model of a file, which is parsed once.

    Raises:
        StructureFileError: see :func:`read_structure`.
    """
    reader = StructureReader(read_content(path), structure_name(path))
    return tuple(map(_sound, read_together([(reader, number) for number in range(1, reader.models + 1)])))


def parse_structure(content: bytes, name: str, model: int | None = None) -> StructureFile:
    """:func:`read_structure` of a file's bytes, gzipped or not."""
    reader = StructureReader(content, name)
    return _sound(read_together([(reader, 1 if model is None else model)])[0])


def read_together(models: Sequence[tuple[StructureReader, int]]) -> list[StructureFile | StructureFileError]:
    """Models of parsed files, counted from 1, many at once; in place of one that cannot be read, why."""
    if not models:
        return []
    try:
        found = [reader.atoms(number) for reader, number in models]
        try:
            residues, rows, edges = protein_residues(found)
        except RepeatedAtoms as repeated:
            for place in repeated.models:
                models[place][0].tell_apart()
            found = [reader.atoms(number) for reader, number in models]
            residues, rows, edges = protein_residues(found, repeats=True)
        return [
            reader.file(number, residues, own_rows, own_edges)
            for (reader, number), own_rows, own_edges in zip(models, rows, edges, strict=True)
        ]
    except Exception as error:
        if len(models) > 1:  # it is one of them
            return [read_together([model])[0] for model in models]
        if isinstance(error, StructureFileError):
            return [error]
        if isinstance(error, UnicodeDecodeError):
            return [StructureFileError("is damaged", one_line(error))]
        raise


def _sound(found: StructureFile | StructureFileError) -> StructureFile:
    if isinstance(found, StructureFileError):
        raise found
    return found


class StructureReader:
    """A parsed file.

    Raises:
        StructureFileError: see :func:`read_structure`.
    """

    def __init__(self, content: bytes, name: str) -> None:
        text = unpacked(content)
        self.name = name
        self._content = content
        self._repeats: dict[tuple[int, int], Repeats] = {}
        self._borders: list[int] | None = None
        self.format = format_of(text)
        self._structure, self._block = _parsed(text, self.format)
        self.models = len(self._structure)
        self._labelled = self.format == MMCIF

    @cached_property
    def _flat(self) -> FlatAtoms:
        return FlatAtoms(self._structure)

    def atoms(self, number: int) -> Model:
        """The atoms of model ``number``, from 1."""
        if not 1 <= number <= self.models:
            raise StructureFileError("has no such model", f"{number} of {self.models}")
        return Model(self._structure, self._flat, number - 1, self._borders or ())

    def tell_apart(self) -> None:
        """Read the file again, with residues of the same number and name each by itself."""
        if self._borders is not None:
            return
        text = unpacked(self._content)
        if self.format == MMCIF:
            self._structure, self._block = _parsed(text, self.format, renumber=True)
        else:
            self._structure, self._block = _parsed(with_serials(text), self.format)
        self._repeats, self._borders = tell_apart(self._structure, self._block)
        self._flat = FlatAtoms(self._structure)

    def file(self, number: int, residues: Residues, rows: list[int], edges: list[int]) -> StructureFile:
        """Model ``number``, from 1; its chains begin and end at ``rows`` of ``residues``, their atoms at ``edges``."""
        chains: list[StructureChain] = []
        dropped: list[Dropped] = []
        places = zip(self._structure[number - 1], pairwise(rows), edges[:-1], strict=True)
        for place, (chain, (start, stop), first) in enumerate(places):
            repeats = self._repeats.get((number - 1, place), Repeats())
            found = self._chain(chain, first, residues.between(start, stop), repeats)
            if isinstance(found, Dropped):
                dropped.append(found)
            else:
                chains.append(found)
        return StructureFile(
            name=self.name,
            format=self.format,
            models=self.models,
            model=number,
            chains=tuple(chains),
            dropped=tuple(dropped),
        )

    def _chain(
        self, chain: gemmi.Chain, first: int, residues: Residues, repeats: Repeats
    ) -> StructureChain | Dropped:
        if not len(residues):
            return Dropped(chain.name, _why_dropped(chain))
        notes: list[tuple[str, str]] = []
        if np.count_nonzero(residues.impossible):
            impossible = int(residues.impossible.sum())
            notes.append(("impossible coordinates left out", f"{impossible} atoms"))
        if repeats.residues:
            notes.append(("repeated residue numbers kept", f"{repeats.residues}"))
        if repeats.atoms:
            notes.append(("backbone atoms given twice left out", f"{repeats.atoms}"))
        if unknown := residues.letters.count(UNKNOWN_LETTER):
            notes.append(("residues without a known parent read as X", f"{unknown} of {len(residues)}"))
        parts = []
        for subchain, run in residues.runs():
            full = self._full_sequences.get(subchain, "")
            part = _Part(run.letters, run.coords, run.numbers, run.insertions)
            if full and run.letters != full:
                places = self._places(chain, first, run, full)
                if places is None:
                    notes.append(("full sequence left out", "it is not that of the atoms"))
                elif places[-1] - places[0] >= len(places):
                    part = self._with_gaps(chain.name, subchain, part, full, places)
            parts.append(part)
        joined = parts[0] if len(parts) == 1 else _joined(parts)
        return StructureChain(
            name=chain.name,
            sequence=joined.letters,
            coords=joined.coords,
            numbers=joined.numbers,
            insertions=joined.insertions,
            notes=tuple(notes),
        )

    @cached_property
    def _full_sequences(self) -> dict[str, str]:
        """One letter a residue, by subchain."""
        full: dict[str, str] = {}
        for entity in self._structure.entities:
            if names := entity.full_sequence:
                full.update(dict.fromkeys(entity.subchains, "".join(map(letter_of, names))))
        return full

    def _places(self, chain: gemmi.Chain, first: int, run: Residues, full: str) -> list[int] | None:
        """Places of residues in their full sequence, from 0; None when it is not theirs."""
        if not self._labelled:
            numbers = run.numbers.tolist() if run.plainly_numbered else None
            places = placed_at_once(run.letters, full, numbers)
            if places is None and (missing := self._remark_465.get(chain.name)):
                places = placed_between(run.letters, run.numbers, run.insertions, missing, full)
            if places is not None:
                return places
            self._structure.assign_label_seq_id(force=True)  # gemmi's alignment
            self._labelled = True
        places = _consecutive(chain, run) or placement(_labels(chain, run.index - first), full)
        fits = places is not None and places[-1] < len(full) and agrees(run.letters, full, places)
        return places if fits else None

    def _with_gaps(self, chain: str, subchain: str, part: _Part, full: str, places: list[int]) -> _Part:
        """With a row of NaN for every residue of the full sequence that was not observed in between."""
        offset, length = places[0], places[-1] + 1 - places[0]
        rows = np.asarray(places) - offset
        letters = np.frombuffer(full[offset : offset + length].encode(), dtype="S1").copy()
        letters[rows] = np.frombuffer(part.letters.encode(), dtype="S1")
        coords = np.full((length, *part.coords.shape[1:]), np.nan, dtype=np.float32)
        coords[rows] = part.coords
        numbers = np.full(length, NO_NUMBER, dtype=np.int32)
        insertions = np.zeros(length, dtype=np.uint8)
        numbers[rows], insertions[rows] = part.numbers, part.insertions
        for i in np.flatnonzero(np.diff(rows) > 1).tolist():
            before, after = part.id(i), part.id(i + 1)
            known = self._numbers_of_unobserved(
                chain, subchain, range(places[i] + 1, places[i + 1]), before, after
            )
            filled = filled_numbers(before, after, places[i + 1] - places[i] - 1, known)
            for row, residue_id in enumerate(filled, int(rows[i]) + 1):
                if residue_id:
                    number, code = split_residue_id(residue_id)
                    numbers[row], insertions[row] = number, ord(code or "\0")
        return _Part(letters.tobytes().decode(), coords, numbers, insertions)

    def _numbers_of_unobserved(
        self, chain: str, subchain: str, places: range, before: str, after: str
    ) -> list[str]:
        """What the file numbers the residues at ``places`` of a full sequence, none of which was observed."""
        if self._block is not None:
            numbers = [self._scheme_number(subchain, place) for place in places]
            return numbers if all(numbers) else []
        return [n for n, _ in self._remark_465.get(chain, ()) if is_between(before, n, after)]

    def _scheme_number(self, subchain: str, place: int) -> str:
        """Residue number and insertion code, from ``_pdbx_poly_seq_scheme``; empty where it gives none."""
        table, rows = self._scheme
        row = rows.get((subchain, str(place + 1)))
        if row is None:
            return ""
        found = table[row]
        residue_id = found.str(2) + (found.str(3) if found.has(3) else "")
        return residue_id if is_residue_id(residue_id) else ""

    @cached_property
    def _scheme(self) -> tuple[gemmi.cif.Table, dict[tuple[str, str], int]]:
        """``_pdbx_poly_seq_scheme``, and its rows by subchain and place from 1."""
        assert self._block is not None
        tags = ["asym_id", "seq_id", "pdb_seq_num", "?pdb_ins_code"]
        table = self._block.find("_pdbx_poly_seq_scheme.", tags)
        if not len(table):
            return table, {}
        chains, places = list(table.column(0)), list(table.column(1))
        names = {chain: gemmi.cif.as_string(chain) for chain in set(chains)}
        return table, {(names[c], p): row for row, (c, p) in enumerate(zip(chains, places, strict=True))}

    @cached_property
    def _remark_465(self) -> dict[str, list[tuple[str, str]]]:
        """Numbers and letters of the residues that were not observed, by chain, in the file's order."""
        missing: dict[str, list[tuple[str, str]]] = {}
        for line in self._structure.raw_remarks:
            # "  M RES C SSSEQI", the model only where there are several; the remark begins with free text.
            words = line[10:].split()
            if line.startswith("REMARK 465") and 3 <= len(words) <= 4 and is_residue_id(words[-1]):
                missing.setdefault(words[-2], []).append((words[-1], letter_of(words[-3])))
        return missing


class _Part(NamedTuple):
    """Residues of one polymer of a chain."""

    letters: str
    coords: Float[np.ndarray, "l 4 3"]
    numbers: Int[np.ndarray, " l"]
    insertions: UInt8[np.ndarray, " l"]

    def id(self, residue: int) -> str:
        """Number and insertion code of a residue; empty where it has none."""
        return _ids(self.numbers[residue : residue + 1], self.insertions[residue : residue + 1])[0]


def _ids(numbers: Int[np.ndarray, " l"], insertions: UInt8[np.ndarray, " l"]) -> list[str]:
    pairs = zip(numbers.tolist(), insertions.tolist(), strict=True)
    return ["" if n == NO_NUMBER else f"{n}{chr(code)}" if code else str(n) for n, code in pairs]


def _joined(parts: list[_Part]) -> _Part:
    return _Part(
        "".join(part.letters for part in parts),
        np.concatenate([part.coords for part in parts]),
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([part.insertions for part in parts]),
    )


def _parsed(
    text: bytes, format: Format, *, renumber: bool = False
) -> tuple[gemmi.Structure, gemmi.cif.Block | None]:
    """The structure, the parts of a chain put together, and the block it came from where it is mmCIF.

    ``renumber``: number the atoms of an mmCIF file first.
    """
    parse = partial(_parsed_mmcif, renumber=renumber) if format == MMCIF else _parsed_pdb
    lines = (mmcif_backbone_lines if format == MMCIF else pdb_backbone_lines)(text)
    try:
        try:
            structure, block = parse(text if lines is None else lines)
        except (RuntimeError, ValueError):
            if lines is None:
                raise
            structure, block = parse(text)  # which tells where the damage is
        structure.merge_chain_parts()
    except StructureFileError:
        raise
    except Exception as error:  # whatever a parser in C++ makes of damage
        raise StructureFileError("is damaged", one_line(error)) from None
    if not len(structure):
        raise StructureFileError("holds no atoms")
    return structure, block


def _parsed_mmcif(text: bytes, *, renumber: bool) -> tuple[gemmi.Structure, gemmi.cif.Block | None]:
    block = _block_with_atoms(gemmi.cif.read_string(text))
    _name_polymers(block)
    if renumber:
        number_atoms(block)
    return gemmi.make_structure_from_block(block), block


def _name_polymers(block: gemmi.cif.Block) -> None:
    """Add the list of entities to a block that has full sequences without it: gemmi takes them from there."""
    names = block.find_values("_entity_poly_seq.entity_id")
    if len(block.find_values("_entity.id")) or not len(names):
        return
    entities = block.init_loop("_entity.", ["id", "type"])
    for name in dict.fromkeys(names):
        entities.add_row([name, "polymer"])


def _parsed_pdb(text: bytes) -> tuple[gemmi.Structure, gemmi.cif.Block | None]:
    try:
        structure = gemmi.read_pdb_string(text)
    except (RuntimeError, ValueError):
        structure = gemmi.read_pdb_string(text, max_line_length=_OLD_COLUMNS)
    # gemmi tells where a polymer ends by TER; where there is none, SEQRES would be of no residue.
    given = any(entity.full_sequence for entity in structure.entities)
    if given and any(len(chain) and not chain[0].subchain for model in structure for chain in model):
        structure.setup_entities()
    return structure, None


def _block_with_atoms(document: gemmi.cif.Document) -> gemmi.cif.Block:
    for block in document:
        if block.find_values("_atom_site.id"):
            return block
    raise StructureFileError("holds no atoms")


def _why_dropped(chain: gemmi.Chain) -> str:
    kinds = {letter_and_kind(residue.name.encode())[1] for residue in chain}
    if NUCLEIC in kinds:
        return "nucleic acid"
    return "amino acids that are no chain" if AMINO in kinds else "no amino acid"


def _consecutive(chain: gemmi.Chain, run: Residues) -> list[int] | None:
    """``label_seq`` less one of residues that are the chain's first ones and follow one another; else None."""
    if len(chain) < len(run):
        return None
    ends = (chain[0], chain[len(run) - 1])
    if [end.seqid.num for end in ends] != [int(run.numbers[0]), int(run.numbers[-1])]:
        return None
    first, last = (end.label_seq for end in ends)
    return list(range(first - 1, last)) if first and last and last - first == len(run) - 1 else None


def _labels(chain: gemmi.Chain, index: Int[np.ndarray, " l"]) -> list[int | None]:
    """``label_seq`` less one of the residues that hold the chain's atoms ``index``."""
    stops = np.cumsum([len(residue) for residue in chain])
    holders = stops.searchsorted(index, side="right").tolist()
    labels = [chain[holder].label_seq for holder in holders]
    return [None if label is None else label - 1 for label in labels]
