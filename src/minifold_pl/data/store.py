"""Memory-mapped chains on disk: written atomically, opened at once, read without parsing.

A store is a folder:

| file | holds |
|---|---|
| ``store.json`` | format, counts, size and sha256 of every other file, where the chains came from |
| ``index.json`` | one column a label: names, lengths, splits, CATH codes, clusters, breaks |
| ``coords.f32`` | float32, residues of all chains × 4 atoms × 3, Å, NaN where missing |
| ``tokens.u8`` | one residue token a residue |
| ``bonded.u8`` | 1 where a residue is joined to the next one of its chain |

The three arrays are mapped read-only, so that loader workers share their pages.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from minifold_pl.constants import BACKBONE_ATOMS
from minifold_pl.data.cath import architecture, cath_class, label_set
from minifold_pl.data.records import SPLITS, TRAIN, ChainRecord, peptide_bonds
from minifold_pl.data.tokenizer import decode, residue_tokens

FORMAT: Final = "minifold-pl chain store"
FORMAT_VERSION: Final = 1
ALL: Final = "all"
"""In place of a split's name: every chain."""

_HEADER: Final = "store.json"
_INDEX: Final = "index.json"
_COORDS: Final = "coords.f32"
_TOKENS: Final = "tokens.u8"
_BONDED: Final = "bonded.u8"
_ARRAYS: Final = {_COORDS: len(BACKBONE_ATOMS) * 3 * 4, _TOKENS: 1, _BONDED: 1}
"""Bytes a residue."""
_COLUMNS: Final = ("names", "lengths", "splits", "cath", "clusters", "representative", "breaks")


class StoreError(ValueError):
    """A store that is absent, damaged, or in the way."""


class ChainStore:
    """Read-only view of a store; open one with :meth:`open`. Pickles as its path."""

    def __init__(self, path: Path, header: Mapping[str, Any], index: Mapping[str, Any]) -> None:
        self.path = path
        self.provenance: Mapping[str, Any] = header["provenance"]
        self.names: tuple[str, ...] = tuple(index["names"])
        self.lengths: Int[np.ndarray, " c"] = np.asarray(index["lengths"], dtype=np.int64)
        self.splits: tuple[str, ...] = tuple(index["splits"])
        self.cath: tuple[tuple[str, ...], ...] = tuple(map(tuple, index["cath"]))
        self.clusters: tuple[str | None, ...] = tuple(index["clusters"])
        self.representative: Bool[np.ndarray, " c"] = np.asarray(index["representative"], dtype=bool)
        self._breaks: Sequence[Sequence[int]] = index["breaks"]
        self._offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        residues = int(self._offsets[-1])
        self._coords = _mapped(path / _COORDS, np.float32, (residues, len(BACKBONE_ATOMS), 3))
        self._tokens = _mapped(path / _TOKENS, np.uint8, (residues,))
        self._bonded = _mapped(path / _BONDED, np.bool_, (residues,))

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a store; parses its index, maps its arrays, and checks all sizes and the index's checksum.

        Raises:
            StoreError: there is none at ``path``, it is of another format, or it is damaged.
        """
        path = Path(path)
        header = _read_header(path)
        for name, entry in header["files"].items():
            size = (path / name).stat().st_size if (path / name).is_file() else None
            if size != entry["bytes"]:
                found = "missing" if size is None else f"{size} bytes"
                raise StoreError(
                    f"store {path} is damaged: {name} is {found}, {entry['bytes']} bytes were written; "
                    "make the store again"
                )
        index_bytes = (path / _INDEX).read_bytes()
        if hashlib.sha256(index_bytes).hexdigest() != header["files"][_INDEX]["sha256"]:
            raise StoreError(f"store {path} is damaged: {_INDEX} has changed; make the store again")
        return cls(path, header, json.loads(index_bytes))

    def verify(self) -> None:
        """Read every file and compare its checksum.

        Raises:
            StoreError: a file has changed since it was written; names it.
        """
        for name, entry in _read_header(self.path)["files"].items():
            with (self.path / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != entry["sha256"]:
                raise StoreError(f"store {self.path} is damaged: {name} has changed; make the store again")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, chain: int) -> ChainRecord:
        """The record as it was written; its coordinates are a read-only view."""
        return ChainRecord(
            name=self.names[chain],
            sequence=decode(self.tokens(chain)),
            coords=self.coords(chain),
            breaks=tuple(self._breaks[chain]),
            cath=self.cath[chain],
            split=self.splits[chain],
            cluster=self.clusters[chain],
            representative=bool(self.representative[chain]),
        )

    def __reduce__(self) -> tuple[Callable[[Path], ChainStore], tuple[Path]]:
        return ChainStore.open, (self.path,)

    def coords(self, chain: int) -> Float[np.ndarray, "l 4 3"]:
        """N, Cα, C, O in Å, NaN where missing; a read-only view."""
        return self._coords[self._rows(chain)]

    def tokens(self, chain: int) -> UInt8[np.ndarray, " l"]:
        """Residue tokens, without CLS and EOS; a read-only view."""
        return self._tokens[self._rows(chain)]

    def bonded(self, chain: int) -> Bool[np.ndarray, " l"]:
        """True where a residue is joined to the next; a read-only view."""
        return self._bonded[self._rows(chain)]

    def _rows(self, chain: int) -> slice:
        if not 0 <= chain < len(self):
            raise IndexError(f"chain {chain} of a store of {len(self)}")
        return slice(int(self._offsets[chain]), int(self._offsets[chain + 1]))

    def indices(self, split: str) -> Int[np.ndarray, " c"]:
        """Chains of a split, or of every split for ``all``, in the store's order.

        Raises:
            ValueError: no such split.
        """
        if split == ALL:
            return np.arange(len(self))
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}, {ALL}")
        return np.flatnonzero(np.asarray(self.splits) == split)

    @cached_property
    def cath_classes(self) -> Int[np.ndarray, " c"]:
        """0…3 a chain, or ``NO_LABEL`` (see :func:`minifold_pl.data.cath.cath_class`)."""
        return np.array([cath_class(codes) for codes in self.cath], dtype=np.int64)

    @cached_property
    def chain_architectures(self) -> tuple[str | None, ...]:
        """``3.40`` a chain, or None (see :func:`minifold_pl.data.cath.architecture`)."""
        return tuple(architecture(codes) for codes in self.cath)

    @cached_property
    def architectures(self) -> tuple[str, ...]:
        """The label set: every architecture of the training split."""
        return label_set(self.cath[i] for i in self.indices(TRAIN))


class StoreWriter:
    """Writes a store beside ``out`` and moves it there when the ``with`` block ends well.

    Chains are streamed to disk. Whatever goes wrong before the end, an exception or a kill, ``out`` is as it
    was before; what a killed writer leaves beside it is removed by the next one on the same machine.
    Replacing a store takes two renames: killed between them, the old one lies beside ``out`` under a name
    with ``.replaced-`` in it.

    Args:
        out: Folder to make; its parents are made too.
        overwrite: Replace a store that is there. Nothing but a store or an empty folder is ever replaced.

    Raises:
        StoreError: something is in the way, or no chain was added.
        OSError: disk full, no permission, …
    """

    def __init__(self, out: str | Path, *, overwrite: bool = False) -> None:
        self.out = Path(os.path.abspath(out))
        self.provenance: dict[str, Any] = {}
        """Any JSON: where the chains came from."""
        _refuse_what_is_in_the_way(self.out, overwrite)
        self._overwrite = overwrite
        self._folder = self.out.with_name(f"{_partial_prefix(self.out)}{os.getpid()}")
        self._files: dict[str, _HashedFile] = {}
        self._columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        self._names: set[str] = set()

    def __enter__(self) -> Self:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(self.out)
        self._folder.mkdir()
        try:
            for name in _ARRAYS:
                self._files[name] = _HashedFile(self._folder / name)
        except BaseException:
            self._discard()
            raise
        return self

    def add(self, record: ChainRecord) -> None:
        """Append a chain.

        Raises:
            ValueError: a chain of that name is there already.
        """
        if record.name in self._names:
            raise ValueError(f"two chains are named {record.name!r}; names must differ")
        self._names.add(record.name)
        self._files[_COORDS].write(np.ascontiguousarray(record.coords, dtype="<f4").tobytes())
        self._files[_TOKENS].write(residue_tokens(record.sequence).tobytes())
        self._files[_BONDED].write(peptide_bonds(record.coords, record.breaks).tobytes())
        row = (
            record.name,
            len(record),
            record.split,
            list(record.cath),
            record.cluster,
            record.representative,
            list(record.breaks),
        )
        for name, value in zip(_COLUMNS, row, strict=True):
            self._columns[name].append(value)

    def attach(self, name: str, text: str) -> None:
        """Put another text file into the store, covered by its checksums."""
        self._files[name] = _HashedFile(self._folder / name)
        self._files[name].write(text.encode())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            self._discard()  # after a commit nothing is left to discard

    def _commit(self) -> None:
        if not self._names:
            raise StoreError(f"no chain was found for {self.out}; nothing was written")
        self.attach(_INDEX, json.dumps(self._columns, separators=(",", ":")))
        files = {}
        for name, file in sorted(self._files.items()):
            files[name] = {"bytes": file.bytes, "sha256": file.close()}
        header = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "chains": len(self._names),
            "residues": sum(self._columns["lengths"]),
            "provenance": self.provenance,
            "files": files,
        }
        last = _HashedFile(self._folder / _HEADER)
        last.write(json.dumps(header, indent=1).encode())
        last.close()
        _fsync_folder(self._folder)
        self._move_into_place()
        _fsync_folder(self.out.parent)

    def _move_into_place(self) -> None:
        _refuse_what_is_in_the_way(self.out, self._overwrite)
        if not is_store(self.out):
            try:
                os.rename(self._folder, self.out)  # onto nothing, or onto an empty folder
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another writer was faster
                    raise StoreError(f"{self.out} was written by another process meanwhile") from None
                raise
            return
        old = self._folder.with_name(self._folder.name.replace(".partial-", ".replaced-"))
        os.rename(self.out, old)
        os.rename(self._folder, self.out)
        shutil.rmtree(old)

    def _discard(self) -> None:
        for file in self._files.values():
            file.abandon()
        shutil.rmtree(self._folder, ignore_errors=True)


def write_store(
    out: str | Path,
    records: Iterable[ChainRecord],
    *,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> int:
    """Write all ``records`` into a store at ``out``; see :class:`StoreWriter`.

    Returns:
        How many chains were written.
    """
    count = 0
    with StoreWriter(out, overwrite=overwrite) as writer:
        writer.provenance = dict(provenance or {})
        for record in records:
            writer.add(record)
            count += 1
    return count


def is_store(path: str | Path) -> bool:
    """Whether a folder holds a store's header, sound or not."""
    return (Path(path) / _HEADER).is_file()


def _mapped(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> np.ndarray:
    # A plain ndarray over the mapping: slicing np.memmap itself costs microseconds in its Python hooks.
    return np.memmap(path, dtype=dtype, mode="r", shape=shape).view(np.ndarray)


def _read_header(path: Path) -> dict[str, Any]:
    if not is_store(path):
        what = "is no store" if path.exists() else "does not exist"
        raise StoreError(
            f"{path} {what}; make one with `minifold-pl data prepare SRC --out {path}` "
            f"or `minifold-pl data synth --out {path}`"
        )
    try:
        header = json.loads((path / _HEADER).read_bytes())
        known = (header["format"], header["version"]) == (FORMAT, FORMAT_VERSION)
    except (ValueError, TypeError, KeyError):
        raise StoreError(f"store {path} is damaged: {_HEADER} cannot be read; make the store again") from None
    if not known:
        raise StoreError(
            f"store {path} has format {header['format']!r} version {header['version']!r}, this program reads "
            f"{FORMAT!r} version {FORMAT_VERSION}; make the store again"
        )
    if sys.byteorder != "little":
        raise StoreError(f"store {path} is little-endian, this machine is not")
    return header


def _refuse_what_is_in_the_way(out: Path, overwrite: bool) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if out.is_symlink() or not out.is_dir():
        raise StoreError(f"{out} is there and is no folder; choose another --out")
    if is_store(out):
        if not overwrite:
            raise StoreError(f"{out} holds a store already; --overwrite replaces it")
    elif any(out.iterdir()):
        raise StoreError(f"{out} is a folder that holds something else; choose another --out")


def _partial_prefix(out: Path) -> str:
    return f".{out.name}.partial-{socket.gethostname()}-"


def _remove_leftovers(out: Path) -> None:
    """Remove what writers of ``out`` that were killed on this machine left behind."""
    prefix = _partial_prefix(out)
    for folder in out.parent.iterdir():
        pid = folder.name.removeprefix(prefix)
        if folder.name.startswith(prefix) and pid.isdecimal() and not _alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # a leftover of an earlier process that had our number
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _HashedFile:
    """A file that is hashed while written, and on disk when closed."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("xb")
        self._hash = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.bytes += len(data)

    def close(self) -> str:
        """Flush to the disk itself; returns the sha256."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._hash.hexdigest()

    def abandon(self) -> None:
        """Close without caring for what was written."""
        with contextlib.suppress(OSError):  # a full disk fails again when the buffer is flushed
            self._file.close()
