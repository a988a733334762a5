"""Leave the word HALTED, with the reason, in the folder of a run that is given up."""

from __future__ import annotations

import sys
from contextlib import suppress

from minifold_pl.run.events import append_event, read_events
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.halt import RunEnded
from minifold_pl.run.history import attempts
from minifold_pl.run.lease import acquire
from minifold_pl.run.marker import Marker, RunState, read_marker, write_marker


def give_up(folder: RunFolder, why: str) -> None:
    """Mark a run as halted, where nobody trains in it and the disk takes it; say so where not.

    ``fit`` refuses it then until somebody says that they have looked (``submit --after-halt``).
    """
    try:
        with acquire(folder):
            marker = read_marker(folder.marker)
            starts = attempts(read_events(folder.events))
            step = max((one.last_step or 0 for one in starts), default=0)
            epoch = 0 if marker is None else marker.epoch
            append_event(folder.events, "halted", reason=why, step=step, epoch=epoch)
            write_marker(folder.marker, Marker(state=RunState.HALTED, reason=why, epoch=epoch, step=step))
    except (RunEnded, OSError) as error:
        with suppress(OSError):
            print(f"the run could not be marked as halted: {error}", file=sys.stderr, flush=True)
