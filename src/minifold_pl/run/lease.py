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

With each heartbeat the owner also looks for an order to stop (:mod:`minifold_pl.run.stop_order`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import weakref
from collections.abc import Callable
from time import monotonic, sleep
from types import TracebackType
from typing import ClassVar, Final, Self

from minifold_pl.run import fence, stop
from minifold_pl.run.events import append_event
from minifold_pl.run.fence import LeaseGone, LeaseLost
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.halt import RetryLater, RunEnded
from minifold_pl.run.lease_file import Claimed, Seen, claim, file_name, newest, write_beat
from minifold_pl.run.owner import Owner, known_to_be_gone
from minifold_pl.run.stop import RunInterrupted
from minifold_pl.run.stop_order import REQUEST, stop_order

INTERVAL: Final = 2.0
"""Seconds between heartbeats."""
TIMEOUT: Final = 10.0
"""Seconds without one after which the folder may be taken over."""
_POLL: Final = 0.2
_GONE_FOR_NOW: Final = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


class FolderInUse(RunEnded):
    """Another live process owns the run folder; the message says who and since when."""

    exit_code: ClassVar[int] = LeaseLost.exit_code
    heading = "error"


class Lease:
    """The right to write to a run folder, from :func:`acquire` until :meth:`release` or until somebody takes over.

    A thread renews the heartbeat. Use it as a context manager, or call :meth:`release`.
    """

    def __init__(self, folder: RunFolder, claimed: Claimed, interval: float) -> None:
        self.folder = folder
        self.owner = claimed.owner
        self._path = claimed.path
        self._line = claimed.owner.to_json() + "\n"
        self._descriptor: int | None = claimed.descriptor
        self._beats = 0
        self._lost: LeaseLost | LeaseGone | None = None
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
        """Whether the heartbeat has seen that the folder is no longer ours; costs nothing to ask."""
        return self._lost is not None

    def check(self) -> None:
        """Look on the disk whether the folder is still ours: before every write.

        Raises:
            LeaseLost: It is another process's, and will never be ours again.
            LeaseGone: It is nobody's: the folder was moved, or ``lease/`` removed.
            OSError: The disk does not say.
        """
        if not isinstance(self._lost, LeaseLost):
            # Somebody may own by now what nobody owned.
            self._look()
        if self._lost is not None:
            raise type(self._lost)(self._lost.reason)

    def release(self) -> None:
        """Give the folder back; the next owner needs no waiting."""
        self._end.set()
        # It may hang in a write to a disk that does not answer.
        self._thread.join(5.0)
        fence.remove_guard(self.folder.path)
        if self._descriptor is not None:
            with contextlib.suppress(OSError, LeaseLost, LeaseGone):
                self.check()
                write_beat(self._path, self.owner, self._beats, released=True)
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
                write_beat(self._path, self.owner, self._beats)
                if stop.is_heard() and stop_order(self.folder) is not None:
                    stop.request(REQUEST)

    def _look(self) -> None:
        higher = self._path.with_name(file_name(self.number + 1))
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
        now = newest(self._path.parent)
        if now is not None and (now.number > self.number or self._is_anothers(now)):
            self._lost = LeaseLost(f"{self.folder.path} was taken over by {now.who}")
        else:
            self._lost = LeaseGone(
                f"{self._path} was removed or changed by hand, or the folder moved: nobody owns "
                f"{self.folder.path} now; the same command goes on with the run that is there"
            )

    def _is_anothers(self, seen: Seen) -> bool:
        """Whether a live process owns the folder by a number that is not above ours: they began anew at 1."""
        if seen.owner is None or seen.owner.token == self.owner.token:
            return False
        return not seen.released and not known_to_be_gone(seen.owner, seen.path)


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
        RetryLater: The disk is full, read-only or broken.
        OSError: The folder cannot be written for another reason.
        RunInterrupted: A stop signal came.
    """
    try:
        return _acquire(folder, monotonic() + wait, interval, timeout, told)
    except OSError as error:
        if error.errno not in _GONE_FOR_NOW:
            raise
        raise RetryLater(f"{folder.path} cannot be written: {error.strerror}") from error


def owner_of(folder: RunFolder) -> Owner | None:
    """Who owns a run folder or was the last to leave it without giving it back; None where nobody does.

    Whether that process still lives is another question: :func:`minifold_pl.run.owner.known_to_be_gone`.
    """
    seen = newest(folder.lease)
    return None if seen is None or seen.released else seen.owner


def give_back_for_the_dead(folder: RunFolder) -> bool:
    """Give a folder back for an owner that is known, on this machine, to have ended.

    For launchers, which outlive the process that trains: a successor on another machine need not wait for the
    heartbeat's timeout then.

    Returns:
        Whether the folder is free now.
    """
    seen = newest(folder.lease)
    if seen is None or seen.released:
        return True
    if seen.owner is None or not known_to_be_gone(seen.owner, seen.path):
        return False
    write_beat(seen.path, seen.owner, 0, released=True)
    return True


def _acquire(
    folder: RunFolder, end: float, interval: float, timeout: float, told: Callable[[str], None] | None
) -> Lease:
    place = folder.lease
    place.mkdir(parents=True, exist_ok=True)
    watched: Seen | None = None
    quiet, looked = 0.0, monotonic()
    while True:
        name = stop.requested()
        if name is not None:
            raise RunInterrupted(name)
        seen, now = newest(place), monotonic()
        if seen is not None and seen == watched:
            # A disk that hangs says nothing about the owner: a look that took long does not count as long.
            quiet += min(now - looked, 2 * _POLL)
        else:
            quiet = 0.0
            if watched is not None and seen is not None and not seen.released:
                if now >= end:
                    raise FolderInUse(f"{folder.path} is in use by {seen.who}")
                if told is not None:
                    told(f"waiting for {seen.who}, which trains in {folder.path}")
                    told = None
        watched, looked = seen, now
        why = "" if seen is None else _why_gone(seen, quiet)
        if why is None:
            sleep(_POLL)
            continue
        claimed = claim(place, 1 if seen is None else seen.number + 1, timeout)
        if claimed is not None:
            lease = Lease(folder, claimed, interval)
            if seen is not None and not seen.released:
                append_event(folder.events, "taken_over", previous=seen.who, reason=why)
            return lease


def _why_gone(seen: Seen, quiet: float) -> str | None:
    """Why the owner may be followed, or None."""
    if seen.released:
        return "it gave the folder back"
    if seen.owner is not None and known_to_be_gone(seen.owner, seen.path):
        return "its process has ended"
    if quiet > (TIMEOUT if seen.owner is None else seen.owner.timeout):
        return f"no sign of life for {quiet:.0f} s"
    return None


def _close_in_child(lease: weakref.ref[Lease]) -> None:
    """The lock lives as long as a copy of its descriptor: a data worker must not keep the folder."""
    mine = lease()
    if mine is not None and mine._descriptor is not None:
        os.close(mine._descriptor)
        mine._descriptor = None
