"""The lines of a structure file that a backbone is read from.

gemmi reads every atom of a file; of an entry of the archive two thirds are side chains and waters. To leave their
lines out beforehand takes a tenth of the time that it saves. It is done only where every line of the file, or of the
atoms' table, is as long as the others, so that columns are where they seem to be: as the archive and most programs
write them.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np
from jaxtyping import Bool, UInt64

_WIDTHS: Final = range(67, 120)
"""Bytes a line of a PDB file, its end included: coordinates and occupancy must be there."""
_WORTH: Final = 0.8
"""Share of lines to be kept from which leaving out the others is not worth it."""
_LONGEST: Final = 8
_SPACE: Final = ord(" ")


def _code(word: str) -> int:
    return int.from_bytes(word.encode().ljust(_LONGEST, b"\0"), "little")


_ATOM, _HETATM, _REMARK, _465 = map(_code, ("ATOM", "HETA", "REMA", " 465"))
_RECORDS: Final = tuple(map(_code, ("TER ", "MODE", "ENDM", "SEQR", "MODR", "END ")))
_PDB_NAMES: Final = tuple(map(_code, (" N  ", " CA ", " C  ", " O  ")))
_PDB_NAME_TEXTS: Final = (b" N  ", b" CA ", b" C  ", b" O  ")
_SAMPLE: Final = 32
_PDB_SUGAR: Final = _code(" C1'")
_MMCIF_NAMES: Final = tuple(map(_code, ("N  ", "CA ", "C  ", "O  ")))
_MMCIF_SUGAR: Final = _code('"C1\'"')
_WATER: Final = _code("HOH")
_ATOM_SITE: Final = b"\n_atom_site."
_TOKEN: Final = re.compile(rb"'[^'\n]*'(?=\s)|\"[^\"\n]*\"(?=\s)|\S+")
_ROW: Final = (b"ATOM ", b"HETATM ")


class _Lines:
    """Lines of one length within a text, and columns of theirs as numbers; nothing is copied."""

    def __init__(self, text: bytes, start: int, stop: int, width: int) -> None:
        self._text, self._start, self._width = text, start, width
        self.count = (stop - start) // width
        self.even = (stop - start) % width == 0 and bool((self.column(width - 1, 1) == ord("\n")).all())

    def column(self, place: int, size: int) -> UInt64[np.ndarray, " n"]:
        """``size`` bytes of every line from ``place`` on: 1, 4, or any number up to 8 that ends within the line."""
        dtype = f"<u{1 if size == 1 else 4 if size <= 4 else 8}"
        # What a longer number would read of the last line's end is cut off below.
        room = len(self._text) - (self._start + place + self._width * (self.count - 1))
        rest = self._text + b"\0" * _LONGEST if room < np.dtype(dtype).itemsize else self._text
        column = np.ndarray((self.count,), dtype, rest, self._start + place, (self._width,))
        return column if size in (1, 4, 8) else column & ((1 << 8 * size) - 1)

    def chosen(self, keep: Bool[np.ndarray, " n"]) -> bytes:
        """Some of the lines."""
        lines = np.frombuffer(self._text, np.uint8, self.count * self._width, self._start)
        return lines.reshape(self.count, self._width)[keep].tobytes()


def pdb_backbone_lines(text: bytes) -> bytes | None:
    """A PDB file's text with backbone atoms alone; None where lines differ in length or there is little to gain.

    Every chain keeps a line, and nucleic acids one a residue; remarks but for 465 are left out, too.
    """
    width = text.find(b"\n") + 1
    if width not in _WIDTHS:
        return None
    lines = _Lines(text, 0, len(text), width)
    if _sample(text, width) > _WORTH or not lines.even:
        return None
    record = lines.column(0, 4)
    het = record == _HETATM
    atom = (record == _ATOM) | het
    name = lines.column(12, 4)
    keep = _is_one_of(name, _PDB_NAMES) & atom
    others = (~atom).nonzero()[0]
    if keep.sum() + len(others) > _WORTH * lines.count:
        return None
    keep &= ~(het & (lines.column(17, 3) == _WATER))
    _keep_a_line_of_every_chain(keep, atom, lines.column(21, 1), name == _PDB_SUGAR)
    keep[others] = _is_one_of(record[others], _RECORDS)
    remarks = others[record[others] == _REMARK]
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
    tags, start = _atom_site_tags(text)
    if not tags or not text.startswith(_ROW, start):
        return None
    width = text.find(b"\n", start) + 1 - start
    stop = text.find(b"\n#", start) + 1 or len(text)
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
    if not lines.even or not all(_is_column(lines, *span) for span in (group, name, component, chain)):
        return None
    het = lines.column(group[0], 4) == _HETATM
    atom = (lines.column(group[0], 4) == _ATOM) | het
    keep = _is_one_of(lines.column(name[0], 3), _MMCIF_NAMES)
    if not atom.all() or keep.sum() > _WORTH * lines.count:
        return None
    keep &= ~(het & (lines.column(component[0], 3) == _WATER))
    sugar = lines.column(name[0], min(name[1], _LONGEST)) == _MMCIF_SUGAR
    _keep_a_line_of_every_chain(keep, atom, lines.column(*chain), sugar)
    return b"".join([text[:start], lines.chosen(keep), text[stop:]])


def _atom_site_tags(text: bytes) -> tuple[list[bytes], int]:
    """Names of the columns of the atoms' table, and where its first row begins."""
    tags: list[bytes] = []
    place = text.find(_ATOM_SITE) + 1
    while place and text.startswith(_ATOM_SITE[1:], place):
        end = text.find(b"\n", place)
        tags.append(text[place + len(_ATOM_SITE) - 1 : end].strip().lower())
        place = end + 1
    return tags, place


def _is_column(lines: _Lines, place: int, width: int) -> bool:
    """Whether something stands at ``place`` in all lines, and spaces before and at the end of the column."""
    if (
        not (lines.column(place, 1) > _SPACE).all()
        or not (lines.column(place + width - 1, 1) <= _SPACE).all()
    ):
        return False
    return place == 0 or bool((lines.column(place - 1, 1) == _SPACE).all())


def _keep_a_line_of_every_chain(
    keep: Bool[np.ndarray, " n"],
    atom: Bool[np.ndarray, " n"],
    chain: UInt64[np.ndarray, " n"],
    sugar: Bool[np.ndarray, " n"],
) -> None:
    """Keep one atom a nucleotide, and one of a chain of other things, since all chains are told of."""
    gone = set(chain[atom].tolist()) - set(chain[keep].tolist())
    if not gone:
        return
    keep |= atom & sugar & _is_one_of(chain, tuple(gone))
    for code in gone - set(chain[keep].tolist()):
        keep[(atom & (chain == code)).argmax()] = True


def _is_one_of(codes: UInt64[np.ndarray, " n"], wanted: tuple[int, ...]) -> Bool[np.ndarray, " n"]:
    found = codes == wanted[0]
    for code in wanted[1:]:
        found |= codes == code
    return found
