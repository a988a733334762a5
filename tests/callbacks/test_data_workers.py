"""What torch says about its workers; killed and stopped for real in tests/resilience."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest
from torch.utils.data import DataLoader, Dataset

from minifold_pl.callbacks.data_workers import kill_workers, worker_loss


class Fatal(Dataset[int]):
    """Its worker kills itself at an item, or hangs there."""

    def __init__(self, killed: bool) -> None:
        self.killed = killed

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> int:
        if i == 3:
            if self.killed:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600)
        return i


@pytest.mark.parametrize(("killed", "timeout"), [(True, 0), (False, 1.0)])
def test_a_worker_that_dies_or_hangs_is_known_by_what_the_loader_raises(killed, timeout) -> None:
    loader = DataLoader(Fatal(killed), batch_size=1, num_workers=1, timeout=timeout)
    with pytest.raises(RuntimeError) as error:
        list(loader)
    lost = worker_loss(error.value)
    assert lost is not None
    assert "DataLoader" in lost.reason
    kill_workers()
    begun = time.monotonic()
    for child in multiprocessing.active_children():
        child.join(5)
    assert time.monotonic() - begun < 2
    assert multiprocessing.active_children() == []


def test_it_is_found_behind_other_errors() -> None:
    try:
        try:
            raise RuntimeError("DataLoader worker (pid 17) is killed by signal: Killed. ")
        except RuntimeError as inner:
            raise ValueError("while reading") from inner
    except ValueError as outer:
        assert worker_loss(outer) is not None


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory"),
        ValueError("DataLoader timed out after 3 seconds"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_are_not_about_workers(error: BaseException) -> None:
    assert worker_loss(error) is None


def test_a_worker_that_raises_is_an_error_of_the_data_and_no_loss() -> None:
    class Raises(Fatal):
        def __getitem__(self, i: int) -> int:
            raise RuntimeError("this chain is bad")

    with pytest.raises(RuntimeError) as error:
        list(DataLoader(Raises(True), num_workers=1))
    assert worker_loss(error.value) is None
