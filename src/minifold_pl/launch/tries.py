"""One start of training as a child process, and how it ended."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Final

from minifold_pl.launch.ranks import code_of_the_first
from minifold_pl.launch.rules import Ended
from minifold_pl.run.events import read_events
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.history import Attempt, attempts
from minifold_pl.run.lease import give_back_for_the_dead
from minifold_pl.run.marker import read_marker
from minifold_pl.run.stop_order import stop_order

FORWARDED: Final = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT)
_TAIL: Final = 4096
"""Bytes of the output that are read for the last words."""
_STOPPED = re.compile(r"^(?:\d+: )?stopped by (SIG[A-Z0-9]+);", re.MULTILINE)
_NOISE = re.compile(r"^(srun|slurmstepd|\s|stopped by |\S+\.py:\d+: )|Warning: |^\s*$")


class Signals:
    """Signals that this process had; the first one counts. It outlives them all: it has to see the run's end."""

    def __init__(self) -> None:
        self.first: str | None = None
        self._forward: Callable[[int], None] | None = None
        for number in FORWARDED:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.first is None:
            self.first = signal.Signals(number).name
        if self._forward is not None:
            self._forward(number)

    def forward_to(self, forward: Callable[[int], None] | None) -> None:
        """Who is told; at once where a signal came before."""
        self._forward = forward
        if forward is not None and self.first is not None:
            forward(signal.SIGUSR1)


def run_once(
    command: Sequence[str],
    folder: RunFolder,
    signals: Signals,
    *,
    output: Path,
    environment: Mapping[str, str],
    every: Callable[[float], None] = lambda seconds: None,
    several: bool = False,
) -> Ended:
    """Start training, wait for its end, and find out how it ended.

    Args:
        command: What to start; it prints where this process prints.
        folder: The run's.
        signals: What comes is passed on.
        output: The file that this process prints to: its end holds the last words.
        environment: Of the command.
        several: The command is ``srun`` with several processes.
        every: Called about once a second with the seconds since the start; may raise nothing.
    """
    before = _newest_attempt(folder)
    begun_at = output.stat().st_size if output.is_file() else 0
    start = monotonic()
    # A group of its own: what is meant for it comes through us, once.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=dict(environment), start_new_session=True)
    signals.forward_to(lambda number: _send(child, number))
    try:
        while True:
            try:
                code = child.wait(timeout=1.0)
                break
            except subprocess.TimeoutExpired:
                every(monotonic() - start)
    finally:
        signals.forward_to(None)
    with suppress(OSError):
        # A successor on another machine need not wait for the heartbeat of a process that was killed.
        give_back_for_the_dead(folder)
    told = _tail(output, begun_at)
    if several:
        code = code_of_the_first(told, code)
    newer = [one for one in attempts(read_events(folder.events)) if one.number > before]
    return Ended(
        code=code if code >= 0 else 128 - code,
        asked=_asked(newer, told),
        progress=made_progress(newer),
        marker=read_marker(folder.marker),
        told=last_words(told, newer),
        stop=told_to_stop(folder),
    )


def told_to_stop(folder: RunFolder) -> str | None:
    """Whose order it is that the run ends, or None."""
    order = stop_order(folder)
    return None if order is None else str(order)


def made_progress(starts: Sequence[Attempt]) -> bool:
    """Whether one of these starts put a newer checkpoint on the disk than it began with, or ended the run."""
    return any(
        one.end == "done" or (one.counts.get("saved", 0) > 0 and (one.last_step or 0) > (one.first_step or 0))
        for one in starts
    )


def attempts_after(folder: RunFolder, number: int) -> list[Attempt]:
    """The starts of a run with higher numbers."""
    return [one for one in attempts(read_events(folder.events)) if one.number > number]


def newest_attempt(folder: RunFolder) -> int:
    """The number of the last start that left an event; 0 before the first."""
    return _newest_attempt(folder)


def last_words(output: str, starts: Sequence[Attempt]) -> str:
    """Why a start ended, in a line: its last event says it, or the last lines that it printed."""
    for one in reversed(starts):
        if one.end and one.end not in ("done", "interrupted") and one.reason:
            return one.reason
    unlabelled = [re.sub(r"^\d+: ", "", line) for line in output.splitlines()]
    lines = [line.strip() for line in unlabelled if not _NOISE.search(line)]
    return " | ".join(lines[-2:])[-400:]


def _asked(starts: Sequence[Attempt], output: str) -> str | None:
    for one in reversed(starts):
        if one.end == "interrupted":
            return one.reason or "a signal"
    found = _STOPPED.findall(output)
    return found[-1] if found else None


def _newest_attempt(folder: RunFolder) -> int:
    return max((one.number for one in attempts(read_events(folder.events))), default=0)


def _tail(output: Path, begun_at: int) -> str:
    try:
        with output.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(begun_at, size - _TAIL))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


def _send(child: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        child.send_signal(number)
