"""Writing down that a run ended by an order."""

from __future__ import annotations

from typing import Any

from minifold_pl.run.events import append_event, read_events
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.marker import Marker, RunState, read_marker, write_marker
from minifold_pl.run.stop_order import StopOrder


def mark_stopped(folder: RunFolder, order: StopOrder, **place: int) -> None:
    """Write the marker STOPPED and the event ``stopped``, once; a run that is done or halted stays so.

    Called by the owner of the folder. A disk that cannot be written is no error: the order stands, whoever comes next
    does it.

    Args:
        folder: The run folder.
        order: The order.
        place: ``epoch`` and ``step`` where training stands; the last that an event says by default.
    """
    marker = read_marker(folder.marker)
    if marker is not None and (
        marker.state in (RunState.DONE, RunState.HALTED)
        or (marker.state is RunState.STOPPED and marker.reason == str(order))
    ):
        return
    where = place or _last_place(folder)
    append_event(folder.events, "stopped", by=order.by, reason=order.reason, **where)
    try:
        write_marker(folder.marker, Marker(state=RunState.STOPPED, reason=str(order), **where))
    except OSError as error:
        append_event(folder.events, "marker_not_written", state=RunState.STOPPED, error=str(error))


def _last_place(folder: RunFolder) -> dict[str, Any]:
    last: dict[str, Any] = {}
    try:
        for event in read_events(folder.events):
            last |= {name: event[name] for name in ("epoch", "step") if isinstance(event.get(name), int)}
    except OSError:
        # As far as it could be read.
        pass
    return last
