"""Writes stores: chains are streamed to disk, and the store appears whole or not at all."""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

from minifold_pl.data.packed_chain import PackedChain, pack
from minifold_pl.data.records import SPLITS, ChainRecord
from minifold_pl.data.store_format import (
    COLUMNS,
    EMBEDDINGS,
    FORMAT,
    FORMAT_VERSION,
    HEADER,
    INDEX,
    NO_STRING,
    SHARD_BYTES,
    STRINGS,
    StoreError,
    is_store,
    replaced_prefix,
    shard_name,
)

if TYPE_CHECKING:
    from minifold_pl.data.split import SplitAssignment
    from minifold_pl.data.store import ChainStore

_CODES: Final = {8: "Q", 4: "I", 1: "B"}
"""Type codes of :mod:`array`, by bytes an entry."""


class StoreWriter:
    """Writes a store beside ``out`` and moves it there when the ``with`` block ends well.

    The same chains, provenance and attachments give the same bytes. Whatever goes wrong before the end, an
    exception or a kill, ``out`` is as it was before; what a killed writer leaves beside it is removed by the
    next one on the same machine. A store that is there is exchanged for the new one in a single step; on file
    systems that cannot (some network ones) it takes two renames, and if the process dies between them, the old
    store lies beside ``out`` under a name with ``.replaced-`` in it until the next writer puts it back.

    Args:
        out: Folder to make; its parents are made too.
        overwrite: Replace a store that is there. Nothing but a store or an empty folder is ever replaced.
        shard_bytes: Begin a new shard when one has this many bytes.
        may_be_empty: A store without a chain is fine: one part of many.

    Raises:
        StoreError: something is in the way, or no chain was added.
        OSError: disk full, no permission, …
    """

    def __init__(
        self,
        out: str | Path,
        *,
        overwrite: bool = False,
        shard_bytes: int = SHARD_BYTES,
        may_be_empty: bool = False,
    ) -> None:
        self.out = Path(os.path.abspath(out))
        self.provenance: dict[str, Any] = {}
        """Any JSON: where the chains came from."""
        if shard_bytes < 1:
            raise ValueError(f"shard_bytes is {shard_bytes}; give at least 1")
        _put_back(self.out)
        _refuse_what_is_in_the_way(self.out, overwrite)
        self._overwrite = overwrite
        self._shard_bytes = shard_bytes
        self._may_be_empty = may_be_empty
        self._folder = self.out.with_name(f"{_partial_prefix(self.out)}{os.getpid()}")
        self._files: dict[str, _HashedFile] = {}
        self._sums: dict[str, dict[str, Any]] = {}
        self._columns = {name: array.array(_CODES[dtype.itemsize]) for name, dtype in COLUMNS.items()}
        self._rows: dict[str, int] = {}
        self._cath: list[tuple[str, ...]] = []
        self._clusters: list[str | None] = []
        self._shard: _HashedFile | None = None
        self._shards = 0

    def __enter__(self) -> Self:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        clean_up(self.out)
        self._folder.mkdir()
        return self

    def __len__(self) -> int:
        """Chains so far."""
        return len(self._rows)

    @property
    def residues(self) -> int:
        """Residues so far."""
        return sum(self._columns["length"])

    def add(self, record: ChainRecord) -> None:
        """Append a chain.

        Raises:
            ValueError: as :meth:`add_packed`.
        """
        self.add_packed(pack(record))

    def copy(self, store: ChainStore, chain: int) -> None:
        """Append a chain of another store, byte by byte.

        Raises:
            ValueError: a chain of that name is there already.
            StoreError: the chain is damaged.
        """
        store.check(chain)
        self.add_packed(store.packed(chain))

    def add_packed(self, chain: PackedChain) -> None:
        """Append a chain whose bytes were made elsewhere.

        Raises:
            ValueError: a chain of that name is there already, or a CATH code has a space in it.
        """
        if chain.name in self._rows:
            raise ValueError(f"two chains are named {chain.name!r}; names must differ")
        if any(code.split() != [code] for code in chain.cath):
            raise ValueError(f"{chain.name}: CATH codes {chain.cath} must be words without spaces")
        if self._shard is None or self._shard.bytes >= self._shard_bytes:
            self._close_shard()
            self._shard = self._file(shard_name(self._shards))
            self._shards += 1
        row = {
            "offset": self._shard.bytes,
            "name": 0,  # the strings are written at the end
            "cath": 0,
            "cluster": 0,
            "shard": self._shards - 1,
            "length": chain.length,
            "breaks": chain.breaks,
            "crc": chain.crc,
            "split": SPLITS.index(chain.split),
            "representative": int(chain.representative),
            "parts": chain.parts,
        }
        self._shard.write(chain.content)
        for column, value in row.items():
            self._columns[column].append(value)
        self._rows[chain.name] = len(self._rows)
        self._cath.append(chain.cath)
        self._clusters.append(chain.cluster)

    def assign(self, assignment: SplitAssignment) -> None:
        """Give chains that were added the split, cluster and representative that ``assignment`` names.

        Chains that it does not name stay as they are.
        """
        for name, row in self._rows.items():
            if name in assignment.split_of:
                self._columns["split"][row] = SPLITS.index(assignment.split_of[name])
            if name in assignment.cluster_of:
                self._clusters[row] = assignment.cluster_of[name]
                self._columns["representative"][row] = int(name in assignment.representatives)

    def attach(self, name: str, text: str) -> None:
        """Put another text file into the store, covered by its checksums."""
        file = self._file(name)
        file.write(text.encode())
        self._close(name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            self._discard()  # after a commit nothing is left to discard

    def _file(self, name: str) -> _HashedFile:
        self._files[name] = _HashedFile(self._folder / name)
        return self._files[name]

    def _close(self, name: str) -> None:
        file = self._files[name]
        self._sums[name] = {"bytes": file.bytes, "sha256": file.close()}
        del self._files[name]

    def _close_shard(self) -> None:
        if self._shard is not None:
            self._close(shard_name(self._shards - 1))
            self._shard = None

    def _commit(self) -> None:
        if not self._rows and not self._may_be_empty:
            raise StoreError(f"no chain was found for {self.out}; nothing was written")
        self._close_shard()
        self._write_strings()
        index = self._file(INDEX)
        for name in COLUMNS:
            index.write(self._columns[name].tobytes())
        self._close(INDEX)
        header = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "chains": len(self._rows),
            "residues": self.residues,
            "shards": self._shards,
            "provenance": self.provenance,
            "files": dict(sorted(self._sums.items())),
        }
        self._file(HEADER).write(json.dumps(header, indent=1).encode())
        self._close(HEADER)
        _fsync_folder(self._folder)
        self._move_into_place()
        _fsync_folder(self.out.parent)

    def _write_strings(self) -> None:
        """Names in the chains' order, then each CATH label and each cluster once."""
        file = self._file(STRINGS)

        def written(text: str) -> int:
            place, content = file.bytes, text.encode()
            file.write(len(content).to_bytes(4, "little") + content)
            return place

        for row, name in enumerate(self._rows):
            self._columns["name"][row] = written(name)
        labels: dict[tuple[str, ...], int] = {}
        for row, codes in enumerate(self._cath):
            if codes not in labels:
                labels[codes] = written(" ".join(codes))
            self._columns["cath"][row] = labels[codes]
        clusters: dict[str | None, int] = {None: NO_STRING}
        for row, cluster in enumerate(self._clusters):
            if cluster not in clusters:
                clusters[cluster] = written(str(cluster))
            self._columns["cluster"][row] = clusters[cluster]
        self._close(STRINGS)

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
        if not exchange(self._folder, self.out):
            old = self.out.with_name(f"{replaced_prefix(self.out)}{_machine()}{os.getpid()}")
            os.rename(self.out, old)
            os.rename(self._folder, self.out)
            _hand_on_embeddings(old, self.out)
            shutil.rmtree(old)
            return
        _hand_on_embeddings(self._folder, self.out)  # the replaced store has the other's name now

    def _discard(self) -> None:
        for file in self._files.values():
            file.abandon()
        shutil.rmtree(self._folder, ignore_errors=True)  # after an exchange: the replaced store


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


_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


def exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step; False where the system or the file system cannot.

    Raises:
        OSError: another failure, such as no permission.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # Linux with glibc ≥ 2.28
    if rename is None:
        return False
    if not rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _hand_on_embeddings(old: Path, new: Path) -> None:
    """They are found by sequence, so those of a replaced store serve the new one, too; without them it is as sound."""
    if (old / EMBEDDINGS).is_dir():
        with contextlib.suppress(OSError):
            os.rename(old / EMBEDDINGS, new / EMBEDDINGS)


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


def _machine() -> str:
    return f"{socket.gethostname()}-"


def _partial_prefix(out: Path) -> str:
    return f".{out.name}.partial-{_machine()}"


def _abandoned(out: Path, prefix: str) -> list[Path]:
    """Folders beside ``out`` that writers on this machine which are no more have left."""
    if not out.parent.is_dir():
        return []
    found = []
    for folder in out.parent.iterdir():
        pid = folder.name.removeprefix(prefix)
        if folder.name.startswith(prefix) and pid.isdecimal() and not _alive(int(pid)):
            found.append(folder)
    return sorted(found)


def _put_back(out: Path) -> None:
    """Undo a replacement that died between its two renames."""
    if out.exists() or out.is_symlink():
        return
    for old in _abandoned(out, replaced_prefix(out) + _machine())[-1:]:
        os.rename(old, out)


def clean_up(out: Path) -> None:
    """Put the store back that a writer was killed over, and remove what killed writers left beside ``out``."""
    _put_back(out)
    for prefix in (_partial_prefix(out), replaced_prefix(out) + _machine()):
        for folder in _abandoned(out, prefix):
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
