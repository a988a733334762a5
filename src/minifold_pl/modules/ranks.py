"""What the processes of one training tell each other."""

from __future__ import annotations

from typing import TypeVar

import torch

Value = TypeVar("Value")


def from_all_ranks(world_size: int, value: Value) -> list[Value]:
    """Any value of each rank; every rank must call it at the same place.

    Args:
        world_size: Number of processes; with one, nothing is sent.
        value: This rank's, which is pickled.
    """
    if world_size == 1:
        return [value]
    found = [value] * world_size
    torch.distributed.all_gather_object(found, value)
    return found
