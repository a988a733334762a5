"""A training that does not move; ended for real in tests/resilience."""

from __future__ import annotations

import threading
import time
from itertools import count

import lightning.pytorch as pl
import pytest

from minifold_pl.callbacks.hang_watch import HangWatch, Silence
from minifold_pl.run.events import read_events
from minifold_pl.run.folder import RunFolder


def test_silence_adds_up_while_nothing_moves_and_ends_with_a_sign_of_life() -> None:
    silence = Silence(tick=1.0, now=0.0)
    seen = [silence.look(float(t), beats=0 if t < 6 else 1) for t in range(1, 9)]
    assert seen == [0, 1, 2, 3, 4, 0, 1, 2]


def test_a_process_that_was_stopped_for_an_hour_has_not_been_silent() -> None:
    silence = Silence(tick=1.0, now=0.0)
    silence.look(1.0, 0)
    assert silence.look(3601.0, 0) == 2.0


class Sleepy(pl.Callback):
    """Sleeps in one batch, where it may be woken."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == 1:
            time.sleep(self.seconds)


def test_a_batch_that_hangs_is_told_with_the_place_it_hangs_at_and_so_is_its_end(
    tiny, make_trainer, tmp_path, capsys
) -> None:
    watch = HangWatch(seconds=0.2, end=False)
    make_trainer(Sleepy(0.6), watch, max_epochs=1).fit(tiny)
    events = [e for e in read_events(RunFolder(tmp_path).events) if e["event"].startswith("hang")]
    assert (events[0]["event"], events[0]["step"], events[0]["ends"]) == ("hang", 1, False)
    assert [e["event"] for e in events[1:]] in ([], ["hang_over"])
    stacks = (tmp_path / "stacks-rank0.txt").read_text()
    assert "on_train_batch_start" in stacks
    assert "nothing has moved" in capsys.readouterr().err


def test_a_wall_clock_that_jumps_is_no_hang(tiny, make_trainer, tmp_path, monkeypatch) -> None:
    jumps = count()
    year = 365 * 86400.0
    monkeypatch.setattr(time, "time", lambda: next(jumps) % 2 * year)
    make_trainer(HangWatch(seconds=5.0), max_epochs=3).fit(tiny)
    assert not list(tmp_path.glob("stacks*"))


def test_the_thread_ends_with_the_training_however_it_ends(tiny, make_trainer) -> None:
    make_trainer(HangWatch(seconds=5.0), max_epochs=1).fit(tiny)
    tiny.fail_in_epoch = 0
    with pytest.raises(RuntimeError):
        make_trainer(HangWatch(seconds=5.0), max_epochs=1).fit(tiny)
    assert not [t for t in threading.enumerate() if t.name == "hang watch"]
    assert not any(part._forward_pre_hooks for part in tiny.children())


def test_looks_come_often_enough_for_the_limit() -> None:
    """A hang is noticed within the limit and two looks."""
    silence = Silence(tick=0.25, now=0.0)
    times = [0.25 * k for k in range(1, 9)]
    noticed = next(t for t in times if silence.look(t, 0) >= 1.0)
    assert noticed <= 1.5


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="seconds"):
        HangWatch(seconds=0)
