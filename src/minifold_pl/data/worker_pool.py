"""Work in processes that may hang or die on a single item without taking the rest with them.

Parsers in C++ end a process when they meet what their authors did not think of, and Python's own pools then lose
all the work in hand. Here every item is answered for by itself: with its result, or with why there is none.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from multiprocessing.connection import Connection, wait
from typing import Any, Final

BATCH: Final = 16
"""Items sent at once: fewer make processes wait for one another, more lie idle at the end."""
_LARGEST_BATCH: Final = 1 << 23
"""Bytes that items sent at once may hold, unless one is larger by itself."""
_COUNT: Final = struct.Struct("<Q")
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
    together: str = ""
    """A function of many items, where there is one: called with a list of arguments and a function that it tells
    the place of each as it is taken up, and ``None`` when it is at all of them; gives as many results."""
    size: int = 0
    """Bytes that it will hold: items that are large together are not done together."""


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    channel: Connection
    taken: mmap.mmap
    """Where the process writes how many items it has taken up so far; 0 when it is at several."""
    hand: deque[Job] = field(default_factory=deque)
    since: float = 0.0
    """When it took up the item that it is at."""
    answered: int = 0
    _seen: int = -1

    @property
    def at(self) -> int | None:
        """Place in its hand of the item that it is at; None when it is at several."""
        taken = _COUNT.unpack_from(self.taken)[0]
        return min(max(taken - self.answered - 1, 0), len(self.hand) - 1) if taken else None

    def is_late(self) -> bool:
        """It is longer at an item than that may take."""
        taken = _COUNT.unpack_from(self.taken)[0]
        if taken != self._seen:
            self._seen, self.since = taken, time.monotonic()
        return time.monotonic() - self.since > self.hand[self.at or 0].seconds


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
                elif worker.is_late():
                    seconds = worker.hand[worker.at or 0].seconds
                    yield from _lost(
                        worker, workers, waiting, Failure("took too long", f"more than {seconds:.0f} s")
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
        size = held = 0
        while len(batch) < BATCH and (job := waiting.take()) is not None:
            size += sum(len(a) for a in job.arguments if isinstance(a, bytes | str))
            if size > _LONGEST_MESSAGE and (batch or worker.hand):
                waiting.give_back([job])
                break
            held += job.size
            if held > _LARGEST_BATCH and batch:
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
            worker.channel.send([(job.function, job.together, job.arguments) for job in batch])
        except OSError:
            return  # it has died: found out when its answer is waited for
        if size > _LONGEST_MESSAGE:
            return


def _received(worker: _Worker, workers: list[_Worker], waiting: _Waiting) -> Iterator[tuple[int, Any]]:
    try:
        answers = worker.channel.recv()
    except (EOFError, OSError):
        how = _how(worker)
        waiting.deaths += not waiting.answers and how.startswith("exit code")
        if waiting.deaths >= _MOST_DEATHS:
            raise PoolError(
                f"{waiting.deaths} processes ended before their first answer, {how}: see above"
            ) from None
        yield from _lost(worker, workers, waiting, Failure("the process that read it died", how))
        return
    waiting.answers += len(answers)
    worker.answered += len(answers)
    jobs = [worker.hand.popleft() for _ in answers]
    worker.since = time.monotonic()
    _feed(worker, waiting)
    for job, answer in zip(jobs, answers, strict=True):
        yield job.key, answer


def _lost(
    worker: _Worker, workers: list[_Worker], waiting: _Waiting, failure: Failure
) -> Iterator[tuple[int, Any]]:
    """Give up the item that a process was at, and put the others of its hand back.

    Where it was at several, all are put back, to be done one by one.
    """
    workers.remove(worker)
    at = worker.at
    _end(worker)
    if at is None:
        waiting.give_back([replace(job, together="") for job in worker.hand])
        return
    job = worker.hand[at]
    del worker.hand[at]
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
    count = os.memfd_create("taken")
    os.truncate(count, _COUNT.size)
    # Whatever this process can import, the other can, too.
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-c", f"from {__name__} import serve; serve({theirs.fileno()}, {count})"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        pass_fds=[theirs.fileno(), count],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    theirs.close()
    taken = mmap.mmap(count, _COUNT.size)
    os.close(count)
    _COUNT.pack_into(taken, 0, 1)
    return _Worker(process, Connection(ours.detach()), taken, since=time.monotonic())


def _end(worker: _Worker) -> None:
    worker.channel.close()
    worker.process.kill()
    worker.process.wait()
    worker.taken.close()


def serve(descriptor: int, count: int) -> None:
    """What a process of the pool does: calls functions until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other end decides when to stop
    channel = Connection(descriptor)
    taken = mmap.mmap(count, _COUNT.size)
    done = 0
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            batch = channel.recv()
            for calls in [batch] if _are_together(batch) else [[call] for call in batch]:
                channel.send(_answers(calls, taken, done))
                done += len(calls)


def _are_together(batch: list[tuple[str, str, Any]]) -> bool:
    return len({together for _, together, _ in batch}) == 1 and bool(batch[0][1])


def _answers(calls: list[tuple[str, str, Any]], taken: mmap.mmap, done: int) -> list[Any]:
    """Of calls that are done together, or of a single one."""

    def begin(place: int | None) -> None:
        _COUNT.pack_into(taken, 0, 0 if place is None else done + place + 1)

    if calls[0][1]:
        try:
            return list(_function(calls[0][1])([arguments for *_, arguments in calls], begin))
        except Exception:
            if len(calls) > 1:  # it is one of them
                return [
                    answer
                    for place, (name, _, arguments) in enumerate(calls)
                    for answer in _answers([(name, "", arguments)], taken, done + place)
                ]
    begin(0)
    try:
        return [_function(calls[0][0])(*calls[0][2])]
    except Exception as error:  # whatever one item does, the next one is read
        text = " ".join(str(error).split())[:200]
        return [Failure("could not be read", f"{type(error).__name__}: {text}")]


@cache
def _function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), attribute)
    return function
