"""A data worker that is killed or stops answering ends the run in order, to be started again."""

from __future__ import annotations

import multiprocessing
import re
from typing import Final

from minifold_pl.run.halt import RetryLater

_SIGNS: Final = (
    re.compile(r"DataLoader worker \(pid\(?s?\)? ?[\d, ]+\).* exited unexpectedly"),
    re.compile(r"DataLoader worker \(pid \d+\) is killed by signal"),
    re.compile(r"DataLoader worker \(pid \d+\) exited unexpectedly"),
    re.compile(r"DataLoader timed out after"),
)
"""How torch words it; all are plain ``RuntimeError``."""


class DataWorkerLost(RetryLater):
    """A data worker died (killed, out of memory) or answered nothing within the loader's timeout."""


def worker_loss(error: BaseException) -> DataWorkerLost | None:
    """What an exception of the data loader says about its workers, or None where it is about something else.

    torch raises from a signal handler, so that the error may come up anywhere in the training step.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, RuntimeError):
            text = " ".join(str(link).split())
            if any(sign.search(text) for sign in _SIGNS):
                return DataWorkerLost(
                    f"a data worker was lost ({text[:300]}); workers are killed where memory runs out: "
                    "lower data.num_workers if it comes again"
                )
        link = link.__cause__ or link.__context__
    return None


def kill_workers() -> None:
    """Kill what is left of the workers.

    Ending them in order waits for their answer, and one that is stopped or hangs gives none.
    """
    for child in multiprocessing.active_children():
        child.kill()
