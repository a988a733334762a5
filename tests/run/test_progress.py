"""How far a run has come, by what its folder says."""

from __future__ import annotations

from typing import Any

import pytest

from minifold_pl.run.folder import RunFolder
from minifold_pl.run.progress import Best, progress


def _event(second: int, event: str, **details: Any) -> dict[str, Any]:
    return {
        "time": f"2026-11-21T12:{second // 60:02d}:{second % 60:02d}.000+00:00",
        "event": event,
        **details,
    }


@pytest.fixture
def run(folder: RunFolder) -> RunFolder:
    folder.create()
    folder.config.write_text("trainer: {max_epochs: 60, max_steps: -1}\n")
    return folder


def test_time_left_is_the_rest_at_the_pace_of_the_last_start(run: RunFolder) -> None:
    events = [
        _event(0, "settings"),
        _event(0, "started", epoch=0, step=0, steps_per_epoch=100),
        _event(100, "saved", epoch=1, step=100, file="resume-00000100.ckpt"),
        _event(500, "settings"),
        _event(510, "resumed", epoch=1, step=100, steps_per_epoch=100),
        _event(560, "saved", epoch=2, step=200, file="best.ckpt", monitor="val/total", score=0.5),
        _event(610, "saved", epoch=3, step=300, file="resume-00000300.ckpt"),
    ]
    told = progress(run, events)
    assert (told.step, told.epoch, told.saved_step) == (300, 3, 300)
    assert (told.total_steps, told.total_epochs) == (6000, 60)
    assert told.seconds_per_step == pytest.approx(0.5)
    assert told.seconds_left == pytest.approx(2850)
    assert told.best == Best(monitor="val/total", score=0.5, step=200)


def test_what_happens_later_at_the_same_step_does_not_slow_the_pace(run: RunFolder) -> None:
    events = [
        _event(0, "started", epoch=0, step=0),
        _event(100, "saved", epoch=1, step=100, file="resume-00000100.ckpt"),
        _event(3000, "stopped", epoch=1, step=100),
    ]
    assert progress(run, events).seconds_per_step == pytest.approx(1.0)


def test_steps_of_an_epoch_are_learned_from_epochs_ends_where_nobody_told(run: RunFolder) -> None:
    events = [
        _event(0, "started", epoch=0, step=0),
        _event(10, "saved", epoch=1, step=10, file="resume-00000010.ckpt"),
        _event(19, "interrupted", epoch=1, step=19),
    ]
    assert progress(run, events).total_steps == 600
    run.config.write_text("trainer: {max_epochs: 60, max_steps: 450}\n")
    assert progress(run, events).total_steps == 450


def test_rows_of_metrics_are_ahead_of_events_only_while_it_trains(run: RunFolder) -> None:
    run.metrics.write_text("step,epoch,x\n" + "".join(f"{k},0,1\n" for k in range(50)) + "50,0")
    events = [_event(0, "started", epoch=0, step=0)]
    assert progress(run, events).step == 50
    events.append(_event(9, "interrupted", epoch=0, step=40))
    assert progress(run, events).step == 40


def test_a_run_that_went_back_stands_where_it_went_back_to(run: RunFolder) -> None:
    events = [
        _event(0, "started", epoch=0, step=0),
        _event(100, "saved", epoch=1, step=100, file="resume-00000100.ckpt"),
        _event(110, "rolled_back", epoch=1, step=100, to_step=50),
        _event(120, "resumed", epoch=0, step=50),
    ]
    assert progress(run, events).step == 50


@pytest.mark.parametrize("config", [None, "", "trainer: 3", "{", "trainer: {max_epochs: -1}"])
def test_without_sound_settings_there_is_no_end_to_tell(run: RunFolder, config: str | None) -> None:
    run.config.unlink() if config is None else run.config.write_text(config)
    told = progress(
        run, [_event(0, "started", epoch=0, step=0), _event(5, "saved", epoch=1, step=5, file="x")]
    )
    assert told.step == 5
    assert told.seconds_left is None


def test_a_clock_that_jumps_back_gives_no_pace_rather_than_a_wrong_one(run: RunFolder) -> None:
    events = [_event(500, "started", epoch=0, step=0), _event(100, "saved", epoch=1, step=5, file="x")]
    assert progress(run, events).seconds_per_step is None


def test_an_empty_folder_says_nothing(folder: RunFolder) -> None:
    told = progress(folder, [])
    assert (told.step, told.total_steps, told.best, told.seconds_left) == (None, None, None, None)
