"""One owner at a time of a run folder, whatever dies, stops or is started twice.

The folder ``lease/`` holds one file, ``owner-<number>``: what the owner says about itself, and a heartbeat. Owning
the folder is having the file with the highest number. It is made beside its place and put there by ``link()``, which
fails where the name exists, on local and on network file systems: of several starters one wins.

An owner is followed by the next number when

- it gave the folder back,
- its process is known to have ended: it was on the same machine, and its id is free or somebody else's,
- its heartbeat has not changed for ``timeout`` seconds. The one who waits counts them on its own monotonic clock, and
  only while it could read the file: clocks of several machines are never compared, and may jump.

The number is a fencing token: before anything is written to the folder (:mod:`minifold_pl.run.fence`) the owner looks
whether its file is still there and no higher one is. So an owner that was stopped, or cut off, and taken over in the
meantime writes nothing when it goes on. What no lock can prevent is a process that is stopped between that look and the
write, a few microseconds later; the checkpoint that it might put in place is whole, and of the same training.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import ClassVar, Final, Self

from minifold_pl.run import fence, stop
from minifold_pl.run.events import append_event
from minifold_pl.run.fence import LeaseLost
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.halt import RunEnded
from minifold_pl.run.owner import Owner, known_to_be_gone, this_owner
from minifold_pl.run.stop import RunInterrupted

INTERVAL: Final = 2.0
"""Seconds between heartbeats."""
TIMEOUT: Final = 10.0
"""Seconds without one after which the folder may be taken over."""
_POLL: Final = 0.2
_NAME: Final = re.compile(r"owner-(\d+)")
_HELD, _RELEASED = "held    ", "released"
_NO_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class FolderInUse(RunEnded):
    """Another live process owns the run folder; the message says who and since when."""

    exit_code: ClassVar[int] = LeaseLost.exit_code
    heading = "error"


class Lease:
    """The right to write to a run folder, from :func:`acquire` until :meth:`release` or until somebody takes over.

    A thread renews the heartbeat. Use it as a context manager, or call :meth:`release`.
    """

    def __init__(self, folder: RunFolder, owner: Owner, path: Path, descriptor: int, interval: float) -> None:
        self.folder = folder
        self.owner = owner
        self._path = path
        self._line = owner.to_json() + "\n"
        self._descriptor: int | None = descriptor
        self._beats = 0
        self._lost: str | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(
            target=self._renew, args=(interval,), name="lease heartbeat", daemon=True
        )
        fence.put_guard(folder.path, self)
        myself = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _close_in_child(myself))
        self._thread.start()

    @property
    def number(self) -> int:
        """How often the folder had an owner, this one included: which start of the run this is."""
        return self.owner.number

    @property
    def lost(self) -> bool:
        """Whether the heartbeat has seen that somebody else took over; costs nothing to ask."""
        return self._lost is not None

    def check(self) -> None:
        """Look on the disk whether the folder is still ours: before every write.

        Raises:
            LeaseLost: It is not, and never will be again.
            OSError: The disk does not say.
        """
        if self._lost is None:
            self._look()
        if self._lost is not None:
            raise LeaseLost(self._lost)

    def release(self) -> None:
        """Give the folder back; the next owner needs no waiting."""
        self._end.set()
        # It may hang in a write to a disk that does not answer.
        self._thread.join(5.0)
        fence.remove_guard(self.folder.path)
        if self._descriptor is not None:
            with contextlib.suppress(OSError, LeaseLost):
                self.check()
                self._write(_RELEASED)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _renew(self, interval: float) -> None:
        while not self._end.wait(interval):
            # A disk that fails for a while is no reason to end: whether the folder is ours is asked at each write.
            with contextlib.suppress(OSError):
                self._look()
                if self._lost is not None:
                    return
                self._beats += 1
                self._write(_HELD)

    def _write(self, state: str) -> None:
        """Write over the heartbeat, in place: that needs no room on a full disk."""
        if self._descriptor is None:
            return
        data = f"{self._beats:012d} {state}\n".encode()
        try:
            os.pwrite(self._descriptor, data, len(self._line.encode()))
        except OSError:
            os.utime(self._descriptor)
        # Without it other machines would not see the change for half a minute.
        os.fdatasync(self._descriptor)

    def _look(self) -> None:
        higher = self._path.with_name(_name(self.number + 1))
        for last_try in (False, True):
            try:
                # Opening it makes a network file system ask the server.
                mine = self._path.read_text()
            except FileNotFoundError:
                break
            except OSError as error:
                if error.errno != errno.ESTALE or last_try:
                    raise
                continue
            if mine.startswith(self._line) and not higher.exists():
                return
            break
        now = _newest(self._path.parent)
        if now is None or now.number <= self.number:
            self._lost = f"{self._path} was removed or changed by hand: nobody owns {self.folder.path} now"
        else:
            self._lost = f"{self.folder.path} was taken over by {now.owner or 'another process'}"


@dataclass(frozen=True)
class _Seen:
    """The owner with the highest number, as its file says."""

    number: int
    path: Path
    owner: Owner | None
    """None where it has not written who it is."""
    beat: tuple[str, int]
    released: bool


def acquire(
    folder: RunFolder,
    *,
    wait: float = 0.0,
    interval: float = INTERVAL,
    timeout: float = TIMEOUT,
    told: Callable[[str], None] | None = None,
) -> Lease:
    """Become the owner of a run folder.

    It takes no time where the folder is free or its last owner is known to be gone; up to ``timeout`` of the last
    owner where nobody can tell; up to its heartbeat's interval to find that it lives. An event says from whom the
    folder was taken over.

    Args:
        folder: The run folder; it is made where it is missing.
        wait: Seconds to wait for a live owner to end; a stop signal ends the wait.
        interval: Seconds between heartbeats.
        timeout: Seconds without a heartbeat after which others may take over from us.
        told: Called once with a line that says on whom we wait, if that takes more than a moment.

    Raises:
        FolderInUse: A live process owns it.
        OSError: The folder cannot be written.
        RunInterrupted: A stop signal came.
    """
    place = folder.lease
    place.mkdir(parents=True, exist_ok=True)
    end = monotonic() + wait
    watched: _Seen | None = None
    quiet, looked = 0.0, monotonic()
    while True:
        name = stop.requested()
        if name is not None:
            raise RunInterrupted(name)
        seen, now = _newest(place), monotonic()
        if seen is not None and seen == watched:
            # A disk that hangs says nothing about the owner: a look that took long does not count as long.
            quiet += min(now - looked, 2 * _POLL)
        else:
            quiet = 0.0
            if watched is not None and seen is not None and not seen.released:
                if now >= end:
                    raise FolderInUse(f"{folder.path} is in use by {_who(seen)}")
                if told is not None:
                    told(f"waiting for {_who(seen)}, which trains in {folder.path}")
                    told = None
        watched, looked = seen, now
        why = "" if seen is None else _why_gone(seen, quiet)
        if why is None:
            sleep(_POLL)
            continue
        lease = _claim(folder, 1 if seen is None else seen.number + 1, interval, timeout)
        if lease is not None:
            if seen is not None and not seen.released:
                append_event(folder.events, "taken_over", previous=_who(seen), reason=why)
            return lease


def owner_of(folder: RunFolder) -> Owner | None:
    """Who owns a run folder or was the last to leave it without giving it back; None where nobody does.

    Whether that process still lives is another question: :func:`minifold_pl.run.owner.known_to_be_gone`.
    """
    seen = _newest(folder.lease)
    return None if seen is None or seen.released else seen.owner


def give_back_for_the_dead(folder: RunFolder) -> bool:
    """Give a folder back for an owner that is known, on this machine, to have ended.

    For launchers, which outlive the process that trains: a successor on another machine need not wait for the
    heartbeat's timeout then.

    Returns:
        Whether the folder is free now.
    """
    seen = _newest(folder.lease)
    if seen is None or seen.released:
        return True
    if seen.owner is None or not known_to_be_gone(seen.owner, seen.path):
        return False
    place = len(seen.owner.to_json().encode()) + 1 + len(f"{0:012d} ")
    with open(seen.path, "r+b", buffering=0) as stream:
        os.pwrite(stream.fileno(), _RELEASED.encode(), place)
        os.fdatasync(stream.fileno())
    return True


def _why_gone(seen: _Seen, quiet: float) -> str | None:
    """Why the owner may be followed, or None."""
    if seen.released:
        return "it gave the folder back"
    if seen.owner is not None and known_to_be_gone(seen.owner, seen.path):
        return "its process has ended"
    if quiet > (TIMEOUT if seen.owner is None else seen.owner.timeout):
        return f"no sign of life for {quiet:.0f} s"
    return None


def _who(seen: _Seen) -> str:
    return "another process" if seen.owner is None else str(seen.owner)


def _name(number: int) -> str:
    return f"owner-{number:08d}"


def _newest(place: Path) -> _Seen | None:
    while True:
        try:
            names = [found for found in map(_NAME.fullmatch, os.listdir(place)) if found]
        except FileNotFoundError:
            return None
        if not names:
            return None
        last = max(names, key=lambda found: int(found[1]))
        path = place / last[0]
        try:
            with open(path, "rb") as stream:
                changed = os.fstat(stream.fileno()).st_mtime_ns
                said = stream.read().decode(errors="replace")
        except FileNotFoundError:
            # The next owner removes it; it has put its own there before.
            continue
        line, _, beat = said.partition("\n")
        try:
            owner = Owner.from_json(line)
        except ValueError:
            owner = None
        released = beat.rstrip().endswith(_RELEASED)
        return _Seen(int(last[1]), path, owner, (beat, changed), released)


def _claim(folder: RunFolder, number: int, interval: float, timeout: float) -> Lease | None:
    """Put our file in place, or None: somebody else was quicker."""
    token = secrets.token_hex(8)
    target = folder.lease / _name(number)
    temporary = folder.lease / f".{token}"
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        owner = this_owner(number, token, timeout, _lock(descriptor))
        os.write(descriptor, f"{owner.to_json()}\n{0:012d} {_HELD}\n".encode())
        os.fsync(descriptor)
        if not _link(temporary, target, descriptor):
            os.close(descriptor)
            return None
    except BaseException:
        os.close(descriptor)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    now = _newest(folder.lease)
    if now is None or now.owner is None or now.owner.token != token:
        # We looked long ago: there have been owners since, and the name was free again.
        target.unlink(missing_ok=True)
        os.close(descriptor)
        return None
    for name in os.listdir(folder.lease):
        found = _NAME.fullmatch(name)
        if found is None or int(found[1]) < number:
            # Files of earlier owners, by which they learn of it, and what killed starters left.
            with contextlib.suppress(OSError):
                (folder.lease / name).unlink()
    return Lease(folder, owner, target, descriptor, interval)


def _link(temporary: Path, target: Path, descriptor: int) -> bool:
    try:
        os.link(temporary, target)
    except FileExistsError:
        # A network file system whose answer was lost asks again, and meets its own success.
        return os.fstat(descriptor).st_nlink == 2
    except FileNotFoundError:
        # The winner has cleared up.
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _rename_to_new(temporary, target)
    return True


def _rename_to_new(temporary: Path, target: Path) -> bool:
    """For file systems without links: reserve the name, then put the file there."""
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    os.replace(temporary, target)
    return True


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _close_in_child(lease: weakref.ref[Lease]) -> None:
    """The lock lives as long as a copy of its descriptor: a data worker must not keep the folder."""
    mine = lease()
    if mine is not None and mine._descriptor is not None:
        os.close(mine._descriptor)
        mine._descriptor = None
