"""Ends of a run and their exit codes."""

from __future__ import annotations

import pytest

from minifold_pl.run import exit_codes
from minifold_pl.run.halt import RetryLater, RunEnded, RunHalted


@pytest.mark.parametrize(("kind", "code"), [(RunHalted, exit_codes.HALTED), (RetryLater, exit_codes.RETRY)])
def test_an_end_tells_its_starter_what_to_do(kind: type[RunEnded], code: int) -> None:
    end = kind("the pair stack gets no gradient")
    assert end.exit_code == code
    assert end.reason == str(end) == "the pair stack gets no gradient"


def test_a_retryable_end_of_another_kind_keeps_its_code() -> None:
    class NoDisk(RetryLater):
        """The disk is full."""

    assert NoDisk("full").exit_code == exit_codes.RETRY
    assert not issubclass(NoDisk, RunHalted)
