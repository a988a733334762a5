"""Whether the owners of run folders live, seen from anywhere, without asking or disturbing them.

A marker that says RUNNING is what the owner wrote when it began; it may have died since. An owner is believed to live
when its process is seen on this machine, or its heartbeat changes while we look; to be gone when its process is known
to have ended, or its heartbeat stands still until others may take the folder over. No clocks are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from time import monotonic, sleep, time
from typing import Final

from minifold_pl.run.folder import RunFolder
from minifold_pl.run.lease import INTERVAL, TIMEOUT
from minifold_pl.run.lease_file import Seen, newest
from minifold_pl.run.owner import known_to_be_gone, this_machine

_POLL: Final = 0.2


class Life(StrEnum):
    """What is known of the owner of a run folder."""

    NOBODY = "nobody"
    """Nobody owns it: never began, or was given back."""
    LIVES = "lives"
    GONE = "gone"
    """It died, or its machine did, without giving the folder back."""
    UNKNOWN = "unknown"
    """The disk does not say."""


def look_for_life(folders: Sequence[RunFolder], *, patience: float | None = None) -> tuple[Life, ...]:
    """Whether the owner of each folder lives; all are watched at the same time.

    It takes no time where nobody owns a folder or the owner is on this machine, up to the heartbeat's interval for
    an owner that lives elsewhere, and its time-out (10 s) for one that died elsewhere.

    Args:
        folders: Run folders.
        patience: Seconds to watch at most; an owner of which nothing is known by then is ``UNKNOWN``.
    """
    began = monotonic()
    found: dict[int, Life] = {}
    watched: dict[int, Seen] = {}
    for place, folder in enumerate(folders):
        try:
            seen = newest(folder.lease)
        except OSError:
            found[place] = Life.UNKNOWN
            continue
        life = _at_first_sight(seen)
        if life is not None or seen is None:
            found[place] = life or Life.NOBODY
        else:
            watched[place] = seen
    while watched:
        sleep(_POLL)
        waited = monotonic() - began
        for place, before in list(watched.items()):
            life = _watch(folders[place], before, waited)
            if life is None and patience is not None and waited > patience:
                life = Life.UNKNOWN
            if life is not None:
                found[place] = life
                del watched[place]
    return tuple(found[place] for place in range(len(folders)))


def _at_first_sight(seen: Seen | None) -> Life | None:
    if seen is None or seen.released:
        return Life.NOBODY
    if seen.owner is None:
        return None
    if known_to_be_gone(seen.owner, seen.path):
        return Life.GONE
    if seen.owner.machine == this_machine() and abs(time() - seen.beat[1] / 1e9) < 2 * INTERVAL:
        # Its process is there, and wrote a moment ago by the very clock that we read; one that is stopped did not.
        return Life.LIVES
    return None


def _watch(folder: RunFolder, before: Seen, waited: float) -> Life | None:
    try:
        now = newest(folder.lease)
    except OSError:
        return Life.UNKNOWN if waited > TIMEOUT else None
    if now is None or now.released:
        return Life.NOBODY
    if now != before:
        return Life.LIVES
    return Life.GONE if waited > (TIMEOUT if now.owner is None else now.owner.timeout) else None
