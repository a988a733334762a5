"""A person's order to end a run for good: a file in the run folder that everybody who might go on with it looks at.

A signal reaches one process; a file reaches also the job that is still queued, the one that is importing, the one on a
machine that nobody here can signal, and the one that a scheduler starts again next week. Whoever trains sees it within
a heartbeat of the lease (:mod:`minifold_pl.run.lease`), saves and leaves; whoever is about to start does not.

The order stays until the run is taken up again: by ``submit``, which withdraws it, or by ``--run.after_stop N``, where
N is :attr:`StopOrder.after`, so that a job script that holds the flag does not override the next order.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import ClassVar, Final

from minifold_pl.checkpoint.atomic import atomic_write_text
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.halt import RunHalted
from minifold_pl.run.lease_file import newest

REQUEST: Final = "STOP"
"""Name of the request to stop (:func:`minifold_pl.run.stop.request`) where no signal but an order asked for it."""


@dataclass(frozen=True, kw_only=True)
class StopOrder:
    """Who ordered it, and when."""

    by: str
    """User and machine."""
    time: str
    """UTC of that machine's clock, for people."""
    reason: str = ""
    after: int = 0
    """Number of the owner that had the folder last when the order came; 0 where there was none."""

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        return f"stopped by {self.by} at {self.time}{why}"


class RunStopped(RunHalted):
    """The run was ended by an order. The marker in the run folder says STOPPED."""

    heading: ClassVar[str] = "stopped"


def stop_order(folder: RunFolder) -> StopOrder | None:
    """The order, or None. A file that is damaged is an order all the same: nobody writes it by accident."""
    try:
        text = folder.stop_order.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        content = json.loads(text)
        return StopOrder(
            by=str(content["by"]),
            time=str(content["time"]),
            reason=str(content.get("reason", "")),
            after=int(content.get("after", 0)),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return StopOrder(by="somebody", time="an unknown time")


def order_stop(folder: RunFolder, *, by: str, reason: str = "") -> StopOrder:
    """Order the run to end; an order that is there already stays as it is.

    Args:
        folder: The run folder.
        by: User and machine.
        reason: In the user's words.

    Raises:
        OSError: The folder cannot be written.
    """
    before = stop_order(folder)
    if before is not None:
        return before
    seen = newest(folder.lease)
    order = StopOrder(
        by=by,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        reason=reason,
        after=0 if seen is None else seen.number,
    )
    folder.stop_order.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder.stop_order, json.dumps(asdict(order)) + "\n")
    return order


def withdraw_stop(folder: RunFolder) -> None:
    """Take the order back; without one, do nothing."""
    folder.stop_order.unlink(missing_ok=True)


def told_stopped(folder: RunFolder, order: StopOrder) -> str:
    """That the run was stopped, and what to type to take it up again."""
    return (
        f"{folder.path} was {order}\n"
        f"minifold-pl submit --again {shlex.quote(str(folder.path))} goes on with it as it was submitted, "
        f"minifold-pl fit --config {shlex.quote(str(folder.config))} --run.after_stop {order.after} here"
    )
