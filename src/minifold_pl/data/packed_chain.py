"""One chain as the bytes that a store keeps of it, made where the chain is read and moved about as they are."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from minifold_pl.constants import BACKBONE_ATOMS, CA_ATOM
from minifold_pl.data.records import NO_SPLIT, ChainRecord, peptide_bonds, split_residue_id
from minifold_pl.data.store_format import HAS_BACKBONE, HAS_COORDS, HAS_RESIDUE_IDS, chain_layout
from minifold_pl.data.tokenizer import decode, residue_tokens


@dataclass(frozen=True, kw_only=True)
class PackedChain:
    """A chain's bytes (see :mod:`minifold_pl.data.store_format`), and its row of the index."""

    name: str
    content: bytes
    length: int
    """Residues."""
    breaks: int
    """How many the source names."""
    parts: int
    """``HAS_COORDS | HAS_RESIDUE_IDS | HAS_BACKBONE``."""
    crc: int
    """CRC-32 of the content."""
    cath: tuple[str, ...] = ()
    split: str = NO_SPLIT
    cluster: str | None = None
    representative: bool = False

    @property
    def sequence(self) -> str:
        """One letter a residue."""
        start = chain_layout(self.length, self.breaks, self.parts).tokens
        return decode(np.frombuffer(self.content, np.uint8, self.length, start))

    def record(self) -> ChainRecord:
        """The chain as it was packed."""
        layout = chain_layout(self.length, self.breaks, self.parts)
        shape = (self.length, len(BACKBONE_ATOMS), 3)
        coords = np.full(shape, np.nan, dtype=np.float32)
        if self.parts & HAS_COORDS:
            coords = np.frombuffer(self.content, "<f4", coords.size).reshape(shape)
        ids: tuple[str, ...] = ()
        if self.parts & HAS_RESIDUE_IDS:
            numbers = np.frombuffer(self.content, "<i4", self.length, layout.numbers).tolist()
            codes = self.content[layout.insertions : layout.insertions + self.length]
            ids = tuple(f"{n}{chr(c) if c else ''}" for n, c in zip(numbers, codes, strict=True))
        return ChainRecord(
            name=self.name,
            sequence=self.sequence,
            coords=coords,
            breaks=tuple(np.frombuffer(self.content, "<u4", self.breaks, layout.breaks).tolist()),
            cath=self.cath,
            split=self.split,
            cluster=self.cluster,
            representative=self.representative,
            residue_ids=ids,
        )


def pack(record: ChainRecord) -> PackedChain:
    """A record's bytes."""
    numbers, insertions = np.zeros(len(record), dtype=np.int32), np.zeros(len(record), dtype=np.uint8)
    if record.residue_ids:
        ids = [split_residue_id(residue_id) for residue_id in record.residue_ids]
        numbers[:] = [number for number, _ in ids]
        insertions[:] = [ord(code) if code else 0 for _, code in ids]
    (packed,) = pack_rows(
        [record.name],
        record.sequence,
        record.coords,
        numbers,
        insertions,
        [0, len(record)],
        numbered=[bool(record.residue_ids)],
        breaks=record.breaks,
    )
    return replace(
        packed,
        cath=record.cath,
        split=record.split,
        cluster=record.cluster,
        representative=record.representative,
    )


def pack_rows(
    names: Sequence[str],
    sequences: str,
    coords: Float[np.ndarray, "l 4 3"],
    numbers: Int[np.ndarray, " l"],
    insertions: UInt8[np.ndarray, " l"],
    edges: Sequence[int],
    *,
    numbered: Sequence[bool],
    breaks: tuple[int, ...] = (),
) -> Iterator[PackedChain]:
    """Chains whose residues are given end to end, from one of ``edges`` to the next. Nothing is checked.

    Args:
        names: Of the chains.
        sequences: Their letters.
        coords: N, Cα, C, O in Å, float32.
        numbers: Residue numbers.
        insertions: Insertion codes, 0 for none.
        edges: Where each begins, and the last one ends.
        numbered: Whether the chain's residue numbers are known.
        breaks: What the source says of chain breaks; of a single chain only.
    """
    known = (coords == coords).any(-1)
    bonded = peptide_bonds(coords, breaks)
    bonded[[edge - 1 for edge in edges[1:] if edge]] = False
    xyz = _bytes(coords.astype("<f4", copy=False))
    number = _bytes(numbers.astype("<i4", copy=False))
    token, bond, code = _bytes(residue_tokens(sequences)), _bytes(bonded), _bytes(insertions)
    row = xyz.nbytes // max(len(coords), 1)
    said = np.array(breaks, dtype="<u4").tobytes()
    for name, start, stop, is_numbered in zip(names, edges, edges[1:], numbered, strict=False):
        atoms = _known_atoms(known[start:stop])
        parts = (HAS_COORDS if atoms else 0) | (HAS_RESIDUE_IDS if is_numbered else 0)
        parts |= HAS_BACKBONE if atoms - {CA_ATOM} else 0
        pieces = [
            xyz[row * start : row * stop] if atoms else b"",
            number[4 * start : 4 * stop] if is_numbered else b"",
            said,
            token[start:stop],
            bond[start:stop],
            code[start:stop] if is_numbered else b"",
        ]
        size = chain_layout(stop - start, len(breaks), parts).end
        content = b"".join(pieces).ljust(size, b"\0")
        yield PackedChain(
            name=name,
            content=content,
            length=stop - start,
            breaks=len(breaks),
            parts=parts,
            crc=zlib.crc32(content),
        )


def _bytes(column: np.ndarray) -> memoryview:
    return memoryview(column.tobytes())


def _known_atoms(known: Bool[np.ndarray, "l 4"]) -> set[int]:
    """Which of the backbone's atoms any residue has."""
    # The first residue nearly always settles it.
    there = known[:1].any(0)
    if np.count_nonzero(there) < len(BACKBONE_ATOMS):
        there = known.any(0)
    return set(np.flatnonzero(there).tolist())
