"""A data worker that is killed or stops answering ends the run in order, to be started again."""

from __future__ import annotations

import multiprocessing
import re
from traceback import walk_tb
from typing import Final

from torch.utils.data._utils import signal_handling

from minifold_pl.run.halt import RetryLater

_SIGNS: Final = re.compile(
    r"DataLoader worker \(pid\(?s?\)? ?[\d, ]+\) (exited unexpectedly|is killed by signal)"
    r"|DataLoader timed out after"
)
"""How torch words it, in plain ``RuntimeError``."""
_LOADER: Final = "torch/utils/data/dataloader.py"
_TAKES: Final = "_try_get_data"
_PATIENCE: Final = 5.0
"""Seconds to wait for a killed process to be gone; one that waits for a disk dies when it has its answer."""


class DataWorkerLost(RetryLater):
    """A data worker died (killed, out of memory) or answered nothing within the loader's timeout."""


def notice_deaths_at_the_loader() -> None:
    """Have a worker's death come up where the next batch is waited for, and nowhere else.

    torch raises it from a handler of ``SIGCHLD``: in the middle of a step, of a save, or of the handling of another
    error. Without the handler the loader itself looks after its workers, every five seconds in which no batch comes
    (as it always does on Windows). To be called before the first loader with workers is read.
    """
    signal_handling._SIGCHLD_handler_set = True


def worker_loss(error: BaseException) -> DataWorkerLost | None:
    """What an exception of the data loader says about its workers, or None where it is about something else."""
    link: BaseException | None = error
    while link is not None:
        if (isinstance(link, RuntimeError) and _SIGNS.search(str(link))) or _cut_off(link):
            told = " ".join(str(link).split())[:300] or type(link).__name__
            return DataWorkerLost(
                f"a data worker was lost ({told}); workers are killed where memory runs out: lower data.num_workers "
                "if it comes again"
            )
        link = link.__cause__ or link.__context__
    return None


def _cut_off(error: BaseException) -> bool:
    """Whether the connection to a worker broke while a batch came over it: the loader does not yet know it dead."""
    if not isinstance(error, EOFError | ConnectionError | FileNotFoundError):
        return False
    frames = (frame.f_code for frame, _ in walk_tb(error.__traceback__))
    return any(code.co_name == _TAKES and code.co_filename.endswith(_LOADER) for code in frames)


def kill_workers() -> None:
    """Kill what is left of the workers and wait until they are gone.

    Ending them in order waits for their answer, and one that is stopped or hangs gives none.
    """
    children = multiprocessing.active_children()
    for child in children:
        child.kill()
    for child in children:
        child.join(_PATIENCE)
