"""What the exit code of ``fit`` says to whoever started it; the marker in the run folder says why."""

from __future__ import annotations

from typing import Final

DONE: Final = 0
"""Finished, or already finished before."""
FAILED: Final = 1
"""An error that the next start is likely to meet again."""
WRONG_USE: Final = 2
"""A wrong setting or argument; nothing was started."""
HALTED: Final = 70
"""The run ended itself for good (``EX_SOFTWARE``): starting it again is refused."""
TAKEN: Final = 73
"""Another process owns the run folder and goes on with the run: do not start this one again."""
RETRY: Final = 75
"""Stopped by a signal or by its surroundings, state saved as far as it could be (``EX_TEMPFAIL``): start again."""
INTERRUPTED: Final = 130
"""Stopped from the keyboard (128 + SIGINT)."""
