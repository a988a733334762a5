"""The words of the training table, and when training ends."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from minifold_pl.callbacks.checkpoints import ResumeCheckpoint
from minifold_pl.callbacks.exact_resume import ExactResume
from minifold_pl.callbacks.patience import Patience
from minifold_pl.callbacks.run_events import RunEvents
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.marker import RunState, read_marker


def _validated(patience: Patience, values: list[float]) -> list[str]:
    said = []
    for step, value in enumerate(values):
        trainer = SimpleNamespace(
            callback_metrics={"val/total": torch.tensor(value)}, fast_dev_run=False, should_stop=False,
            current_epoch=step, global_step=step + 1, loggers=[], sanity_checking=False,
            strategy=SimpleNamespace(reduce_boolean_decision=lambda stop, all: stop),
            state=SimpleNamespace(fn="fit"),
        )  # fmt: skip
        patience._should_skip_check = lambda _: False
        patience.on_validation_end(trainer, SimpleNamespace())
        said.append(patience.status + (" stop" if trainer.should_stop else ""))
    return said


def test_it_says_new_best_counts_and_stops() -> None:
    patience = Patience(patience=2)
    assert patience.status == ""
    assert _validated(patience, [3.0, 2.0, 2.5, 1.9, 2.0, 2.1]) == [
        "NEW BEST", "NEW BEST", "pat 1", "NEW BEST", "pat 1", "pat 2 stop",
    ]  # fmt: skip


def test_its_count_survives_a_resume() -> None:
    first, second = Patience(patience=2), Patience(patience=2)
    _validated(first, [1.0, 1.5])
    second.load_state_dict(first.state_dict())
    assert _validated(second, [1.4]) == ["pat 2 stop"]


@pytest.mark.parametrize("stop", range(1, 6))
def test_a_resume_after_any_validation_comes_to_the_same_decisions(stop: int) -> None:
    values = [3.0, 2.0, 2.5, 1.9, 2.0, 2.1]
    whole = _validated(Patience(patience=2), values)
    first, second = Patience(patience=2), Patience(patience=2)
    said = _validated(first, values[:stop])
    second.load_state_dict(first.state_dict())
    assert second.status == first.status
    assert said + _validated(second, values[stop:]) == whole


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_resumed_training_stops_in_the_same_epoch(tiny, make_trainer, tmp_path, stop) -> None:
    """The best of ``val/total`` is in the second epoch: two without improvement end it after the fourth.

    The last one was killed when it had saved and not yet said that it is done.
    """
    make_trainer(ExactResume(), Patience(patience=2), ResumeCheckpoint(keep_last=-1)).fit(tiny)
    checkpoints = sorted((tmp_path / "checkpoints").glob("resume-*.ckpt"))
    assert len(checkpoints) == 4
    folder = RunFolder(tmp_path)
    again = make_trainer(ExactResume(), Patience(patience=2), RunEvents(folder, "x"))
    second = type(tiny)()
    again.fit(second, ckpt_path=str(checkpoints[stop - 1]), weights_only=True)
    assert len(second.seen_in_validation) == 4 - stop
    marker = read_marker(folder.marker)
    assert marker is not None
    assert (marker.state, marker.step) == (RunState.DONE, 12)
    assert marker.reason == "no improvement of val/total in 2 validations"


def test_more_patience_lets_a_run_go_on_that_had_stopped(tiny, make_trainer, tmp_path) -> None:
    make_trainer(ExactResume(), Patience(patience=2), ResumeCheckpoint()).fit(tiny)
    newest = max((tmp_path / "checkpoints").glob("resume-*.ckpt"))
    again = make_trainer(ExactResume(), Patience(patience=9), RunEvents(RunFolder(tmp_path), "x"))
    again.fit(tiny, ckpt_path=str(newest), weights_only=True)
    marker = read_marker(RunFolder(tmp_path).marker)
    assert marker is not None
    assert (marker.step, marker.reason) == (15, "finished")
