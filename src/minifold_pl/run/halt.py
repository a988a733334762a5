"""How a run ends itself: for good, or to be started again."""

from __future__ import annotations

from typing import ClassVar

from minifold_pl.run import exit_codes


class RunEnded(Exception):
    """The run ends itself on purpose; whoever started it learns from :attr:`exit_code` what to do.

    Args:
        reason: One or two sentences: what was found, and what to do about it.
    """

    exit_code: ClassVar[int] = exit_codes.FAILED
    heading: ClassVar[str] = "ended"
    """What stands before the reason on the terminal."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RunHalted(RunEnded):
    """Starting again would meet the same end: somebody has to look. The marker in the run folder says HALTED."""

    exit_code = exit_codes.HALTED
    heading = "halted"


class RetryLater(RunEnded):
    """The surroundings failed, not the run: the same command goes on with it. The marker stays RUNNING."""

    exit_code = exit_codes.RETRY
    heading = "stopped, to be started again"
