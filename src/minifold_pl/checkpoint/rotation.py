"""Which of a run's resumable checkpoints stay."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from minifold_pl.checkpoint.contents import CheckpointError, verify
from minifold_pl.checkpoint.io import remove

_NAME = re.compile(r"resume-(\d+)\.ckpt")


def resume_name(step: int) -> str:
    """File name of the state after ``step`` optimizer steps."""
    return f"resume-{step:08d}.ckpt"


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """The latest checkpoints and every n-th stay; other files of the folder are no concern of it."""

    last: int = 2
    """How many of the latest; -1 keeps all."""
    every: int | None = None
    """Those whose step is a multiple of it stay for good."""

    def __post_init__(self) -> None:
        if self.last < 1 and self.last != -1:
            raise ValueError(
                f"a run needs at least 1 checkpoint to go on from, or -1 for all; got {self.last}"
            )
        if self.every is not None and self.every < 1:
            raise ValueError(f"every n-th step is kept for n ≥ 1, got {self.every}")

    def surplus(self, steps: Iterable[int]) -> list[int]:
        """Which of the steps may go, the oldest first."""
        ordered = sorted(steps)
        if self.last == -1:
            return []
        return [step for step in ordered[: -self.last] if not self._for_good(step)]

    def apply(self, written: Path) -> list[Path]:
        """Remove what may go now that ``written`` is safe on the disk; returns what was removed.

        A file that cannot be removed stays: the next time will do. Checkpoints of more steps than the written one
        are left alone, and they do not crowd it out.
        """
        match = _NAME.fullmatch(written.name)
        if match is None:
            return []
        there = {s: p for s, p in _resumable(written.parent).items() if s <= int(match.group(1))}
        removed = []
        for step in self.surplus(there):
            with contextlib.suppress(OSError):
                remove(there[step])
                removed.append(there[step])
        return removed

    def make_room(self, folder: Path) -> Path | None:
        """On a full disk: remove the oldest checkpoint that is not kept for good, if a newer one is whole.

        Returns:
            What was removed; None where nothing can be spared.
        """
        if self.last == -1:
            return None
        there = _resumable(folder)
        for step in sorted(there):
            if self._for_good(step):
                continue
            if any(_is_whole(there[newer]) for newer in sorted(there, reverse=True) if newer > step):
                try:
                    remove(there[step])
                except OSError:
                    return None
                return there[step]
            return None
        return None

    def _for_good(self, step: int) -> bool:
        return self.every is not None and step % self.every == 0


def _resumable(folder: Path) -> dict[int, Path]:
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.glob("resume-*.ckpt"))
    return {int(match.group(1)): path for match, path in matches if match}


def _is_whole(path: Path) -> bool:
    try:
        verify(path)
    except CheckpointError:
        return False
    return True
