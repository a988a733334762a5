"""What was done of a long piece of work, so that it can go on after a kill.

A folder with one file that only grows: a line that says what the work is, then entries of a key and its bytes,
each with a checksum. What a kill cut off at the end is left out when the journal is opened again.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from minifold_pl.data.folder_lock import FolderLock

_FILE: Final = "journal"
_ENTRY: Final = struct.Struct("<4sIII")
"""Magic, sizes of key and bytes, CRC-32 of both."""
_MAGIC: Final = b"done"
_SYNC: Final = 1.0
"""Seconds between two flushes to the disk: what a power cut costs. A kill costs nothing that was added."""


class Journal:
    """Opens or begins the journal in ``folder``.

    Args:
        folder: Made where it is not there; or the lock on it, which is then kept when the journal is closed.
        work: Any JSON that says what the work is. A journal of other work is begun anew.

    Raises:
        FolderBusyError: another process has it open.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path | FolderLock, work: dict[str, Any]) -> None:
        self._owns_lock = not isinstance(folder, FolderLock)
        self._lock = folder if isinstance(folder, FolderLock) else FolderLock(folder)
        self.folder = folder = self._lock.folder
        self._file = open(folder / _FILE, "a+b")  # noqa: SIM115
        self._places: dict[str, tuple[int, int]] = {}
        self._synced = time.monotonic()
        head = json.dumps(work, sort_keys=True).encode() + b"\n"
        self._file.seek(0)
        if self._file.readline() != head:
            self._file.truncate(0)
            self._file.write(head)
            self._file.flush()
        else:
            self._read(len(head))

    def _read(self, place: int) -> None:
        size = os.fstat(self._file.fileno()).st_size
        while place < size:
            self._file.seek(place)
            head = self._file.read(_ENTRY.size)
            if len(head) < _ENTRY.size:
                break
            magic, key_size, data_size, crc = _ENTRY.unpack(head)
            body = self._file.read(key_size + data_size) if magic == _MAGIC else b""
            if magic != _MAGIC or len(body) < key_size + data_size or zlib.crc32(body) != crc:
                break
            start = place + _ENTRY.size + key_size
            self._places[os.fsdecode(body[:key_size])] = (start, data_size)
            place = start + data_size
        self._file.truncate(place)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, key: str) -> bytes:
        start, size = self._places[key]
        self._file.flush()
        return os.pread(self._file.fileno(), size, start)

    def get(self, key: str, default: bytes) -> bytes:
        """What came of ``key``, or ``default`` where it was not done."""
        return self[key] if key in self._places else default

    def add(self, key: str, data: bytes) -> None:
        """Write down that ``key`` is done, with what came of it."""
        name = os.fsencode(key)  # keys hold names of files, which need not be text
        self._file.seek(0, os.SEEK_END)
        start = self._file.tell() + _ENTRY.size + len(name)
        self._file.write(_ENTRY.pack(_MAGIC, len(name), len(data), zlib.crc32(data, zlib.crc32(name))))
        self._file.write(name + data)
        self._file.flush()
        self._places[key] = (start, len(data))
        if time.monotonic() - self._synced > _SYNC:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        """Keep what was written, and let others open it."""
        with contextlib.suppress(OSError):  # a full disk fails again when the buffer is flushed
            self._file.close()
        if self._owns_lock:
            self._lock.release()

    def remove(self) -> None:
        """The work is done, or not worth going on with: nothing is left."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._lock.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
