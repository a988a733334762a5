"""Requests to stop, by signal: a handler sets a flag and does no more.

Whoever trains asks :func:`requested` where its state is whole (between batches), saves, and leaves. So a signal
that comes during the imports, inside a save or twice in a row finds nothing half done.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT)
"""Preemption, the time limit's warning (as Slurm and submitit send it), a lost terminal, ^C."""


class RunInterrupted(BaseException):
    """The run leaves at a boundary because it was asked to; not an error, so no ``except Exception`` catches it.

    Args:
        name: The signal, e.g. ``SIGTERM``.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class _Request:
    """The first signal that came."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.depth = 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGINT and self.name == name:
            # Pressed twice: the person at the keyboard does not want to wait for the batch.
            raise KeyboardInterrupt
        if self.name is None:
            self.name = name


_REQUEST = _Request()


def requested() -> str | None:
    """The name of the first signal that asked to stop, or None."""
    return _REQUEST.name


def request(name: str) -> None:
    """Ask to stop as a signal of that name would: another rank had one."""
    if _REQUEST.name is None:
        _REQUEST.name = name


def is_heard() -> bool:
    """Whether this process listens: it is there to train, and answers a request."""
    return _REQUEST.depth > 0


@contextmanager
def listening() -> Iterator[None]:
    """Take over the stop signals for the block; in another thread than the main one, do nothing.

    Nested blocks are one. At the end the handlers are as before, and a request that was not met is forgotten.
    """
    if threading.current_thread() is not threading.main_thread() or _REQUEST.depth:
        yield
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    _REQUEST.depth += 1
    try:
        for number in STOP_SIGNALS:
            signal.signal(number, _REQUEST.handle)
        yield
    finally:
        for number, handler in before.items():
            # None: installed from C; it cannot be put back, so the default is the nearest thing.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _REQUEST.depth -= 1
        _REQUEST.name = None


def listen_for_good() -> None:
    """Take over the stop signals for the rest of the process: it is there to train."""
    _REQUEST.depth += 1
    for number in STOP_SIGNALS:
        signal.signal(number, _REQUEST.handle)


def ignore() -> None:
    """From now on no stop signal matters: the process is on its way out, with the code that says how it ended.

    Ending an interpreter with its libraries takes a second, and ``SIG_IGN`` outlives Python's own handlers.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def ignore_in_worker(_: int = 0) -> None:
    """For data workers: a stop request is the trainer's to answer, which needs them until it has."""
    for number in STOP_SIGNALS:
        signal.signal(number, _leave_to_trainer)


def _leave_to_trainer(number: int, frame: FrameType | None) -> None:
    """Not ``SIG_IGN``: programs that the worker starts would inherit that."""
