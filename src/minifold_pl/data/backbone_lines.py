"""The lines of a structure file that a backbone is read from.

gemmi reads every atom of a file; of an entry of the archive two thirds are side chains and waters. To leave their
lines out beforehand takes a tenth of the time that it saves. It is done only where every line of the file, or of the
atoms' table, is as long as the others, so that columns are where they seem to be: as the archive and most programs
write them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Bool, UInt64

_WIDTHS: Final = range(67, 120)
"""Bytes a line of a PDB file, its end included: coordinates and occupancy must be there."""
_WORTH: Final = 0.8
"""Share of lines to be kept from which leaving out the others is not worth it."""
_LONGEST: Final = 8
_SPACE: Final = ord(" ")
_LINE_END: Final = ord("\n")


def _code(word: str) -> int:
    return int.from_bytes(word.encode().ljust(_LONGEST, b"\0"), "little")


_ATOM, _HETATM, _REMARK, _465 = map(_code, ("ATOM", "HETA", "REMA", " 465"))
_RECORDS: Final = tuple(map(_code, ("TER ", "MODE", "ENDM", "SEQR", "MODR", "END ")))
_PDB_NAMES: Final = tuple(map(_code, (" N  ", " CA ", " C  ", " O  ")))
_PDB_SHIFTED: Final = frozenset(map(_code, ("N   ", "CA  ", "C   ", "O   ")))
_FIRST: Final = 0xFF
_SPACES: Final = _code("  ")
_PDB_NAME_TEXTS: Final = (b" N  ", b" CA ", b" C  ", b" O  ")
_SAMPLE: Final = 32
_PDB_SUGAR: Final = _code(" C1'")
_MMCIF_NAMES: Final = tuple(map(_code, ("N  ", "CA ", "C  ", "O  ")))
_MMCIF_SUGAR: Final = _code('"C1\'"')
_WATER: Final = _code("HOH")
_ATOM_SITE: Final = b"\n_atom_site."
_ANISOTROPY: Final = b"\n_atom_site_anisotrop."
_TOKEN: Final = re.compile(rb"'[^'\n]*'(?=\s)|\"[^\"\n]*\"(?=\s)|\S+")
_ROW: Final = (b"ATOM ", b"HETATM ")


class _Lines:
    """Lines of one length within a text, and columns of theirs as numbers; nothing is copied."""

    def __init__(self, text: bytes, start: int, stop: int, width: int) -> None:
        self._text, self._start, self._width = text, start, width
        self.count = (stop - start) // width
        ends = self.column(width - 1, 1)
        self.even = (stop - start) % width == 0 and not np.count_nonzero(ends != _LINE_END)

    def column(self, place: int, size: int) -> UInt64[np.ndarray, " n"]:
        """``size`` bytes of every line from ``place`` on: 1, 4, or any number up to 8 that ends within the line."""
        dtype = f"<u{1 if size == 1 else 4 if size <= 4 else 8}"
        # What a longer number would read of the last line's end is cut off below.
        room = len(self._text) - (self._start + place + self._width * (self.count - 1))
        rest = self._text + b"\0" * _LONGEST if room < np.dtype(dtype).itemsize else self._text
        column = np.ndarray((self.count,), dtype, rest, self._start + place, (self._width,))
        return column if size in (1, 4, 8) else column & ((1 << 8 * size) - 1)

    def are_columns(self, spans: Sequence[tuple[int, int]]) -> bool:
        """Whether in all lines something stands at the place of each span, and spaces before it and at its end."""
        firsts = [place for place, _ in spans]
        ends = [place + size - 1 for place, size in spans]
        before = [place - 1 for place in firsts if place]
        lines = np.frombuffer(self._text, np.uint8, self.count * self._width, self._start)
        letters = lines.reshape(self.count, self._width)[:, [*firsts, *ends, *before]]
        first, end, gap = np.split(letters, [len(firsts), 2 * len(firsts)], axis=1)
        return not ((first <= _SPACE).any() or (end > _SPACE).any() or (gap != _SPACE).any())

    def chosen(self, keep: Bool[np.ndarray, " n"]) -> bytes:
        """Some of the lines."""
        lines = np.frombuffer(self._text, np.uint8, self.count * self._width, self._start)
        return lines.reshape(self.count, self._width).take(keep.nonzero()[0], 0).tobytes()


def pdb_backbone_lines(text: bytes) -> bytes | None:
    """A PDB file's text with backbone atoms alone.

    Every chain keeps a line, and nucleic acids one a residue; remarks but for 465 are left out, too. None where there
    is little to gain, lines differ in length, or names of atoms begin in another column than the format has them.
    """
    width = text.find(b"\n") + 1
    if width not in _WIDTHS:
        return None
    lines = _Lines(text, 0, len(text), width)
    if _sample(text, width) > _WORTH or not lines.even:
        return None
    record, name = lines.column(0, 4).copy(), lines.column(12, 4).copy()
    het = record == _HETATM
    atom = record == _ATOM
    shifted = atom & (name >> 16 == _SPACES) & (name & _FIRST != _SPACE)  # of HETATM it is calcium
    if not _PDB_SHIFTED.isdisjoint(name[shifted].tolist()):
        return None
    atom |= het
    keep = _is_one_of(name, _PDB_NAMES)
    keep &= atom
    others = (~atom).nonzero()[0]
    if np.count_nonzero(keep) + len(others) > _WORTH * lines.count:
        return None
    _leave_water_out(keep, het, lines, 17)
    _keep_a_line_of_every_chain(keep, atom, lines.column(21, 1), name == _PDB_SUGAR)
    record = record[others]
    keep[others] = _is_one_of(record, _RECORDS)
    remarks = others[record == _REMARK]
    keep[remarks] = lines.column(6, 4)[remarks] == _465
    return lines.chosen(keep)


def _sample(text: bytes, width: int) -> float:
    """Share of backbone atoms among some lines of a PDB file: most of what programs write is known at once."""
    count = len(text) // width
    places = range(0, count * width, max(1, count // _SAMPLE) * width)
    atoms = [text[place + 12 : place + 16] for place in places if text.startswith(b"ATOM", place)]
    return sum(name in _PDB_NAME_TEXTS for name in atoms) / max(len(atoms), 1)


def mmcif_backbone_lines(text: bytes) -> bytes | None:
    """An mmCIF file's text with backbone atoms alone; None where they are in no columns or there is little to gain.

    Every chain keeps a row, and nucleic acids one a residue.
    """
    tags, start = _tags(text, _ATOM_SITE)
    if not tags or not text.startswith(_ROW, start):
        return None
    width = text.find(b"\n", start) + 1 - start
    stop = _end_of_table(text, start)
    places = [token.start() - start for token in _TOKEN.finditer(text, start, start + width)]
    if width < 1 or stop - start < width or len(places) != len(tags):
        return None
    lines = _Lines(text, start, stop, width)
    spans = {
        tag: (place, after - place)
        for tag, place, after in zip(tags, places, [*places[1:], width], strict=True)
    }
    chain = spans.get(b"auth_asym_id") or spans.get(b"label_asym_id")
    group, name, component = map(spans.get, (b"group_pdb", b"label_atom_id", b"label_comp_id"))
    if group is None or name is None or component is None or chain is None or chain[1] > _LONGEST:
        return None
    if not lines.even or not lines.are_columns((group, name, component, chain)):
        return None
    record = lines.column(group[0], 4).copy()
    het = record == _HETATM
    atom = het | (record == _ATOM)
    keep = _is_one_of(lines.column(name[0], 3), _MMCIF_NAMES)
    if not atom.all() or np.count_nonzero(keep) > _WORTH * lines.count:
        return None
    _leave_water_out(keep, het, lines, component[0])
    sugar = lines.column(name[0], min(name[1], _LONGEST)) == _MMCIF_SUGAR
    _keep_a_line_of_every_chain(keep, atom, lines.column(*chain), sugar)
    return b"".join([text[:start], lines.chosen(keep), _without_anisotropy(text[stop:])])


def _without_anisotropy(text: bytes) -> bytes:
    """The text with one row of the table of anisotropic displacements, which is as long as that of the atoms."""
    tags, start = _tags(text, _ANISOTROPY)
    width = text.find(b"\n", start) + 1 - start
    stop = _end_of_table(text, start)
    if not tags or width < 1 or stop - start < width or len(text[start : start + width].split()) != len(tags):
        return text
    return text[: start + width] + text[stop:] if _Lines(text, start, stop, width).even else text


def _end_of_table(text: bytes, start: int) -> int:
    """Where the first line with ``#`` begins, or the text ends."""
    place = text.find(b"#", start)  # one letter is found far faster than two
    while place >= 0 and text[place - 1] != _LINE_END:
        place = text.find(b"#", place + 1)
    return place if place >= 0 else len(text)


def _tags(text: bytes, category: bytes) -> tuple[list[bytes], int]:
    """Names of the columns of a table, and where its first row begins."""
    tags: list[bytes] = []
    place = text.find(category) + 1
    while place and text.startswith(category[1:], place):
        end = text.find(b"\n", place)
        tags.append(text[place + len(category) - 1 : end].strip().lower())
        place = end + 1
    return tags, place


def _leave_water_out(
    keep: Bool[np.ndarray, " n"], het: Bool[np.ndarray, " n"], lines: _Lines, residue: int
) -> None:
    """Water's O is called as that of a residue; ``residue``: the column of its name."""
    found = (keep & het).nonzero()[0]
    if len(found):
        keep[found] = lines.column(residue, 3)[found] != _WATER


def _keep_a_line_of_every_chain(
    keep: Bool[np.ndarray, " n"],
    atom: Bool[np.ndarray, " n"],
    chain: UInt64[np.ndarray, " n"],
    sugar: Bool[np.ndarray, " n"],
) -> None:
    """Keep one atom a nucleotide, and one of a chain of other things, since all chains are told of."""
    gone = _distinct(chain[atom]) - _distinct(chain[keep])
    if not gone:
        return
    keep |= atom & sugar & _is_one_of(chain, tuple(gone))
    for code in gone - _distinct(chain[keep]):
        keep[(atom & (chain == code)).argmax()] = True


def _distinct(codes: UInt64[np.ndarray, " n"]) -> set[int]:
    """The different numbers of a column that changes seldom."""
    changes = (codes[1:] != codes[:-1]).nonzero()[0] + 1
    return {*codes[:1].tolist(), *codes[changes].tolist()}


def _is_one_of(codes: UInt64[np.ndarray, " n"], wanted: tuple[int, ...]) -> Bool[np.ndarray, " n"]:
    found = codes == wanted[0]
    for code in wanted[1:]:
        found |= codes == code
    return found
