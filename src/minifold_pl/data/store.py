"""Memory-mapped chains on disk: opened at once, read without parsing.

:mod:`minifold_pl.data.store_format` describes the files, :mod:`minifold_pl.data.store_writer` writes them. All
of them are mapped read-only, so that loader workers share their pages, and nothing is read before it is asked
for: a store of a million chains opens as fast as one of a thousand.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from minifold_pl.constants import BACKBONE_ATOMS
from minifold_pl.data.cath import architecture, cath_class, label_set
from minifold_pl.data.packed_chain import PackedChain
from minifold_pl.data.records import SPLITS, TRAIN, ChainRecord
from minifold_pl.data.store_format import (
    COLUMNS,
    FORMAT_VERSION,
    HAS_BACKBONE,
    HAS_COORDS,
    HAS_RESIDUE_IDS,
    INDEX,
    NO_STRING,
    STRINGS,
    ChainLayout,
    StoreError,
    chain_layout,
    check_file,
    check_sizes,
    column_offsets,
    is_store,
    read_checked,
    read_header,
    shard_name,
)
from minifold_pl.data.store_writer import StoreWriter, write_store
from minifold_pl.data.tokenizer import decode

__all__ = ["ALL", "ChainStore", "StoreError", "StoreWriter", "is_store", "write_store"]

_T = TypeVar("_T")

ALL: Final = "all"
"""In place of a split's name: every chain."""


class ChainStore:
    """Read-only view of a store; open one with :meth:`open`. Pickles as its path.

    Columns (``lengths``, ``split_ids``, ``cluster_ids``, ``representative``) are views of the mapped index.
    ``names``, ``splits``, ``clusters``, ``cath`` and ``chain_architectures`` are tuples, made when first asked
    for: at a million chains prefer the columns, :meth:`name` and :meth:`find`.
    """

    def __init__(self, path: Path, header: dict[str, Any], digest: str) -> None:
        self.path = path
        self.provenance: dict[str, Any] = header["provenance"]
        self._header, self._digest = header, digest
        self._count = int(header["chains"])
        # All at once, so that a store that is replaced meanwhile is never read half old and half new.
        index = _mapped(path / INDEX)
        self._strings = _mapped(path / STRINGS)
        self._shards = [_mapped(path / shard_name(i)) for i in range(header["shards"])]
        for shard in self._shards:
            # Chains are read in random order: the system would read 60 KB around each page of them.
            shard.madvise(mmap.MADV_RANDOM)
        offsets = column_offsets(self._count)
        self._columns: dict[str, np.ndarray] = {
            name: np.frombuffer(index, dtype, self._count, offsets[name]) for name, dtype in COLUMNS.items()
        }

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a store: maps its files, and checks all sizes and the index's checksum.

        Raises:
            StoreError: there is none at ``path``, it is of another format, or it is damaged.
        """
        path = Path(path)
        header, digest = read_header(path)
        if header["version"] != FORMAT_VERSION:
            raise StoreError(
                f"store {path} is of an earlier format (version {header['version']}); make it again, or convert it "
                f"with `minifold-pl data merge {path} --out NEW`"
            )
        try:
            check_sizes(path, header)
            for name in (INDEX, STRINGS):
                check_file(path, name, header)
            return cls(path, header, digest)
        except KeyError as missing:
            raise StoreError(
                f"store {path} is damaged: its header lacks {missing}; make the store again"
            ) from None

    @classmethod
    def _reopen(cls, path: Path, digest: str) -> Self:
        """The store that another process of this program opened and checked."""
        header, found = read_header(path)
        if found != digest:
            raise StoreError(f"store {path} was replaced while it was in use; start again")
        return cls(path, header, digest)

    def __reduce__(self) -> tuple[Callable[[Path, str], ChainStore], tuple[Path, str]]:
        return ChainStore._reopen, (self.path, self._digest)

    def verify(self) -> None:
        """Read every file and compare its checksum.

        Raises:
            StoreError: a file has changed since it was written; names it.
        """
        header, _ = read_header(self.path)
        for name in header["files"]:
            check_file(self.path, name, header)

    def check(self, chain: int) -> None:
        """Read one chain and compare its checksum: microseconds.

        Raises:
            StoreError: its bytes have changed since they were written; names it.
        """
        if zlib.crc32(self.raw(chain).data) != int(self._columns["crc"][chain]):
            shard = shard_name(int(self._columns["shard"][chain]))
            raise StoreError(
                f"store {self.path} is damaged: chain {self.name(chain)!r} in {shard} has changed; "
                "make the store again"
            )

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the store's files, those that were attached among them."""
        return tuple(self._header["files"])

    def attached(self, name: str) -> str:
        """A text that was attached to the store, after its checksum was compared.

        Raises:
            StoreError: there is none of that name, or it has changed since it was written.
        """
        return read_checked(self.path, name, self._header).decode()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, chain: int) -> ChainRecord:
        """The record as it was written; its coordinates are a read-only view."""
        return ChainRecord(
            name=self.name(chain),
            sequence=decode(self.tokens(chain)),
            coords=self.coords(chain),
            breaks=tuple(self._breaks(chain).tolist()),
            cath=self.cath_codes(chain),
            split=SPLITS[self._columns["split"][chain]],
            cluster=self.cluster(chain),
            representative=bool(self.representative[chain]),
            residue_ids=self.residue_ids(chain),
        )

    def coords(self, chain: int) -> Float[np.ndarray, "l 4 3"]:
        """N, Cα, C, O in Å, NaN where missing; a read-only view."""
        length = self._length(chain)
        shape = (length, len(BACKBONE_ATOMS), 3)
        if not self.has_coords[chain]:
            return np.broadcast_to(np.float32(np.nan), shape)
        self._will_need(chain)
        return self._part(chain, 0, np.dtype("<f4"), shape[0] * shape[1] * shape[2]).reshape(shape)

    def tokens(self, chain: int) -> UInt8[np.ndarray, " l"]:
        """Residue tokens, without CLS and EOS; a read-only view."""
        return self._part(chain, self._layout(chain).tokens, np.dtype("u1"), self._length(chain))

    def bonded(self, chain: int) -> Bool[np.ndarray, " l"]:
        """True where a residue is joined to the next; a read-only view."""
        return self._part(chain, self._layout(chain).bonded, np.dtype("?"), self._length(chain))

    def residue_ids(self, chain: int) -> tuple[str, ...]:
        """Author residue numbers with insertion codes; empty where unknown."""
        length, layout = self._length(chain), self._layout(chain)
        if not self._columns["parts"][chain] & HAS_RESIDUE_IDS:
            return ()
        numbers = self._part(chain, layout.numbers, np.dtype("<i4"), length)
        codes = self._part(chain, layout.insertions, np.dtype("u1"), length)
        pairs = zip(numbers.tolist(), codes.tolist(), strict=True)
        return tuple(f"{number}{chr(code) if code else ''}" for number, code in pairs)

    def raw(self, chain: int) -> UInt8[np.ndarray, " n"]:
        """The chain's own bytes, as its checksum covers them; a read-only view."""
        self._will_need(chain)
        return self._part(chain, 0, np.dtype("u1"), self._layout(chain).end)

    def _breaks(self, chain: int) -> Int[np.ndarray, " k"]:
        count = int(self._columns["breaks"][chain])
        return self._part(chain, self._layout(chain).breaks, np.dtype("<u4"), count)

    def _part(self, chain: int, place: int, dtype: np.dtype[Any], count: int) -> np.ndarray:
        return np.frombuffer(self._shard(chain), dtype, count, self._start(chain) + place)

    def _will_need(self, chain: int) -> None:
        """Have all of a chain read in one go."""
        start, shard = self._start(chain), self._shard(chain)
        page = start - start % mmap.PAGESIZE
        shard.madvise(mmap.MADV_WILLNEED, page, start + self._layout(chain).end - page)

    def _shard(self, chain: int) -> mmap.mmap:
        return self._shards[self._columns["shard"][chain]]

    def _start(self, chain: int) -> int:
        return int(self._columns["offset"][chain])

    def _length(self, chain: int) -> int:
        if not 0 <= chain < self._count:
            raise IndexError(f"chain {chain} of a store of {self._count}")
        return int(self._columns["length"][chain])

    def _layout(self, chain: int) -> ChainLayout:
        length = self._length(chain)
        return chain_layout(length, int(self._columns["breaks"][chain]), int(self._columns["parts"][chain]))

    def name(self, chain: int) -> str:
        """Name of a chain, without decoding the others."""
        self._length(chain)
        return self._string(int(self._columns["name"][chain])) or ""

    def cath_codes(self, chain: int) -> tuple[str, ...]:
        """CATH codes of a chain."""
        return self._codes_at(int(self._columns["cath"][chain]))

    def cluster(self, chain: int) -> str | None:
        """Cluster of a chain, None where unknown."""
        return self._string(int(self._columns["cluster"][chain]))

    def packed(self, chain: int) -> PackedChain:
        """A chain's bytes and its row of the index."""
        row = {name: int(self._columns[name][chain]) for name in ("length", "breaks", "parts", "crc")}
        return PackedChain(
            name=self.name(chain),
            content=self.raw(chain).tobytes(),
            cath=self.cath_codes(chain),
            split=SPLITS[self._columns["split"][chain]],
            cluster=self.cluster(chain),
            representative=bool(self.representative[chain]),
            **row,
        )

    def find(self, name: str) -> int:
        """Place of the chain of this name.

        Raises:
            KeyError: there is none.
        """
        text = name.encode("utf-8", "surrogatepass")
        wanted = len(text).to_bytes(4, "little") + text
        names = self._columns["name"]
        start = 0
        while (place := self._strings.find(wanted, start)) >= 0:
            chain = int(np.searchsorted(names, place))  # names are written in the chains' order
            if chain < self._count and int(names[chain]) == place:
                return chain
            start = place + 1
        raise KeyError(name)

    def _string(self, place: int) -> str | None:
        if place == NO_STRING:
            return None
        size = int.from_bytes(self._strings[place : place + 4], "little")
        return self._strings[place + 4 : place + 4 + size].decode("utf-8")

    def _codes_at(self, place: int) -> tuple[str, ...]:
        return tuple((self._string(place) or "").split())

    @property
    def lengths(self) -> Int[np.ndarray, " c"]:
        """Residues a chain."""
        return self._lengths

    @cached_property
    def _lengths(self) -> Int[np.ndarray, " c"]:
        return self._columns["length"].astype(np.int64)

    @property
    def split_ids(self) -> UInt8[np.ndarray, " c"]:
        """Place of each chain's split in ``SPLITS``."""
        return self._columns["split"]

    @property
    def representative(self) -> Bool[np.ndarray, " c"]:
        """True for the one chain that stands for its cluster."""
        return self._columns["representative"].view(np.bool_)

    @cached_property
    def has_coords(self) -> Bool[np.ndarray, " c"]:
        """False for chains known by their sequence only."""
        return (self._columns["parts"] & HAS_COORDS).astype(np.bool_)

    @cached_property
    def has_backbone(self) -> Bool[np.ndarray, " c"]:
        """False for chains of which no atom but Cα is known."""
        return (self._columns["parts"] & HAS_BACKBONE).astype(np.bool_)

    @cached_property
    def cluster_ids(self) -> Int[np.ndarray, " c"]:
        """The same number for chains of one cluster, in the order of their first chains; −1 where unknown."""
        clusters = self._columns["cluster"]
        _, ids = np.unique(clusters, return_inverse=True)
        return np.where(clusters == np.uint64(NO_STRING), -1, ids)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each chain."""
        return tuple(map(self.name, range(self._count)))

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """Split of each chain."""
        return tuple(SPLITS[i] for i in self.split_ids.tolist())

    @cached_property
    def clusters(self) -> tuple[str | None, ...]:
        """Cluster of each chain, None where unknown."""
        return self._spread("cluster", self._string)

    @cached_property
    def cath(self) -> tuple[tuple[str, ...], ...]:
        """CATH codes of each chain."""
        return self._spread("cath", self._codes_at)

    @cached_property
    def cath_classes(self) -> Int[np.ndarray, " c"]:
        """0…3 a chain, or ``NO_LABEL`` (see :func:`minifold_pl.data.cath.cath_class`)."""
        return np.array(self._spread("cath", lambda place: cath_class(self._codes_at(place))), dtype=np.int64)

    @cached_property
    def chain_architectures(self) -> tuple[str | None, ...]:
        """``3.40`` a chain, or None (see :func:`minifold_pl.data.cath.architecture`)."""
        return self._spread("cath", lambda place: architecture(self._codes_at(place)))

    def _spread(self, column: str, value: Callable[[int], _T]) -> tuple[_T, ...]:
        """``value`` of each chain's entry in a column of strings, computed once for each distinct one."""
        places, ids = np.unique(self._columns[column], return_inverse=True)
        values = [value(place) for place in places.tolist()]
        return tuple(values[i] for i in ids.tolist())

    @cached_property
    def architectures(self) -> tuple[str, ...]:
        """The label set: every architecture of the training split."""
        places = np.unique(self._columns["cath"][self.indices(TRAIN)])
        return label_set(map(self._codes_at, places.tolist()))

    def indices(self, split: str) -> Int[np.ndarray, " c"]:
        """Chains of a split, or of every split for ``all``, in the store's order.

        Raises:
            ValueError: no such split.
        """
        if split == ALL:
            return np.arange(self._count)
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}, {ALL}")
        return np.flatnonzero(self.split_ids == SPLITS.index(split))


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        if not path.stat().st_size:  # of a store without a chain; no file of length 0 can be mapped
            return mmap.mmap(-1, 1)
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
