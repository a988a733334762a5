"""Whether what a file holds can be walked through at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

DEEPEST: Final = 100
"""Containers in containers; Lightning's own state has about ten."""
MOST: Final = 20_000_000
"""Values met on a walk, shared ones each time they are met."""


def endless(value: object) -> str | None:
    """Why a walk through ``value`` would not end, or not soon; None where it does.

    A pickle may hold a list that holds itself, or few lists that hold each other so often that a walk takes years:
    everything that compares, counts or prints a checkpoint would hang or run out of stack.
    """
    try:
        _, values = _walk(value, 0, {})
    except RecursionError:
        return f"containers lie more than {DEEPEST} deep in each other, or one holds itself"
    return f"it unfolds to more than {MOST:,} values" if values > MOST else None


def _walk(value: Any, depth: int, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many containers deep ``value`` goes, and how many values it unfolds to."""
    if isinstance(value, Mapping):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = [*value]
    else:
        return 0, 1
    # The whole is alive while it is walked through, so that no id is used twice.
    height, values = known.get(id(value), (0, 0))
    if depth + height > DEEPEST:
        raise RecursionError
    if values:
        return height, values
    below = [_walk(part, depth + 1, known) for part in parts]
    height = 1 + max((h for h, _ in below), default=0)
    values = 1 + sum(v for _, v in below)
    known[id(value)] = height, values
    return height, values
