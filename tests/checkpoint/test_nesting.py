"""Whether what a file holds can be walked through at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from minifold_pl.checkpoint.contents import CheckpointError, read_checkpoint
from minifold_pl.checkpoint.nesting import DEEPEST, endless


def _ring_of_lists() -> Any:
    ring: list[Any] = [1]
    ring.append({"again": ring})
    return ring


def _ring_of_mappings() -> Any:
    ring: dict[str, Any] = {}
    ring["self"] = ring
    return ring


def _nested(deep: int) -> Any:
    value: Any = 1
    for _ in range(deep):
        value = (value,)
    return value


def _unfolding(levels: int) -> Any:
    value: Any = [0] * 10
    for _ in range(levels):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (_ring_of_lists(), "holds itself"),
        (_ring_of_mappings(), "holds itself"),
        (_nested(DEEPEST + 1), "deep"),
        ({_nested(DEEPEST + 1): 1}, "deep"),
        (_unfolding(60), "unfolds"),
    ],
    ids=["list", "mapping", "deep", "deep key", "unfolding"],
)
def test_a_checkpoint_that_no_walk_gets_through_is_refused(tmp_path: Path, value: Any, said: str) -> None:
    torch.save({"state_dict": {}, "x": value}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=said) as caught:
        read_checkpoint(tmp_path / "a.ckpt")
    assert "\n" not in str(caught.value)


def test_what_is_deep_shared_or_large_within_reason_passes() -> None:
    shared = [torch.zeros(1)]
    assert endless({"a": shared, "b": [shared, shared]}) is None
    assert endless(_nested(DEEPEST)) is None
    assert endless(_unfolding(5)) is None
    assert endless([]) is None


def test_depth_is_that_of_the_deepest_way_to_a_shared_container() -> None:
    half = _nested(DEEPEST // 2 + 1)
    deep: Any = half
    # The short way to it is met first.
    for _ in range(DEEPEST // 2 + 1):
        deep = [deep]
    assert endless([half, deep]) is not None
