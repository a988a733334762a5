"""One item of a source into its outcome; what worker processes do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from minifold_pl.data.cath_domains import Domain, DomainTable, cut_domains, label_chain
from minifold_pl.data.chain_set import RecordProblem, parse_line
from minifold_pl.data.outcome import Entry, Outcome, Problem
from minifold_pl.data.packed_chain import pack
from minifold_pl.data.sound_chain import check_chains
from minifold_pl.data.structure_content import StructureFileError, read_content, structure_name
from minifold_pl.data.structure_file import StructureFile, StructureReader, parse_structure, read_together

MIN_COMPLETE: Final = 0.95
"""Least share of a chain's residues, from the first observed one to the last, whose backbone is known."""
SAME: Final = b"same"
"""In place of an outcome: the file has the content it is known to have."""


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
    return read_files([(path, min_length, min_complete, domains, cut, known_sha256)])[0]


def read_files(
    calls: Sequence[tuple[Any, ...]], begin: Callable[[int | None], None] = lambda place: None
) -> list[bytes]:
    """:func:`read_file` of many at once, which is faster for small files; ``calls`` are its arguments.

    ``begin`` is told the place of each as it is taken up, then None.
    """
    answers: list[bytes] = [b""] * len(calls)
    opened: list[tuple[int, str, StructureReader]] = []
    for place, (path, *_, known_sha256) in enumerate(calls):
        begin(place)
        try:
            content = read_content(path)
            digest = hashlib.sha256(content).hexdigest()
        except StructureFileError as error:
            answers[place] = Outcome((_refused(error),)).encoded()
            continue
        if digest == known_sha256:
            answers[place] = SAME
            continue
        try:
            opened.append((place, digest, StructureReader(content, structure_name(path))))
        except StructureFileError as error:
            answers[place] = Outcome((_refused(error),), digest).encoded()
    begin(None)
    found = read_together([(reader, 1) for *_, reader in opened])
    all_entries = _entries(found, [calls[place][1:5] for place, *_ in opened])
    for (place, digest, _), entries in zip(opened, all_entries, strict=True):
        answers[place] = Outcome(entries, digest).encoded()
    return answers


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
    return _entries([found], [(min_length, min_complete, domains, cut)])[0]


def _entries(
    files: Sequence[StructureFile | StructureFileError], ways: Sequence[tuple[Any, ...]]
) -> list[tuple[Entry, ...]]:
    """What is in each of some files."""
    read = [(file, way) for file, way in zip(files, ways, strict=True) if isinstance(file, StructureFile)]
    checked = iter(
        check_chains(
            [
                (chain, chain_name(file.name, chain.name), way[0], way[1])
                for file, way in read
                for chain in file.chains
            ]
        )
    )
    return [
        (_refused(file),) if isinstance(file, StructureFileError) else tuple(_of_file(file, way, checked))
        for file, way in zip(files, ways, strict=True)
    ]


def _of_file(file: StructureFile, way: tuple[Any, ...], checked: Iterator[Entry]) -> Iterator[Entry]:
    min_length, _, domains, cut = way
    for chain, reason in file.dropped:
        yield Entry((Problem("dropped", reason, "", chain_name(file.name, chain)),))
    if not (file.chains or file.dropped):
        yield Entry((Problem("dropped", "holds no atoms", "in its first model" if file.models > 1 else ""),))
    if file.models > 1 and file.chains:
        yield Entry((Problem("noted", "first of several models", f"{file.models}"),))
    table = DomainTable()
    for domain in domains:
        table.add(domain)
    for entry in islice(checked, len(file.chains)):
        if cut or len(table):
            yield from labelled(entry, table, cut, min_length)
        else:
            yield entry


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
