"""How long work is shown: a bar on a terminal, sparse lines otherwise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINES = 10
"""Lines a whole piece of work prints where there is no terminal."""


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function that takes how many of ``total`` were finished since it was last called.

    Everything goes to standard error, so that standard output holds results only.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(description, total=total)
            yield lambda count: bar.advance(task, count)
        return

    done = shown = 0

    def advance(count: int) -> None:
        nonlocal done, shown
        done += count
        if done * LINES // max(total, 1) > shown or done == total:
            shown = done * LINES // max(total, 1)
            print(f"{description}: {done}/{total}", file=sys.stderr, flush=True)

    yield advance
