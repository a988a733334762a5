"""One writer to a run folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self


class RunLocked(RuntimeError):
    """Another live process trains in this run folder."""


class RunLock:
    """An advisory lock (``flock``) on a run folder, freed by the kernel however the process ends.

    The descriptor is not inherited by programs that this process starts, so an orphaned child cannot keep
    the next start out; forked data workers close it through :meth:`release_in_child`.

    Raises:
        RunLocked: on entry, naming host and process of the holder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 4096).decode(errors="replace")
            os.close(descriptor)
            raise RunLocked(f"{self.path.parent} is in use by {_describe(holder)}") from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())
        self._descriptor = descriptor
        os.register_at_fork(after_in_child=self.release_in_child)
        return self

    def release_in_child(self) -> None:
        """Close the inherited descriptor; the parent's lock stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _describe(holder: str) -> str:
    try:
        content = json.loads(holder)
        return f"process {content['pid']} on {content['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
