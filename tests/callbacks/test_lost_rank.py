"""Processes that lose each other; killed for real in tests/resilience."""

from __future__ import annotations

import pytest

from minifold_pl.callbacks.lost_rank import rank_loss
from minifold_pl.run.exit_codes import RETRY

GLOO = RuntimeError("[/x/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:25514.\nmore")


def test_a_partner_that_is_gone_is_a_retry() -> None:
    lost = rank_loss(GLOO, processes=2)
    assert lost is not None
    assert lost.exit_code == RETRY
    assert "more" not in lost.reason


@pytest.mark.parametrize(
    ("error", "processes"), [(GLOO, 1), (RuntimeError("out of memory"), 2), (ValueError("gloo"), 2)]
)
def test_anything_else_is_not(error: BaseException, processes: int) -> None:
    assert rank_loss(error, processes) is None
