"""Reader of ``chain_set.jsonl[.gz]``: one chain a line, as Ingraham et al. 2019 published CATH 4.2.

A line is an object with ``name``, ``seq``, ``coords`` {N, CA, C, O: l×3 in Å, the literal NaN where missing}
and, optionally, ``CATH`` codes; ``split``, ``cluster``, ``rep`` and ``breaks`` are read where present, every
other key is ignored. The file is streamed: memory holds one record, of ``LONGEST_LINE`` at most.
"""

from __future__ import annotations

import gzip
import json
import reprlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, cast

import numpy as np
from jaxtyping import Float

from minifold_pl.constants import BACKBONE_ATOMS, CA_ATOM
from minifold_pl.data.cath import is_cath_code
from minifold_pl.data.records import NO_SPLIT, SPLITS, ChainRecord
from minifold_pl.data.tokenizer import normalise

MIN_LENGTH: Final = 4
"""Fewest residues, and fewest observed Cα, of a usable chain.

Below four Cα there is no pseudo-dihedral, hence no handedness: a chain and its mirror image are the same, and
the chirality term is undefined.
"""
MAX_COORDINATE: Final = 9999.999
"""Å; the largest value a PDB file can hold. Larger ones are damage, and would drown the rest in float32."""
SAME_PLACE: Final = 1.0
"""Å: neighbours whose Cα are nearer than this (ideal 3.80; 2.95 across a cis bond) lie in one place."""
MOST_IN_ONE_PLACE: Final = 0.05
"""Largest share of residues that may lie in their neighbour's place: more are placeholders such as 0, 0, 0."""

LONGEST_LINE: Final = 64 * 2**20
"""Bytes, unpacked: a chain of half a million residues fits. A longer line is damage, and some kilobytes of gzip can
hold one that fills any memory."""

_GZIP_MAGIC: Final = b"\x1f\x8b"
_LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/"
_SKIPPED: Final = 2**20
"""Bytes at once of what is not kept."""
_CA_ONLY_NOTE: Final = "only Cα coordinates"
_HEAD: Final = 1 << 16
"""Bytes that a file is judged by: a hole of a disk's block, which holds zeros, is a small part of them."""
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
_CONTROLS: Final = bytes({*range(32), 127} - set(b"\t\n\r\f"))
_SHORT: Final = reprlib.Repr()
_LONGEST_DETAIL: Final = 250
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


class SourceError(ValueError):
    """A file that cannot be read as a chain set at all."""


@dataclass(frozen=True, kw_only=True)
class RecordProblem:
    """What is wrong with one record."""

    line: int
    """Line number in the file, from 1."""
    name: str | None
    """The record's name, where it has one."""
    reason: str
    """Short and the same for every record with this problem: a row of the report's table."""
    detail: str = ""
    action: Literal["dropped", "repaired", "noted"] = "dropped"
    """What was done: a dropped record does not follow, the others do; a noted one is unchanged."""

    def __str__(self) -> str:
        who = f"line {self.line}" + (f" ({shortened(self.name)})" if self.name is not None else "")
        what = f"{self.reason}: {self.detail}" if self.detail else self.reason
        return f"{who}: {what} ({self.action})"


def is_called_chain_set(path: str | Path) -> bool:
    """Whether its name says what it is: its first line may be damaged, and begin like another kind of file."""
    return str(path).lower().endswith((".jsonl", ".jsonl.gz"))


def read_chain_set(path: str | Path, min_length: int = MIN_LENGTH) -> Iterator[ChainRecord | RecordProblem]:
    """Every chain of a plain or gzipped file, in its order, with a problem for each record that is not sound.

    A repaired or noted record is preceded by its problem. Compression is told by content, not by name.

    Raises:
        SourceError: no such file, a folder, empty, a git-LFS pointer, or binary.
        ValueError: ``min_length`` below ``MIN_LENGTH``.
    """
    if min_length < MIN_LENGTH:
        raise ValueError(f"min_length is {min_length}; fewer than {MIN_LENGTH} residues have no handedness")
    path = Path(path)
    _check_source(path)
    return _read(path, min_length)


def _read(path: Path, min_length: int) -> Iterator[ChainRecord | RecordProblem]:
    seen: dict[str, int] = {}
    for line, text in read_lines(path):
        if isinstance(text, RecordProblem):
            yield text
        else:
            yield from parse_line(text, line, min_length, seen)


def read_lines(path: str | Path) -> Iterator[tuple[int, bytes | RecordProblem]]:
    """Lines of a plain or gzipped chain set with their numbers, from 1.

    A line that is too long, and a damaged end, are yielded as the problem they are.

    Raises:
        SourceError: see :func:`read_chain_set`.
    """
    path = Path(path)
    _check_source(path)
    line = 0
    with _open(path) as file:
        lines = _lines(file)
        while True:
            try:
                text = next(lines, None)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                problem = RecordProblem(
                    line=line + 1,
                    name=None,
                    reason="damaged gzip",
                    detail=f"{error}; the rest of the file is lost, fetch it again",
                )
                yield line + 1, problem
                return
            if text is None:
                return
            line += 1
            if len(text) <= LONGEST_LINE:
                yield line, text
                continue
            detail = f"more than {LONGEST_LINE >> 20} MiB"
            yield line, RecordProblem(line=line, name=None, reason="line too long", detail=detail)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines; of those that are too long, one byte more than is allowed."""
    while text := file.readline(LONGEST_LINE + 1):
        if len(text) > LONGEST_LINE and not text.endswith(b"\n"):
            while (rest := file.readline(_SKIPPED)) and not rest.endswith(b"\n"):
                pass
        yield text


def parse_line(
    text: bytes, line: int, min_length: int, seen: dict[str, int]
) -> Iterator[ChainRecord | RecordProblem]:
    """The chain of a line, after what was repaired in it; or why there is none. ``seen`` are lines by name."""
    name: str | None = None
    try:
        fields = _json_object(text)
        name = _name(fields)
        if name in seen:
            raise _Unusable("duplicate name", f"first seen on line {seen[name]}, which is kept")
        record, notes = parse_record(fields, min_length)
        seen[name] = line
    except MemoryError:
        detail = f"not enough for its {len(text):,} bytes"
        yield RecordProblem(line=line, name=name, reason="out of memory", detail=detail)
        return
    except _Unusable as problem:
        yield RecordProblem(line=line, name=name, reason=problem.reason, detail=problem.detail)
        return
    for reason, detail in notes:
        action: Literal["repaired", "noted"] = "noted" if reason == _CA_ONLY_NOTE else "repaired"
        yield RecordProblem(line=line, name=name, reason=reason, detail=detail, action=action)
    yield record


def parse_record(fields: dict[str, Any], min_length: int) -> tuple[ChainRecord, list[tuple[str, str]]]:
    """The chain in a decoded line, and what was repaired in it as (reason, detail)."""
    notes: list[tuple[str, str]] = []
    name = _name(fields)
    raw_sequence = fields.get("seq")
    if not isinstance(raw_sequence, str):
        raise _Unusable("wrong type", f"seq is {_kind(raw_sequence)}, not a string")
    if len(raw_sequence) < min_length:
        raise _Unusable("too short", f"{len(raw_sequence)} residues, at least {min_length} are needed")
    sequence, unknown = normalise(raw_sequence)
    if unknown:
        letters = "".join(sorted({a for a, b in zip(raw_sequence, sequence, strict=True) if b == "X"}))
        notes.append(("unknown letters read as X", f"{unknown} of {len(sequence)}, {shortened(letters)}"))

    coords, ca_only = _coordinates(fields.get("coords"), len(sequence))
    observed = int(np.isfinite(coords[:, CA_ATOM]).all(-1).sum())
    if observed < min_length:
        raise _Unusable("no coordinates", f"{observed} Cα observed, at least {min_length} are needed")
    trace = coords[np.isfinite(coords[:, CA_ATOM]).all(-1), CA_ATOM]
    together = int((np.square(np.diff(trace, axis=0)).sum(-1) < SAME_PLACE**2).sum())
    if together > MOST_IN_ONE_PLACE * observed:
        raise _Unusable("residues in one place", f"{together} of {observed}")
    if ca_only:
        notes.append((_CA_ONLY_NOTE, ""))

    split = fields.get("split", NO_SPLIT)
    if split not in SPLITS:
        notes.append(
            ("unknown split", f"{shortened(split)} is none of {', '.join(SPLITS)}; kept under {NO_SPLIT!r}")
        )
        split = NO_SPLIT
    cath, bad_codes = _cath_codes(fields)
    if bad_codes:
        notes.append(("bad CATH codes left out", bad_codes))
    breaks, bad_breaks = _breaks(fields.get("breaks"), len(sequence))
    if bad_breaks:
        notes.append(("bad breaks left out", bad_breaks))
    cluster = fields.get("cluster")
    if cluster is not None and not _is_label(cluster):
        notes.append(("bad cluster left out", shortened(cluster)))
        cluster = None
    record = ChainRecord(
        name=name,
        sequence=sequence,
        coords=coords,
        breaks=breaks,
        cath=cath,
        split=split,
        cluster=None if cluster is None else str(cluster),
        representative=fields.get("rep") is True,
    )
    return record, notes


class _Unusable(Exception):
    """Why a record is dropped."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def _check_source(path: Path) -> None:
    if path.is_dir():
        raise SourceError(f"{path} is a folder; give the chain_set.jsonl or chain_set.jsonl.gz in it")
    if not path.exists():
        raise SourceError(f"{path} does not exist; give a chain_set.jsonl or chain_set.jsonl.gz")
    if path.stat().st_size == 0:
        raise SourceError(f"{path} is empty; fetch it again")
    try:
        with _open(path) as file:
            head = file.read(_HEAD)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return  # the stream ends within its first bytes: reported as a damaged gzip by the reader
    if len(head) < _HEAD and not head.strip():
        raise SourceError(f"{path} holds no text; fetch it again")
    if head.startswith(_LFS_POINTER):
        raise SourceError(f"{path} is a git-LFS pointer, not the data; run `git lfs pull` beside it")
    if head.startswith(_UTF16) and 4 * head.count(b"\0") > len(head):
        raise SourceError(f"{path} is UTF-16 text; save it as UTF-8")
    if not _looks_like_text(head):
        raise SourceError(f"{path} is binary, not JSON lines; give a chain_set.jsonl or chain_set.jsonl.gz")


def _looks_like_text(head: bytes) -> bool:
    """Whether most of it is text; stray bytes are the business of their own lines."""
    controls = len(head) - len(head.translate(None, _CONTROLS))
    return 2 * (head.decode("utf-8", "replace").count("\ufffd") + controls) < len(head)


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        compressed = file.read(2) == _GZIP_MAGIC
    return cast(BinaryIO, gzip.open(path, "rb")) if compressed else path.open("rb")


def _json_object(text: bytes) -> dict[str, Any]:
    if not text.strip():
        raise _Unusable("empty line")
    try:
        fields = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        # ValueError covers bad UTF-8, bad JSON, and integers of more digits than Python reads.
        cut = "" if text.endswith(b"\n") else "; it is the last line, is the file cut short?"
        raise _Unusable("not JSON", f"{error}{cut}") from None
    if not isinstance(fields, dict):
        raise _Unusable("not an object", f"the line holds {_kind(fields)}")
    return fields


def _name(fields: dict[str, Any]) -> str:
    name = fields.get("name")
    if not isinstance(name, str):
        raise _Unusable("wrong type", f"name is {_kind(name)}, not a string")
    if not name:
        raise _Unusable("no name")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise _Unusable("wrong type", f"name {shortened(name)} is no valid Unicode") from None
    return name


def _coordinates(coords: Any, length: int) -> tuple[Float[np.ndarray, "l 4 3"], bool]:
    if not isinstance(coords, dict):
        raise _Unusable("wrong type", f"coords is {_kind(coords)}, not an object of N, CA, C, O")
    if "CA" not in coords:
        raise _Unusable(
            "no coordinates", f"coords has no CA, only {shortened(list(coords)) if coords else 'nothing'}"
        )
    result = np.full((length, len(BACKBONE_ATOMS), 3), np.nan, dtype=np.float64)
    for slot, atom in enumerate(BACKBONE_ATOMS):
        if atom in coords:
            result[:, slot] = _positions(coords[atom], atom, length)
    # An atom with one coordinate missing has no position.
    result[np.isnan(result).any(-1)] = np.nan
    wrong = np.argwhere(np.abs(result) > MAX_COORDINATE)  # False for NaN
    if len(wrong):
        residue, slot, axis = wrong[0]
        raise _Unusable(
            "impossible coordinates",
            f"{BACKBONE_ATOMS[slot]} of residue {residue} is at {result[residue, slot, axis]:g} Å, "
            f"more than {MAX_COORDINATE} Å",
        )
    others = np.delete(result, CA_ATOM, axis=1)
    return result.astype(np.float32), bool(np.isnan(others).all())


def _positions(values: Any, atom: str, length: int) -> Float[np.ndarray, "l 3"]:
    if not isinstance(values, list):
        raise _Unusable("wrong type", f"coords of {atom} is {_kind(values)}, not a list")
    if len(values) != length:
        raise _Unusable("wrong length", f"{len(values)} positions of {atom} for {length} residues")
    try:
        array = np.asarray(values)
        if array.dtype.kind == "O":
            # null is how strict JSON writes NaN; anything else that is no number stays refused
            array = np.array([[np.nan if v is None else v for v in row] for row in values])
    except (ValueError, TypeError, OverflowError):
        raise _Unusable("wrong type", f"coords of {atom} is no list of [x, y, z]") from None
    if array.dtype.kind not in "fiu" or array.shape != (length, 3) or _holds_truth(values, array):
        raise _Unusable("wrong type", f"coords of {atom} is no list of [x, y, z] in numbers")
    return array


def _holds_truth(values: list[Any], array: Float[np.ndarray, "l 3"]) -> bool:
    """Whether true or false stand among the numbers, which NumPy makes 1 and 0."""
    rows = np.flatnonzero(((array == 0) | (array == 1)).any(-1)).tolist()
    return any(type(value) is bool for row in rows for value in values[row])


def _is_label(value: Any) -> bool:
    """Whether it is a number or valid text."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return False
        return True
    return isinstance(value, int | float) and not isinstance(value, bool)


def shortened(value: Any) -> str:
    """A value from a file as a few printable words, however large it is."""
    text = _SHORT.repr(value)
    return text if len(text) <= _LONGEST_DETAIL else text[: _LONGEST_DETAIL - 1] + "…"


def _cath_codes(fields: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    codes = fields.get("CATH")
    if codes is None:
        return (), ""
    if isinstance(codes, str):
        codes = [codes]
    if not isinstance(codes, list):
        return (), f"CATH is {_kind(codes)}, not a list"
    good = tuple(code for code in codes if is_cath_code(code))
    bad = [code for code in codes if code not in good]
    return good, shortened(bad) if bad else ""


def _breaks(breaks: Any, length: int) -> tuple[tuple[int, ...], str]:
    if breaks is None:
        return (), ""
    if not isinstance(breaks, list):
        return (), f"breaks is {_kind(breaks)}, not a list"
    good = [i for i in breaks if type(i) is int and 0 <= i < length - 1]
    bad = [i for i in breaks if i not in good]
    return tuple(sorted(set(good))), f"{shortened(bad)}, a break lies in 0…{length - 2}" if bad else ""


def _kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "missing or null"
    names = {dict: "an object", list: "a list", str: "a string", bool: "true/false", int: "a number"}
    return names.get(type(value), "a number")
