"""A signal ends a run at the next boundary, with everything saved."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from minifold_pl.callbacks.checkpoints import ResumeCheckpoint
from minifold_pl.callbacks.exact_resume import ExactResume
from minifold_pl.callbacks.stop_on_signal import StopOnSignal
from minifold_pl.run.stop import RunInterrupted, listening


class _Signal(pl.Callback):
    """Sends this process a signal at the n-th time that a hook is passed."""

    def __init__(self, hook: str, n: int, *signals: signal.Signals) -> None:
        self.left, self.signals = n, signals
        setattr(self, hook, self._pass)

    def _pass(self, *args: Any, **kwargs: Any) -> None:
        if self.left == 0:
            for number in self.signals:
                os.kill(os.getpid(), number)
        self.left -= 1


@pytest.fixture(autouse=True)
def _listen() -> Iterator[None]:
    with listening():
        yield


def _interrupted(tiny, make_trainer, hook: str, n: int, *signals: signal.Signals, **settings: Any) -> str:
    trainer = make_trainer(
        ExactResume(), _Signal(hook, n, *signals), ResumeCheckpoint(), StopOnSignal(), **settings
    )
    trainer._signal_connector.register_signal_handlers = lambda: None
    with pytest.raises(RunInterrupted) as stop:
        trainer.fit(tiny)
    return stop.value.name


def _newest(folder: Path) -> dict[str, Any]:
    newest = max((folder / "checkpoints").glob("*.ckpt"))
    return torch.load(newest, weights_only=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
def test_it_ends_after_the_step_that_is_under_way_with_that_step_saved(
    number: signal.Signals, tiny, make_trainer, tmp_path
) -> None:
    assert _interrupted(tiny, make_trainer, "on_train_batch_start", 4, number) == number.name
    saved = _newest(tmp_path)
    assert saved["global_step"] == 5
    assert saved["state_dict"]["weight"].item() == -5.0


def test_within_a_window_it_ends_at_the_windows_end(tiny, make_trainer, tmp_path) -> None:
    _interrupted(tiny, make_trainer, "on_train_batch_start", 3, signal.SIGTERM, accumulate_grad_batches=2)
    assert _newest(tmp_path)["global_step"] == 3


def test_in_validation_it_leaves_what_was_before_the_validation(tiny, make_trainer, tmp_path) -> None:
    _interrupted(tiny, make_trainer, "on_validation_batch_start", 1, signal.SIGTERM)
    saved = _newest(tmp_path)
    assert saved["global_step"] == 6
    make_trainer(ExactResume(), ResumeCheckpoint(), max_epochs=2).fit(
        tiny, ckpt_path=str(max((tmp_path / "checkpoints").glob("*.ckpt"))), weights_only=True
    )
    # The validation is repeated, no batch is.
    assert tiny.seen_in_validation == [-3.0, -6.0, -6.0]


def test_the_first_of_several_signals_is_the_reason_and_it_saves_once(tiny, make_trainer, tmp_path) -> None:
    name = _interrupted(tiny, make_trainer, "on_train_batch_start", 1, signal.SIGUSR1, signal.SIGTERM)
    assert name == "SIGUSR1"
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.ckpt")] == ["resume-00000002.ckpt"]


def test_before_the_first_batch_there_is_nothing_to_save(tiny, make_trainer, tmp_path) -> None:
    _interrupted(tiny, make_trainer, "setup", 0, signal.SIGTERM)
    assert not list((tmp_path / "checkpoints").glob("*.ckpt"))
    assert tiny.weight.item() == 0.0


def test_one_sent_while_a_checkpoint_is_written_lets_it_be_finished(tiny, make_trainer, tmp_path) -> None:
    _interrupted(tiny, make_trainer, "on_save_checkpoint", 0, signal.SIGTERM)
    saved = _newest(tmp_path)
    assert saved["global_step"] in (3, 4)
    assert saved["state_dict"]["weight"].item() == -float(saved["global_step"])


def test_c_pressed_twice_ends_at_once(tiny, make_trainer) -> None:
    trainer = make_trainer(
        _Signal("on_train_batch_start", 1, signal.SIGINT, signal.SIGINT), ResumeCheckpoint(), StopOnSignal()
    )
    trainer._signal_connector.register_signal_handlers = lambda: None
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer.fit(tiny)
    assert tiny.weight.item() == -1.0
