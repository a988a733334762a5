"""What a run printed, over all its jobs: which file it is now, and following it from one to the next."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Final

from minifold_pl.launch.record import read_jobs
from minifold_pl.launch.slurm_query import SlurmAbsent, SlurmSilent, output_of
from minifold_pl.launch.status import jobs_of
from minifold_pl.run.events import read_events
from minifold_pl.run.folder import RunFolder

_POLL: Final = 0.3
_BLOCK: Final = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Output:
    """A file that a part of a run was printed to."""

    path: Path
    job: str
    """Job, or supervisor; empty for a start by hand."""
    host: str = ""


def outputs(folder: RunFolder) -> list[Output]:
    """The files that the run was printed to, the newest last; those that are gone are left out."""
    found: dict[Path, Output] = {}

    def add(path: str, job: str, host: str) -> None:
        place = folder.path / path
        if not place.is_file():
            # The run folder was moved, and its jobs' output with it.
            place = folder.path / "jobs" / place.name
        # A job that was requeued goes on in its file: it is the newest again.
        found.pop(place, None)
        found[place] = Output(path=place, job=job, host=host)

    for line in read_jobs(folder.path):
        if line["event"] == "began" and line.get("log"):
            add(str(line["log"]), str(line.get("job", "")), str(line.get("node") or line.get("host", "")))
    if not found:
        for event in read_events(folder.events):
            if event["event"] == "settings" and event.get("output"):
                add(str(event["output"]), str(event.get("job", "")), str(event.get("host", "")))
    if not found:
        for job in sorted(jobs_of(folder)):
            with suppress(SlurmAbsent, SlurmSilent):
                path = output_of(job)
                if path:
                    add(path, job, "")
    return [one for one in found.values() if one.path.is_file()]


def last_lines(path: Path, count: int) -> tuple[bytes, int]:
    """The last lines of a file, and where it ended then.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as stream:
        end = start = stream.seek(0, os.SEEK_END)
        tail = b""
        while start > 0 and tail.count(b"\n") <= count:
            start = max(0, start - _BLOCK)
            stream.seek(start)
            tail = stream.read(end - start)
    lines = tail.splitlines(keepends=True)
    return b"".join(lines[-count:] if count else []), end


def follow(
    folder: RunFolder, output: Output, place: int, *, over: Callable[[], bool]
) -> Iterator[Output | bytes]:
    """What is printed from now on; a file of another job comes as an :class:`Output` before its first bytes.

    Args:
        folder: The run folder.
        output: The file now.
        place: Where in it to go on.
        over: Whether nothing more will come; asked now and then, where nothing has come for a while.
    """
    quiet = 0
    while True:
        before = place
        for piece, end in _new(output.path, before):
            place = end
            yield piece
        quiet = 0 if place != before else quiet + 1
        if quiet and quiet % 3 == 0:
            now = outputs(folder)
            if now and now[-1].path != output.path:
                # Those in between were short, and are told as well.
                paths = [one.path for one in now]
                first = paths.index(output.path) + 1 if output.path in paths else len(now) - 1
                for one in now[first:-1]:
                    yield one
                    yield from (piece for piece, _ in _new(one.path, 0))
                output, place, quiet = now[-1], 0, 0
                yield output
                continue
            if quiet % 30 == 0 and over():
                yield from (piece for piece, _ in _new(output.path, place))
                return
        sleep(_POLL)


def _new(path: Path, place: int) -> Iterator[tuple[bytes, int]]:
    try:
        with path.open("rb") as stream:
            if stream.seek(0, os.SEEK_END) < place:
                # Truncated: a requeued job without --open-mode=append begins its file anew.
                place = 0
            stream.seek(place)
            while piece := stream.read(_BLOCK):
                place += len(piece)
                yield piece, place
    except OSError:
        return
