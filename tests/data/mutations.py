"""Damage of every kind, drawn from a seed, and what must hold of whatever is read afterwards."""

from __future__ import annotations

import gzip
import json
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from minifold_pl.data.cath_domains import parse_line, read_cath_domains
from minifold_pl.data.chain_set import MAX_COORDINATE
from minifold_pl.data.outcome import Outcome
from minifold_pl.data.prepare import prepare
from minifold_pl.data.read_source import MIN_COMPLETE, read_block, read_content_of
from minifold_pl.data.store import ChainStore
from minifold_pl.data.structure_file import StructureFileError, parse_structure

SECONDS = 5.0
ODD_FIELDS = (
    b"nan", b"-inf", b"1e400", b"", b"-", b"?", b".", b"99999999999999999999", b"-0", b"0x1F", b"1.2.3", b"\xff\xfe",
    b"'", b'"', b";", b"ALA", b"UNK", b"A", b"loop_", b"data_x", b"null", b"true", b"{}", b"[]", b"[[[[", b"\\u0000",
    b"-999", b"9999999", b"ATOM  ", b"HETATM", b"TER", b"MODEL", b"ENDMDL",
)  # fmt: skip


def flip_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    out = bytearray(data)
    for place in rng.integers(len(out), size=rng.integers(1, 20)):
        out[place] ^= 1 << int(rng.integers(8))
    return bytes(out)


def overwrite_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(len(data)))
    noise = rng.integers(256, size=rng.integers(1, 200)).astype(np.uint8).tobytes()
    return data[:start] + noise + data[start + len(noise) :]


def cut_short(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data))]


def drop_piece(data: bytes, rng: np.random.Generator) -> bytes:
    start, stop = sorted(rng.integers(len(data) + 1, size=2).tolist())
    return data[:start] + data[min(stop, start + 5000) :]


def repeat_piece(data: bytes, rng: np.random.Generator) -> bytes:
    start, stop = sorted(rng.integers(len(data) + 1, size=2).tolist())
    piece = data[start : min(stop, start + 5000)]
    return data[:start] + piece * int(rng.integers(2, 5)) + data[start:]


def _lines(change: Callable[[list[bytes], np.random.Generator], None]) -> Callable[..., bytes]:
    def mutate(data: bytes, rng: np.random.Generator) -> bytes:
        lines = data.split(b"\n")
        for _ in range(rng.integers(1, 10)):
            change(lines, rng)
        return b"\n".join(lines)

    mutate.__name__ = change.__name__.strip("_")
    return mutate


def _cut_line(lines: list[bytes], rng: np.random.Generator) -> None:
    at = rng.integers(len(lines))
    lines[at] = lines[at][: rng.integers(len(lines[at]) + 1)]


def _drop_line(lines: list[bytes], rng: np.random.Generator) -> None:
    if len(lines) > 1:
        del lines[rng.integers(len(lines))]


def _repeat_line(lines: list[bytes], rng: np.random.Generator) -> None:
    at = rng.integers(len(lines))
    lines.insert(rng.integers(len(lines)), lines[at])


def _swap_lines(lines: list[bytes], rng: np.random.Generator) -> None:
    a, b = rng.integers(len(lines), size=2)
    lines[a], lines[b] = lines[b], lines[a]


def _replace_field(lines: list[bytes], rng: np.random.Generator) -> None:
    at = rng.integers(len(lines))
    fields = lines[at].split(b" ") if b" " in lines[at] else lines[at].split(b",")
    joint = b" " if b" " in lines[at] else b","
    fields[rng.integers(len(fields))] = ODD_FIELDS[rng.integers(len(ODD_FIELDS))]
    lines[at] = joint.join(fields)


def _replace_columns(lines: list[bytes], rng: np.random.Generator) -> None:
    """As a field of a PDB file: the line keeps its width."""
    at = rng.integers(len(lines))
    line = lines[at]
    start = int(rng.integers(len(line) + 1))
    field = ODD_FIELDS[rng.integers(len(ODD_FIELDS))]
    lines[at] = line[:start] + field + line[start + len(field) :]


TEXT = [
    flip_bytes,
    overwrite_bytes,
    cut_short,
    drop_piece,
    repeat_piece,
    *map(_lines, (_cut_line, _drop_line, _repeat_line, _swap_lines, _replace_field, _replace_columns)),
]


def mutated(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Damaged data and what was done to it; a third of it is damaged inside a gzip file."""
    packing = rng.integers(6)
    chosen = TEXT[rng.integers(len(TEXT))]
    out = chosen(data, rng)
    if rng.random() < 0.3:
        out = TEXT[rng.integers(len(TEXT))](out, rng) if out else out
    if packing == 0:
        return f"{chosen.__name__}, gzipped", gzip.compress(out, 1, mtime=0)
    if packing == 1:
        packed = gzip.compress(data, 1, mtime=0)
        return f"gzip, {chosen.__name__}", chosen(packed, rng)
    return chosen.__name__, out


def check_many(path: str, first: int, count: int) -> list[str]:
    """Damage a file in ``count`` ways, seeds from ``first`` on; what was wrong with what was read."""
    data = Path(path).read_bytes()
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    check = CHECKS.get(Path(path).suffix, _structure_told)
    wrong = []
    for seed in range(first, first + count):
        how, damaged = mutated(data, np.random.default_rng([seed, 7]))
        started = time.monotonic()
        try:
            told = check(damaged, data)
        except Exception as error:  # a traceback is what must not be
            told = [f"{type(error).__name__}: {error}"]
        if (seconds := time.monotonic() - started) > SECONDS:
            told.append(f"took {seconds:.1f} s")
        wrong += [f"{Path(path).name}, seed {seed}, {how}: {what}" for what in told]
    return wrong


def _structure_told(content: bytes, sound: bytes) -> list[str]:
    entries = read_content_of(content, "1abc", 4, MIN_COMPLETE)
    wrong = _unsound(Outcome(entries))
    try:
        found = parse_structure(content, "1abc")
    except StructureFileError as error:
        if len(str(error).splitlines()) != 1 or not str(error).isprintable():
            wrong.append(f"reason {str(error)!r}")
        return wrong
    for chain in found.chains:
        length = len(chain.sequence)
        if not (
            chain.coords.shape == (length, 4, 3) and len(chain.residue_ids) == length == len(chain.numbers)
        ):
            wrong.append(f"chain {chain.name!r} of {length} residues has the wrong shape")
        if not set(chain.sequence) <= set("ACDEFGHIKLMNPQRSTVWYX"):
            wrong.append(f"sequence {chain.sequence!r}")
        if any(not 0 <= i < length - 1 for i in chain.breaks):
            wrong.append(f"breaks {chain.breaks}")
    return wrong


def _unhurt(content: bytes, sound: bytes, joint: bytes) -> list[bytes] | None:
    """Records of the sound file that are whole in the damaged one; None where compressed data are damaged."""
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            return None
    left = set(content.strip().split(joint))
    return [record for record in sound.strip().split(joint) if record in left]


def _chain_set_told(content: bytes, sound: bytes) -> list[str]:
    """The lines by themselves, and the file as ``data prepare`` takes it."""
    wrong = []
    if not content.startswith(b"\x1f\x8b"):
        wrong += _unsound(Outcome.decoded(read_block(content, 1, 4)))
    lines = _unhurt(content, sound, b"\n")
    names = [json.loads(line)["name"] for line in lines] if lines else []
    return wrong + _prepared_told(content, "chain_set.jsonl", names)


def _table_told(content: bytes, sound: bytes) -> list[str]:
    """A table of sequences with its header in place."""
    lines = _unhurt(content, sound, b"\n") or []
    head, *rows = sound.splitlines()
    text = gzip.decompress(content) if lines and content.startswith(b"\x1f\x8b") else content
    names = [line.split(b"\t")[0].decode() for line in lines if line in rows]
    return _prepared_told(content, "sequences.tsv", names if text.startswith(head + b"\n") else [])


def _fasta_told(content: bytes, sound: bytes) -> list[str]:
    """Entries, the first of which gives the format away."""
    entries = _unhurt(content, sound, b"\n>") or []
    text = gzip.decompress(content) if entries and content.startswith(b"\x1f\x8b") else content
    names = [entry.split()[0].lstrip(b">").decode() for entry in entries]
    return _prepared_told(content, "sequences.fasta", names if text.startswith(b">") else [])


def _prepared_told(content: bytes, file: str, names: list[str]) -> list[str]:
    """What ``data prepare`` makes of a file; the chains of these names are sound, and must be kept."""
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / file, Path(folder) / "store"
        path.write_bytes(content)
        try:
            report = prepare(path, out)
        except ValueError as error:
            told = str(error)
            if names or len(told.splitlines()) != 1:
                return [f"is refused with {told!r} though {names} are sound"]
            return []
        store = ChainStore.open(out)
        store.verify()
        wrong = [f"sound {name} is lost" for name in set(names) - set(store.names)]
        if len(store) != report.kept:
            wrong.append(f"{len(store)} chains, {report.kept} told of")
        return wrong


def _domains_told(content: bytes, sound: bytes) -> list[str]:
    """A list of CATH domains."""
    lines = _unhurt(content, sound, b"\n") or []
    wanted = {domain.name: domain for line in lines for domain in parse_line(line.decode().split())}
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        try:
            table = read_cath_domains(file.name)
        except ValueError as error:
            told = str(error)
            return [f"is refused with {told!r}"] if wanted or len(told.splitlines()) != 1 else []
    wrong = [f"sound {name} is lost" for name in wanted.keys() - table.domains.keys()]
    if any(not problem.isprintable() or len(problem) > 1000 for problem in table.problems):
        wrong.append(f"told as {table.problems!r}")
    return wrong


CHECKS: dict[str, Callable[[bytes, bytes], list[str]]] = {
    ".jsonl": _chain_set_told, ".tsv": _table_told, ".fasta": _fasta_told, ".cath": _domains_told,
}  # fmt: skip
"""By the ending of the file that is damaged; others are structure files."""


def _unsound(outcome: Outcome) -> list[str]:
    wrong = []
    again = Outcome.decoded(outcome.encoded())
    if again != outcome:
        wrong.append("is another after the journal")
    for entry in again.entries:
        for problem in entry.problems:
            told = problem.told("file")
            if len(told.splitlines()) != 1 or len(told) > 1000:
                wrong.append(f"is told as {told!r}")
        if entry.chain is None:
            if not entry.problems:
                wrong.append("neither a chain nor a reason")
            continue
        record = entry.chain.record()  # refuses wrong shapes, breaks, residue numbers
        coords = record.coords
        if np.isinf(coords).any() or np.nanmax(np.abs(coords)) > MAX_COORDINATE:
            wrong.append(f"{record.name}: coordinates of {np.nanmax(np.abs(coords))} Å")
        partial = np.isnan(coords).any(-1) != np.isnan(coords).all(-1)
        if partial.any():
            wrong.append(f"{record.name}: an atom with half a position")
        if (~np.isnan(coords[:, 1, 0])).sum() < 4:
            wrong.append(f"{record.name}: hardly any Cα")
        if not set(record.sequence) <= set("ACDEFGHIKLMNPQRSTVWYX"):
            wrong.append(f"{record.name}: sequence {record.sequence!r}")
    return wrong
