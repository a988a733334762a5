"""Processes that Lightning starts for the other ranks of a machine."""

from __future__ import annotations

import os
from subprocess import Popen
from time import sleep
from typing import Any

from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch.strategies.launchers import subprocess_script

GRACE = 60.0
"""Seconds from the end of one rank in which the first one may save, say why and leave by itself."""


def leave_time_to_the_main_process() -> None:
    """Keep Lightning from killing the first rank as soon as another one has ended with a code that is not 0.

    All ranks leave together, with codes that say how; the first has more to do and is a little later. One that waits
    in vain for a rank that has died is still ended, after :data:`GRACE`.
    """
    subprocess_script._launch_process_observer = _observe


def _observe(child_processes: list[Popen[Any]]) -> None:
    _Patient(os.getpid(), child_processes).start()


class _Patient(_ChildProcessObserver):
    def _terminate_all(self) -> None:
        # A thread that ends with the process.
        sleep(GRACE)
        super()._terminate_all()
