"""One chain as the bytes that a store keeps of it, made where the chain is read and moved about as they are."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

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
    numbers = insertions = None
    if record.residue_ids:
        ids = [split_residue_id(residue_id) for residue_id in record.residue_ids]
        numbers = np.array([number for number, _ in ids], dtype=np.int32)
        insertions = np.array([ord(code) if code else 0 for _, code in ids], dtype=np.uint8)
    return pack_columns(
        record.name,
        record.sequence,
        record.coords,
        numbers,
        insertions,
        breaks=record.breaks,
        cath=record.cath,
        split=record.split,
        cluster=record.cluster,
        representative=record.representative,
    )


def pack_columns(
    name: str,
    sequence: str,
    coords: Float[np.ndarray, "l 4 3"],
    numbers: Int[np.ndarray, " l"] | None,
    insertions: Int[np.ndarray, " l"] | None,
    *,
    breaks: tuple[int, ...] = (),
    cath: tuple[str, ...] = (),
    split: str = NO_SPLIT,
    cluster: str | None = None,
    representative: bool = False,
) -> PackedChain:
    """:func:`pack` of a record's fields, with residue numbers and insertion codes (0 for none) as columns.

    Both are None where residue numbers are unknown. Nothing is checked.
    """
    flat = coords.reshape(len(coords), -1)  # a row a residue
    known = {atom for atom in range(len(BACKBONE_ATOMS)) if _any_known(flat[:, 3 * atom : 3 * atom + 3])}
    parts = (HAS_COORDS if known else 0) | (0 if numbers is None else HAS_RESIDUE_IDS)
    parts |= HAS_BACKBONE if known - {CA_ATOM} else 0
    pieces = [
        np.ascontiguousarray(coords, dtype="<f4").tobytes() if known else b"",
        b"" if numbers is None else numbers.astype("<i4").tobytes(),
        np.array(breaks, dtype="<u4").tobytes(),
        residue_tokens(sequence).tobytes(),
        peptide_bonds(coords, breaks).tobytes(),
        b"" if insertions is None else insertions.astype(np.uint8).tobytes(),
    ]
    size = chain_layout(len(sequence), len(breaks), parts).end
    content = b"".join(pieces).ljust(size, b"\0")
    return PackedChain(
        name=name,
        content=content,
        length=len(sequence),
        breaks=len(breaks),
        parts=parts,
        crc=zlib.crc32(content),
        cath=cath,
        split=split,
        cluster=cluster,
        representative=representative,
    )


def _any_known(values: Float[np.ndarray, "l 3"]) -> bool:
    # The first residue nearly always settles it.
    return bool((values[:1] == values[:1]).any()) or not bool(np.isnan(values).all())
