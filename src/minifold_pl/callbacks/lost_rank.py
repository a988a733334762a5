"""A training process whose partners can no longer be reached."""

from __future__ import annotations

from typing import Final

from minifold_pl.run.halt import RetryLater

_SIGNS: Final = ("gloo", "NCCL", "ncclRemoteError", "onnection closed", "onnection reset")


class RankLost(RetryLater):
    """Another process of this run has died; it said why itself, if it could."""


def rank_loss(error: BaseException, processes: int) -> RankLost | None:
    """What an exception says about the other processes of the run, or None where it is about something else.

    Args:
        error: Of this process.
        processes: Of the run.
    """
    told = str(error)
    if processes == 1 or not isinstance(error, RuntimeError) or not any(sign in told for sign in _SIGNS):
        return None
    return RankLost(f"another process of this run was lost: {told.splitlines()[0][:300]}")
