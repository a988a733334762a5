"""A folder that one process at a time works in."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_LOCK: Final = "lock"


class FolderBusyError(ValueError):
    """Another process works in the folder."""


class FolderLock:
    """Holds ``folder`` for one process at a time, until :meth:`release`, :meth:`remove` or the process's end.

    Args:
        folder: Made where it is not there, and removed at the end where nothing was put into it.

    Raises:
        FolderBusyError: another process holds it.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made = [path for path in (folder, *folder.parents) if not path.exists()]
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                self._file = open(folder / _LOCK, "wb")  # noqa: SIM115 (held until release)
            except FileNotFoundError:  # the one before has removed the folder just now
                continue
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._file.close()
                raise FolderBusyError(f"another process works on it: {folder} is locked") from None
            if self._is_in_place():
                return
            self._file.close()

    def _is_in_place(self) -> bool:
        """Whether the file that was locked is the one that others would find; not when it was removed meanwhile."""
        try:
            found = os.stat(self.folder / _LOCK)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self._file.fileno()))

    def release(self) -> None:
        """Let others have it, with what was put into the folder."""
        if not self._file.closed:
            if not self._others():
                self._remove()
            self._file.close()

    def remove(self) -> None:
        """Let others have it, and leave nothing of the folder."""
        if not self._file.closed:
            self._remove()
            self._file.close()

    def _others(self) -> list[str]:
        with contextlib.suppress(OSError):
            return [name for name in os.listdir(self.folder) if name != _LOCK]
        return []

    def _remove(self) -> None:
        # The lock last: until then nobody else puts anything here, and after that what they put stays.
        for name in [*self._others(), _LOCK]:
            with contextlib.suppress(OSError):
                (self.folder / name).unlink()
        for path in self._made or [self.folder]:
            with contextlib.suppress(OSError):  # folders above it that hold something by now stay
                path.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
