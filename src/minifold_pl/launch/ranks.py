"""How the processes of one ``srun`` leave: the first one last, and with its own word on how it ended.

``srun --kill-on-bad-exit`` ends all processes as soon as one has ended with a code that is not 0, which a rank that
waits in vain for a dead one needs. But a run that stops in good order ends with such codes, too, and its first process
has more to do: events, the lease, dashboards. And what ``srun`` itself ends with is the highest code of all, 143 for
those that it killed.
"""

from __future__ import annotations

import os
import re
import signal
from time import sleep
from typing import Final

GRACE: Final = 60.0
"""Seconds for the first process; it ends the others."""
_FIRST = re.compile(
    r"srun: error: \S+: tasks? 0(?:[-,][\d,-]*)?: (?:Exited with exit code (\d+)|(Killed|Terminated))"
)


def leave_after_the_first(code: int) -> None:
    """In another process than the first of a job step: wait for that one, where this one ends with an error."""
    first = os.environ.get("SLURM_PROCID", "0") == "0"
    if code == 0 or first or not os.environ.get("SLURM_STEP_ID", "").isdigit():
        return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sleep(GRACE)


def code_of_the_first(output: str, code: int) -> int:
    """The exit code of the first process, by what ``srun`` has printed; ``code``, its own, where it says nothing."""
    found = list(_FIRST.finditer(output))
    if not found:
        return code
    if found[-1].group(1) is None:
        return 128 + (signal.SIGKILL if found[-1].group(2) == "Killed" else signal.SIGTERM)
    return int(found[-1].group(1))
