"""One item of a source into its outcome; what worker processes do."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from jaxtyping import Bool, Float

from minifold_pl.constants import BACKBONE_ATOMS, C_ATOM, CA_ATOM, N_ATOM, O_ATOM
from minifold_pl.data.cath_domains import Domain, DomainTable, cut_domains, label_chain
from minifold_pl.data.chain_set import RecordProblem, parse_line
from minifold_pl.data.outcome import Entry, Outcome, Problem
from minifold_pl.data.packed_chain import PackedChain, pack, pack_columns
from minifold_pl.data.structure_content import StructureFileError, read_content, structure_name
from minifold_pl.data.structure_file import StructureChain, parse_structure

MIN_COMPLETE: Final = 0.95
"""Least share of a chain's residues, from the first observed one to the last, whose backbone is known."""
SAME: Final = b"same"
"""In place of an outcome: the file has the content it is known to have."""

_FARTHEST: Final = {N_ATOM: 3.0, C_ATOM: 3.0, O_ATOM: 4.0}
"""Å from its own Cα: an atom further away (ideal 1.46, 1.52 and 2.40) is damage, or another residue's."""
_FARTHEST_SQUARED: Final = np.array(
    [_FARTHEST.get(slot, np.inf) ** 2 for slot in range(len(BACKBONE_ATOMS))], dtype=np.float32
)
_SAME_PLACE: Final = 1.0
"""Å: neighbours whose Cα are nearer than this (ideal 3.80; 2.95 across a cis bond) lie in one place."""
_MOST_IN_ONE_PLACE: Final = 0.05
"""Largest share of residues that may lie in their neighbour's place: more are placeholders such as 0, 0, 0."""


def read_file(
    path: str,
    min_length: int,
    min_complete: float,
    domains: Sequence[Domain] = (),
    cut: bool = False,
    known_sha256: str = "",
) -> bytes:
    """A structure file's encoded outcome, or ``SAME`` where its content has the given checksum.

    ``domains`` are those that may be this entry's; ``cut``: give them instead of the chains.
    """
    try:
        content = read_content(path)
    except StructureFileError as error:
        return Outcome((_refused(error),)).encoded()
    digest = hashlib.sha256(content).hexdigest()
    if digest == known_sha256:
        return SAME
    entries = read_content_of(content, structure_name(path), min_length, min_complete, domains, cut)
    return Outcome(entries, digest).encoded()


def read_content_of(
    content: bytes,
    name: str,
    min_length: int,
    min_complete: float,
    domains: Sequence[Domain] = (),
    cut: bool = False,
) -> tuple[Entry, ...]:
    """What is in the bytes of a structure file of this name; see :func:`read_file`."""
    try:
        found = parse_structure(content, name)
    except StructureFileError as error:
        return (_refused(error),)
    entries = [
        Entry((Problem("dropped", reason, "", chain_name(found.name, chain)),))
        for chain, reason in found.dropped
    ]
    if found.models > 1 and found.chains:
        entries.append(Entry((Problem("noted", "first of several models", f"{found.models}"),)))
    table = DomainTable()
    for domain in domains:
        table.add(domain)
    for chain in found.chains:
        entry = _chain(chain, found.name, min_length, min_complete)
        entries += labelled(entry, table, cut, min_length) if cut or len(table) else [entry]
    return tuple(entries)


def read_block(text: bytes, first_line: int, min_length: int) -> bytes:
    """The encoded outcome of some lines of a chain set."""
    entries = []
    records = text.split(b"\n")
    if not records[-1]:
        records.pop()
    for line, record in enumerate(records, first_line):
        problems: list[Problem] = []
        chain = None
        ending = b"\n" if line < first_line + len(records) - 1 or text.endswith(b"\n") else b""
        for found in parse_line(record + ending, line, min_length, {}):
            if isinstance(found, RecordProblem):
                problems.append(Problem(found.action, found.reason, found.detail, found.name))
            else:
                chain = pack(found)
        entries.append(Entry(tuple(problems), chain, line))
    return Outcome(tuple(entries)).encoded()


def chain_name(structure: str, chain: str) -> str:
    """``1abc.A``; a chain without an id has the structure's name."""
    return f"{structure}.{chain}" if chain else structure


def labelled(entry: Entry, table: DomainTable, cut: bool, min_length: int) -> list[Entry]:
    """An entry with its chain's CATH codes; or, ``cut``, an entry for each of its domains.

    A chain without domains in the table keeps its own codes; when cutting, it is dropped.
    """
    chain = entry.chain
    if chain is None or not (cut or table.of_chain(chain.name)):
        return [entry]
    record = chain.record()
    if not cut:
        return [replace(entry, chain=replace(chain, cath=label_chain(record, table).cath))]
    pieces, reasons = cut_domains(record, table, min_length)
    problems = list(entry.problems)
    problems += [Problem("dropped", "domain not found", reason, chain.name) for reason in reasons]
    if not pieces and not reasons:
        problems.append(Problem("dropped", "no CATH domain", "", chain.name))
    told = [Entry(tuple(problems), None, entry.line)] if problems else []
    return told + [Entry((), pack(piece), entry.line, parent=chain.name) for piece in pieces]


def _refused(error: StructureFileError) -> Entry:
    return Entry((Problem("dropped", error.reason, error.detail),))


def _chain(chain: StructureChain, structure: str, min_length: int, min_complete: float) -> Entry:
    """A chain as it goes into the store, or why it does not."""
    name = chain_name(structure, chain.name)
    problems = [Problem("repaired", reason, detail, name) for reason, detail in chain.notes]
    coords = chain.coords
    seen = ~np.isnan(coords[..., 0])
    stray = _stray(coords)
    if np.count_nonzero(stray):
        coords = np.where(stray[..., None], np.float32(np.nan), coords)
        seen = ~np.isnan(coords[..., 0])
        problems.append(Problem("repaired", "atoms far from their Cα left out", f"{stray.sum()}", name))
    n, ca, c = (seen[:, atom] for atom in (N_ATOM, CA_ATOM, C_ATOM))
    ca_only = not np.count_nonzero(n | c)
    observed = np.count_nonzero(ca)
    complete = observed if ca_only else np.count_nonzero(n & ca & c)

    def dropped(reason: str, detail: str) -> Entry:
        return Entry((Problem("dropped", reason, detail, name),))

    if observed < min_length:
        return dropped("too short", f"{observed} Cα observed, at least {min_length} are needed")
    if complete < min_complete * len(chain):
        atoms = "Cα" if ca_only else "N, Cα and C"
        return dropped(
            f"under {100 * min_complete:g} % complete",
            f"{100 * complete / len(chain):.1f} % of {len(chain)} residues have {atoms}",
        )
    trace = coords[ca, CA_ATOM]
    together = np.count_nonzero(_squared(trace[1:] - trace[:-1]) < _SAME_PLACE**2)
    if together > _MOST_IN_ONE_PLACE * observed:
        return dropped("residues in one place", f"{together} of {observed}")
    if ca_only:
        problems.append(Problem("noted", "only Cα coordinates", "", name))
    numbers = insertions = None
    if _sound_numbers(chain):
        numbers, insertions = chain.numbers, chain.insertions
    else:
        problems.append(Problem("repaired", "residue numbers left out", "not all are numbers", name))
    packed: PackedChain = pack_columns(name, chain.sequence, coords, numbers, insertions)
    return Entry(tuple(problems), packed)


def _stray(coords: Float[np.ndarray, "l 4 3"]) -> Bool[np.ndarray, "l 4"]:
    """Atoms that are too far from their residue's Cα to belong to it."""
    return _squared(coords - coords[:, CA_ATOM, None]) > _FARTHEST_SQUARED  # False for NaN


def _squared(vectors: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n"]:
    return np.einsum("...i,...i->...", vectors, vectors)


def _sound_numbers(chain: StructureChain) -> bool:
    if np.abs(chain.numbers, dtype=np.int64).max(initial=0) >= 10**9:  # NO_NUMBER, too
        return False
    codes = chain.insertions
    return not np.count_nonzero(codes) or bool(((codes == 0) | ((codes | 32) - ord("a") < 26)).all())
