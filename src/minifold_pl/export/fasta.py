"""Protein sequences from FASTA files, with errors that say where to look."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from minifold_pl.constants import AMINO_ACIDS

UNKNOWN_LETTERS: Final = "BJOUXZ"
"""Letters of the IUPAC code that stand for no single one of the 20 residues: read as unknown, ``X``."""


@dataclass(frozen=True, kw_only=True)
class SequenceRecord:
    """One sequence to predict."""

    name: str
    """First word of the header."""
    sequence: str
    """The 20 amino acids and ``X``."""
    unknown: tuple[tuple[int, str], ...] = ()
    """Place (from 1) and letter of every residue that became ``X``."""


def read_fasta(path: str | os.PathLike[str]) -> list[SequenceRecord]:
    """Every record of a FASTA file.

    Sequences may span lines, be lower case, and end in ``*``. Unknown letters become ``X``.

    Raises:
        ValueError: No file, no text, no sequence, or a character that stands for no residue; the message
            names the record, the character and its place.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ValueError(f"no FASTA file at {path}") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no text file: a FASTA file is expected (compressed? unpack it)"
        ) from error
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    if not text.strip():
        raise ValueError(f"{path} is empty: a FASTA file has a line '>name', then the sequence")
    return [parse_sequence(sequence, name=name) for name, sequence in _records(text, path)]


def parse_sequence(text: str, *, name: str = "sequence") -> SequenceRecord:
    """One sequence from text: white space is dropped, ``*`` at the end, too.

    Raises:
        ValueError: Empty, or a character that stands for no residue.
    """
    letters = "".join(text.split()).upper()
    sequence = letters.removesuffix("*")
    if not sequence:
        raise ValueError(f"record {name!r} has no sequence")
    unknown = []
    for place, letter in enumerate(sequence, start=1):
        if letter in UNKNOWN_LETTERS:
            unknown.append((place, letter))
        elif letter not in AMINO_ACIDS:
            raise ValueError(
                f"record {name!r}: {_what(letter)} at position {place} of the sequence; allowed are "
                f"{AMINO_ACIDS}, and {UNKNOWN_LETTERS} for unknown residues"
            )
    clean = "".join("X" if letter in UNKNOWN_LETTERS else letter for letter in sequence)
    return SequenceRecord(name=name, sequence=clean, unknown=tuple(unknown))


def _records(text: str, path: Path) -> Iterator[tuple[str, str]]:
    name: str | None = None
    lines: list[str] = []
    number = 0
    # Only \n, \r\n and \r end a line: str.splitlines would also cut at form feeds, hiding them.
    for count, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        if line.startswith(">"):
            if name is not None:
                yield name, "".join(lines)
            number += 1
            words = line[1:].split()
            name, lines = (words[0] if words else f"record-{number}"), []
        elif line.strip():
            if name is None:
                raise ValueError(
                    f"{path}, line {count}: a sequence before the first '>' line: is this a FASTA file?"
                )
            lines.append(line)
    if name is not None:
        yield name, "".join(lines)


def _what(letter: str) -> str:
    if letter in "-.~":
        return f"gap {letter!r}"
    if letter.isdigit():
        return f"digit {letter!r}"
    return f"character {letter!r}"
