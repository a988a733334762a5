"""The files in ``lease/``: reading the newest, and putting one's own in place before anybody else does.

Each has two lines: what the owner says about itself, and its heartbeat, which is written over in place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from minifold_pl.run.owner import Owner, this_owner

_NAME: Final = re.compile(r"owner-(\d+)")
_HELD, _RELEASED = "held    ", "released"
_NO_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


@dataclass(frozen=True)
class Seen:
    """The owner with the highest number, as its file says."""

    number: int
    path: Path
    owner: Owner | None
    """None where it has not written who it is."""
    beat: tuple[str, int]
    """Changes with every heartbeat."""
    released: bool

    @property
    def who(self) -> str:
        """The owner in words."""
        return "another process" if self.owner is None else str(self.owner)


@dataclass(frozen=True)
class Claimed:
    """A file of our own that has the highest number."""

    owner: Owner
    path: Path
    descriptor: int
    """Holds the lock, as long as it is open."""


def newest(place: Path) -> Seen | None:
    """The file with the highest number, or None."""
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
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            continue
        line, _, beat = said.partition("\n")
        try:
            owner = Owner.from_json(line)
        except ValueError:
            owner = None
        released = beat.rstrip().endswith(_RELEASED)
        return Seen(int(last[1]), path, owner, (beat, changed), released)


def claim(place: Path, number: int, timeout: float) -> Claimed | None:
    """Put our file in place, or None: somebody else was quicker.

    Raises:
        OSError: Disk full, read-only, …
    """
    token = secrets.token_hex(8)
    target = place / file_name(number)
    temporary = place / f".{token}"
    descriptor = os.open(temporary, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        owner = this_owner(number, token, timeout, _lock(descriptor))
        with open(temporary, "r+b") as stream:
            stream.write(owner.to_json().encode() + b"\n" + _beat(0))
            stream.flush()
            os.fsync(stream.fileno())
        if not _link(temporary, target, descriptor):
            os.close(descriptor)
            return None
    except FileNotFoundError:
        # A winner has cleared up.
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    now = newest(place)
    if now is None or now.owner is None or now.owner.token != token:
        # We looked long ago: there have been owners since, and the name was free again.
        target.unlink(missing_ok=True)
        os.close(descriptor)
        return None
    for name in os.listdir(place):
        found = _NAME.fullmatch(name)
        if found is None or int(found[1]) < number:
            # Files of earlier owners, by which they learn of it, and what killed starters left.
            with contextlib.suppress(OSError):
                (place / name).unlink()
    return Claimed(owner, target, descriptor)


def write_beat(path: Path, owner: Owner, count: int, *, released: bool = False) -> None:
    """Write over the heartbeat, in place: that needs no room on a full disk.

    Raises:
        OSError: The file is gone, or the disk is read-only.
    """
    # Opened each time: a file that is held open for writing would keep its disk from being made read-only.
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, _beat(count, released), len(owner.to_json().encode()) + 1)
        # Without it other machines would not see the change for half a minute.
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def file_name(number: int) -> str:
    """Name of the file of the owner with this number."""
    return f"owner-{number:08d}"


def _link(temporary: Path, target: Path, descriptor: int) -> bool:
    try:
        os.link(temporary, target)
    except FileExistsError:
        # A network file system whose answer was lost asks again, and meets its own success.
        return os.fstat(descriptor).st_nlink == 2
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


def _beat(count: int, released: bool = False) -> bytes:
    return f"{count:012d} {_RELEASED if released else _HELD}\n".encode()
