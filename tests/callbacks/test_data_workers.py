"""What torch says about its workers; killed and stopped for real in tests/resilience."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from minifold_pl.callbacks.data_workers import kill_workers, notice_deaths_at_the_loader, worker_loss


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


@pytest.fixture(autouse=True)
def _at_the_loader() -> Iterator[None]:
    """As ``fit`` has it; the process that runs the tests gets its own way back."""
    flag, handler = signal_handling._SIGCHLD_handler_set, signal.getsignal(signal.SIGCHLD)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    notice_deaths_at_the_loader()
    yield
    kill_workers()
    signal_handling._SIGCHLD_handler_set = flag
    signal.signal(signal.SIGCHLD, handler)


@pytest.mark.parametrize(("killed", "timeout"), [(True, 0), (False, 1.0)])
def test_a_worker_that_dies_or_hangs_is_known_by_what_the_loader_raises(killed, timeout) -> None:
    loader = DataLoader(Fatal(killed), batch_size=1, num_workers=1, timeout=timeout)
    # Which one it is depends on what the worker was just sending.
    with pytest.raises((RuntimeError, ConnectionError, EOFError, FileNotFoundError)) as error:
        list(loader)
    assert worker_loss(error.value) is not None
    # Nothing that could raise the same again in the middle of something else.
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL


def test_stopped_workers_are_killed_at_once() -> None:
    loader = iter(DataLoader(Fatal(killed=False), batch_size=1, num_workers=2))
    assert next(loader) == 0
    children = multiprocessing.active_children()
    for child in children:
        assert child.pid is not None
        os.kill(child.pid, signal.SIGSTOP)
    begun = time.monotonic()
    kill_workers()
    assert time.monotonic() - begun < 5
    assert len(children) == 2
    assert not any(child.is_alive() for child in children)


def test_a_connection_that_breaks_while_a_batch_comes_is_a_lost_worker_and_no_other_broken_connection() -> (
    None
):
    loader = iter(DataLoader(Fatal(killed=False), batch_size=1, num_workers=1))
    next(loader)

    def broken(timeout: float) -> None:
        raise ConnectionResetError(104, "Connection reset by peer")

    loader._data_queue = SimpleNamespace(get=broken)
    with pytest.raises(ConnectionResetError) as error:
        loader._try_get_data()
    assert worker_loss(error.value) is not None
    with pytest.raises(ConnectionResetError) as other:
        broken(1)
    assert worker_loss(other.value) is None
    kill_workers()


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
