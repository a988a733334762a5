"""Whether this process may still write to a run folder.

Whoever owns a folder (:mod:`minifold_pl.run.lease`) puts a guard here; whatever writes there asks before it does.
A process that was stopped, taken over and woken up learns of it at its next write and writes no more.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar, Protocol

from minifold_pl.run import exit_codes
from minifold_pl.run.halt import RetryLater, RunEnded


class LeaseLost(RunEnded):
    """Another process owns the run folder now. It goes on with the run: this one is not to be started again."""

    exit_code: ClassVar[int] = exit_codes.TAKEN
    heading = "lost the run folder"


class LeaseGone(RetryLater):
    """The run folder was moved, or its ``lease/`` removed, and nobody else goes on with the run: start it again."""


class Guard(Protocol):
    """The right to write to a folder."""

    @property
    def number(self) -> int:
        """How often the folder had an owner, this one included."""

    def check(self) -> None:
        """Raise :class:`LeaseLost` or :class:`LeaseGone` where the right is lost."""


_GUARDS: dict[Path, Guard] = {}
_TOLD: set[Path] = set()


def put_guard(folder: Path, guard: Guard) -> None:
    """From now on, writes of this process to ``folder`` and below it need the guard's consent."""
    place = Path(os.path.realpath(folder))
    _GUARDS[place] = guard
    _TOLD.discard(place)


def remove_guard(folder: Path) -> None:
    """End what :func:`put_guard` began."""
    place = Path(os.path.realpath(folder))
    _GUARDS.pop(place, None)
    _TOLD.discard(place)


def guard_of(path: Path) -> Guard | None:
    """The guard of the folder that ``path`` lies in, or None: nobody in this process has asked for one."""
    found = _find(path)
    return None if found is None else _GUARDS[found]


def check(path: Path) -> None:
    """Ask before a write to ``path``.

    Raises:
        LeaseLost: This process may no longer write there: another one does.
        LeaseGone: This process may no longer write there, and nobody else does.
    """
    guard = guard_of(path)
    if guard is not None:
        guard.check()


def may_write(path: Path) -> bool:
    """Ask before rows are added to a log.

    Returns:
        False where the disk does not say (what is to be written can wait), and once the loss was told and the process
        is on its way out.

    Raises:
        LeaseLost: As :func:`check`, the first time.
        LeaseGone: As :func:`check`, the first time.
    """
    found = _find(path)
    if found is None:
        return True
    if found in _TOLD:
        return False
    try:
        _GUARDS[found].check()
    except (LeaseLost, LeaseGone):
        _TOLD.add(found)
        raise
    except OSError:
        return False
    return True


def may_note(path: Path) -> bool:
    """Ask before an event is noted: as :func:`may_write`, and where nobody owns the folder, so that it says why.

    Raises:
        LeaseLost: As :func:`check`, the first time.
    """
    found = _find(path)
    if found is None:
        return True
    try:
        _GUARDS[found].check()
    except LeaseGone:
        return True
    except LeaseLost:
        if found in _TOLD:
            return False
        _TOLD.add(found)
        raise
    except OSError:
        return False
    return True


def _find(path: Path) -> Path | None:
    if not _GUARDS:
        return None
    place = Path(os.path.realpath(path))
    return next((folder for folder in (place, *place.parents) if folder in _GUARDS), None)
