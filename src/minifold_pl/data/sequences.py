"""Readers of sequences without coordinates: tables and FASTA files, plain or gzipped.

A table has tab-separated columns named in its first line, with or without ``#`` before it: ``seq`` (or
``sequence``) and ``name`` (or ``domain``, ``id``) are needed; ``split``, ``cluster``, ``rep`` and CATH codes in
``CATH`` or ``CAT`` are read where present. Of a FASTA entry the first word is the name; of CATH's own
(``cath|4_2_0|12asA00/4-330``) it is the domain.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from minifold_pl.constants import BACKBONE_ATOMS
from minifold_pl.data.cath import is_cath_code
from minifold_pl.data.chain_set import (
    MIN_LENGTH,
    RecordProblem,
    SourceError,
    is_called_chain_set,
    read_lines,
    shortened,
)
from minifold_pl.data.records import NO_SPLIT, SPLITS, ChainRecord
from minifold_pl.data.tokenizer import normalise

SEQUENCE_ONLY_NOTE: Final = "no coordinates, sequence only"
"""What the report says of each of these records."""

_NAMES: Final = ("name", "domain", "id")
_SEQUENCES: Final = ("seq", "sequence")
_CODES: Final = ("CATH", "CAT")
_CATH_ENTRY: Final = re.compile(r"cath\|[^|]*\|([^/|]+).*")
_TRUE: Final = frozenset({"1", "true", "True", "yes"})
_EMPTY: Final = frozenset({"", "-", "."})


def is_sequence_table(path: str | Path) -> bool:
    """Whether a file is a table of sequences or FASTA, by its first line; False for what cannot be read.

    What is called a chain set is none, however it begins.
    """
    if is_called_chain_set(path):
        return False
    try:
        with Path(path).open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw) if packed else raw as file:
                # A damaged byte in it is the business of its own record.
                first = file.readline(4096).decode("utf-8-sig", "replace")
    except (OSError, EOFError, zlib.error):
        return False
    return first.startswith(">") or _columns(first) is not None


def read_sequences(path: str | Path, min_length: int = MIN_LENGTH) -> Iterator[ChainRecord | RecordProblem]:
    """Every sequence of a file as a record whose coordinates are all missing, in its order.

    A record that is noted or repaired is preceded by its problem.

    Raises:
        SourceError: it cannot be read at all, or is neither a table of sequences nor FASTA.
        ValueError: ``min_length`` below 1.
    """
    path = Path(path)
    if min_length < 1:
        raise ValueError(f"min_length is {min_length}; give at least 1 residue")
    if path.is_file() and path.stat().st_size and not is_sequence_table(path):
        raise SourceError(f"{path} is neither FASTA nor a tab-separated table with columns `name` and `seq`")
    return _read(path, min_length)


def _read(path: Path, min_length: int) -> Iterator[ChainRecord | RecordProblem]:
    seen: dict[str, int] = {}
    for line, fields in _entries(path):
        if isinstance(fields, RecordProblem):
            yield fields
            continue
        yield from _record(line, fields, min_length, seen)


def _entries(path: Path) -> Iterator[tuple[int, dict[str, str] | RecordProblem]]:
    """Fields of each record with the number of its first line."""
    columns: list[str] | None = None
    entry: _Entry | None = None
    for line, content in read_lines(path):
        if isinstance(content, RecordProblem):
            entry = None  # cut off in the middle
            yield line, content
            continue
        damage = ""
        try:
            text = content.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            text, damage = content.decode("utf-8-sig", "replace").rstrip("\r\n"), str(error)
        if columns is None and entry is None and not text.startswith(">"):
            columns = _columns(text)
            continue
        if columns is not None:
            if damage:
                yield line, RecordProblem(line=line, name=None, reason="not text", detail=damage)
            elif text.strip() and not text.startswith("#"):
                yield line, _row(line, text, columns)
        elif text.startswith(">"):
            if entry is not None:
                yield _finished(entry)
            head = text[1:].strip()
            # What follows the name may be in any encoding.
            entry = _Entry(line, head, [], damage if "\ufffd" in _entry_name(head) else "")
        elif entry is not None:
            entry = entry._replace(damage=entry.damage or damage)
            entry.pieces.append(text.strip())
    if entry is not None:
        yield _finished(entry)


def _columns(first: str) -> list[str] | None:
    names = [name.strip() for name in first.lstrip("#").rstrip("\r\n").split("\t")]
    known = any(n in names for n in _NAMES) and any(n in names for n in _SEQUENCES)
    return names if known else None


def _row(line: int, text: str, columns: list[str]) -> dict[str, str] | RecordProblem:
    values = text.split("\t")
    if len(values) != len(columns):
        detail = f"{len(values)} columns, the first line names {len(columns)}"
        return RecordProblem(line=line, name=None, reason="wrong number of columns", detail=detail)
    return dict(zip(columns, (value.strip() for value in values), strict=True))


class _Entry(NamedTuple):
    """A FASTA entry as far as it was read."""

    line: int
    head: str
    pieces: list[str]
    damage: str
    """Why its name or sequence is not known."""


def _finished(entry: _Entry) -> tuple[int, dict[str, str] | RecordProblem]:
    name = _entry_name(entry.head)
    if entry.damage:
        known = None if "\ufffd" in name else name
        return entry.line, RecordProblem(line=entry.line, name=known, reason="not text", detail=entry.damage)
    sequence = "".join("".join(entry.pieces).split()).removesuffix("*")
    return entry.line, {"name": name, "seq": sequence}


def _entry_name(head: str) -> str:
    word = (head.split() or [""])[0]
    match = _CATH_ENTRY.fullmatch(word)
    return match[1] if match else word


def _record(
    line: int, fields: dict[str, str], min_length: int, seen: dict[str, int]
) -> Iterator[ChainRecord | RecordProblem]:
    name = _first(fields, _NAMES)
    raw = _first(fields, _SEQUENCES)
    reason = detail = ""
    if not name:
        reason = "no name"
    elif name in seen:
        reason, detail = "duplicate name", f"first seen on line {seen[name]}, which is kept"
    elif len(raw) < min_length:
        reason, detail = "too short", f"{len(raw)} residues, at least {min_length} are needed"
    if reason:
        yield RecordProblem(line=line, name=name or None, reason=reason, detail=detail)
        return
    seen[name] = line
    sequence, unknown = normalise(raw)
    if unknown:
        letters = "".join(sorted({a for a, b in zip(raw, sequence, strict=True) if b == "X"}))
        yield RecordProblem(
            line=line, name=name, reason="unknown letters read as X", action="repaired",
            detail=f"{unknown} of {len(sequence)}, {letters!r}",
        )  # fmt: skip
    split = fields.get("split", "")
    if split not in SPLITS:
        if split not in _EMPTY:
            yield RecordProblem(
                line=line, name=name, reason="unknown split", action="repaired",
                detail=f"{shortened(split)} is none of {', '.join(SPLITS)}; kept under {NO_SPLIT!r}",
            )  # fmt: skip
        split = NO_SPLIT
    code = _first(fields, _CODES)
    if code and not is_cath_code(code):
        yield RecordProblem(
            line=line, name=name, reason="bad CATH codes left out", action="repaired", detail=shortened(code)
        )
        code = ""
    yield RecordProblem(line=line, name=name, reason=SEQUENCE_ONLY_NOTE, action="noted")
    cluster = fields.get("cluster", "")
    yield ChainRecord(
        name=name,
        sequence=sequence,
        coords=np.full((len(sequence), len(BACKBONE_ATOMS), 3), np.nan, dtype=np.float32),
        cath=(code,) if code else (),
        split=split,
        cluster=None if cluster in _EMPTY else cluster,
        representative=fields.get("rep", "") in _TRUE,
    )


def _first(fields: dict[str, str], names: tuple[str, ...]) -> str:
    """The first of these fields that holds something."""
    return next((value for name in names if (value := fields.get(name, "")) not in _EMPTY), "")
