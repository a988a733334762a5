"""Work in processes that may hang or die on a single item without taking the rest with them.

Parsers in C++ end a process when they meet what their authors did not think of, and Python's own pools then lose
all the work in hand. Here every item is answered for by itself: with its result, or with why there is none.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Final

BATCH: Final = 16
"""Items sent at once: fewer make processes wait for one another, more lie idle at the end."""
_AHEAD: Final = 2
"""Batches a process has in hand, so that it need not wait for the next one."""
_LONGEST_MESSAGE: Final = 1 << 15
"""Bytes; a longer batch is sent to an idle process only: two processes that write to each other wait for ever."""
_TICK: Final = 0.5
_MOST_DEATHS: Final = 8
"""Processes that may end before any has answered: more, and it is not the items' fault."""


@dataclass(frozen=True)
class Failure:
    """Why an item has no result."""

    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Job:
    """An item of work: a function of this package, by module and name, and its arguments."""

    key: int
    """Comes back with the result."""
    function: str
    """``package.module:function``; called in the process with ``arguments``."""
    arguments: tuple[Any, ...]
    seconds: float = 60.0
    """The longest it may take."""


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    channel: Connection
    hand: deque[Job] = field(default_factory=deque)
    since: float = 0.0
    """When it took up the first item in its hand."""


def run_jobs(jobs: Iterable[Job], processes: int) -> Iterator[tuple[int, Any]]:
    """Results of all jobs as they come, as (key, result); a :class:`Failure` where a job gave none.

    Jobs are drawn as they are needed. An exception of a job's function is a failure; so is a process that dies or
    takes too long, which is replaced.

    Raises:
        PoolError: processes end before they answer at all.
    """
    waiting = _Waiting(iter(jobs))
    workers: list[_Worker] = []
    try:
        while True:
            while len(workers) < processes and waiting:
                workers.append(_started())
                _feed(workers[-1], waiting)
            busy = [worker for worker in workers if worker.hand]
            if not busy:
                return
            ready = wait([worker.channel for worker in busy], timeout=_TICK)
            for worker in busy:
                if worker.channel in ready:
                    yield from _received(worker, workers, waiting)
                elif time.monotonic() - worker.since > worker.hand[0].seconds:
                    job = worker.hand[0]
                    yield from _lost(
                        worker, workers, waiting, Failure("took too long", f"more than {job.seconds:.0f} s")
                    )
    finally:
        for worker in workers:
            _end(worker)


class PoolError(RuntimeError):
    """Processes cannot be started at all."""


class _Waiting:
    """Jobs that no process has: those that were given back, then new ones."""

    def __init__(self, jobs: Iterator[Job]) -> None:
        self.answers = 0
        """From all processes so far."""
        self.deaths = 0
        """Processes that ended by themselves before there was any answer."""
        self._jobs = jobs
        self._back: deque[Job] = deque()

    def __bool__(self) -> bool:
        if not self._back:
            self._back.extend(job for job in [next(self._jobs, None)] if job is not None)
        return bool(self._back)

    def take(self) -> Job | None:
        """The next job, None when there is none."""
        return self._back.popleft() if self else None

    def give_back(self, jobs: Iterable[Job]) -> None:
        """Put jobs back, before all others."""
        self._back.extendleft(reversed(list(jobs)))


def _feed(worker: _Worker, waiting: _Waiting) -> None:
    """Fill a process's hand."""
    while len(worker.hand) <= (_AHEAD - 1) * BATCH:
        batch: list[Job] = []
        size = 0
        while len(batch) < BATCH and (job := waiting.take()) is not None:
            size += sum(len(a) for a in job.arguments if isinstance(a, bytes | str))
            if size > _LONGEST_MESSAGE and (batch or worker.hand):
                waiting.give_back([job])
                break
            batch.append(job)
            if size > _LONGEST_MESSAGE:
                break
        if not batch:
            return
        if not worker.hand:
            worker.since = time.monotonic()
        worker.hand.extend(batch)
        try:
            worker.channel.send([(job.function, job.arguments) for job in batch])
        except OSError:
            return  # it has died: found out when its answer is waited for
        if size > _LONGEST_MESSAGE:
            return


def _received(worker: _Worker, workers: list[_Worker], waiting: _Waiting) -> Iterator[tuple[int, Any]]:
    try:
        answer = worker.channel.recv()
    except (EOFError, OSError):
        how = _how(worker)
        waiting.deaths += not waiting.answers and how.startswith("exit code")
        if waiting.deaths >= _MOST_DEATHS:
            raise PoolError(
                f"{waiting.deaths} processes ended before their first answer, {how}: see above"
            ) from None
        yield from _lost(worker, workers, waiting, Failure("the process that read it died", how))
        return
    waiting.answers += 1
    job = worker.hand.popleft()
    worker.since = time.monotonic()
    _feed(worker, waiting)
    yield job.key, answer


def _lost(
    worker: _Worker, workers: list[_Worker], waiting: _Waiting, failure: Failure
) -> Iterator[tuple[int, Any]]:
    """Give up the item that a process was at, and put the others of its hand back."""
    workers.remove(worker)
    _end(worker)
    job = worker.hand.popleft()
    waiting.give_back(worker.hand)
    yield job.key, failure


def _how(worker: _Worker) -> str:
    code = worker.process.wait()
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"signal {signal.Signals(-code).name}"
    return f"signal {-code}"


def _started() -> _Worker:
    ours, theirs = socket.socketpair()
    # Whatever this process can import, the other can, too.
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-c", f"from {__name__} import serve; serve({theirs.fileno()})"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    theirs.close()
    return _Worker(process, Connection(ours.detach()), since=time.monotonic())


def _end(worker: _Worker) -> None:
    worker.channel.close()
    worker.process.kill()
    worker.process.wait()


def serve(descriptor: int) -> None:
    """What a process of the pool does: calls functions until the other end is closed."""
    from importlib import import_module

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other end decides when to stop
    channel = Connection(descriptor)
    functions: dict[str, Any] = {}
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            for name, arguments in channel.recv():
                if name not in functions:
                    module, _, attribute = name.partition(":")
                    functions[name] = getattr(import_module(module), attribute)
                try:
                    answer = functions[name](*arguments)
                except Exception as error:  # whatever one item does, the next one is read
                    text = " ".join(str(error).split())[:200]
                    answer = Failure("could not be read", f"{type(error).__name__}: {text}")
                channel.send(answer)
