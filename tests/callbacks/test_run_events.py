"""What a run's folder says about how it went."""

from __future__ import annotations

import pytest

from minifold_pl.callbacks.checkpoints import ResumeCheckpoint
from minifold_pl.callbacks.exact_resume import ExactResume
from minifold_pl.callbacks.patience import Patience
from minifold_pl.callbacks.run_events import RunEvents
from minifold_pl.run.events import read_events
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.halt import RetryLater, RunHalted
from minifold_pl.run.marker import RunState, read_marker


def _events(folder: RunFolder) -> list[dict]:
    return [{k: v for k, v in event.items() if k != "time"} for event in read_events(folder.events)]


def test_a_finished_run_is_done(tiny, make_trainer, tmp_path) -> None:
    folder = RunFolder(tmp_path)
    make_trainer(RunEvents(folder, None)).fit(tiny)
    assert _events(folder) == [
        {"event": "started", "epoch": 0, "step": 0, "processes": 1, "gpus": 0, "steps_per_epoch": 3},
        {"event": "done", "reason": "finished", "epoch": 5, "step": 15},
    ]
    marker = read_marker(folder.marker)
    assert marker is not None
    assert (marker.state, marker.reason, marker.step) == (RunState.DONE, "finished", 15)


def test_a_resumed_run_names_its_checkpoint(tiny, make_trainer, tmp_path) -> None:
    folder = RunFolder(tmp_path)
    make_trainer(RunEvents(folder, "resume-00000003.ckpt"), max_epochs=1).fit(tiny)
    first, last = _events(folder)
    assert first["event"] == "resumed"
    assert (first["checkpoint"], first["epoch"], first["step"]) == ("resume-00000003.ckpt", 0, 0)
    assert last["event"] == "done"


def test_a_run_that_ran_out_of_patience_says_so(tiny, make_trainer, tmp_path) -> None:
    folder = RunFolder(tmp_path)
    make_trainer(Patience(patience=2), RunEvents(folder, None)).fit(tiny)
    done = _events(folder)[-1]
    assert done["reason"] == "no improvement of val/total in 2 validations"
    assert done["step"] == 12


def test_a_failure_leaves_the_run_unfinished_and_is_noted_in_one_line(tiny, make_trainer, tmp_path) -> None:
    folder = RunFolder(tmp_path)
    tiny.fail_in_epoch = 1
    with pytest.raises(RuntimeError):
        make_trainer(RunEvents(folder, None)).fit(tiny)
    failed = _events(folder)[-1]
    assert failed["event"] == "failed"
    assert (failed["error"], failed["message"]) == ("RuntimeError", "one line and another")
    assert failed["step"] == 3
    marker = read_marker(folder.marker)
    assert marker is not None
    assert marker.state is RunState.RUNNING


def test_an_interruption_is_no_failure_and_leaves_the_run_unfinished(tiny, make_trainer, tmp_path) -> None:
    folder = RunFolder(tmp_path)
    tiny.fail_in_epoch, tiny.error = 1, KeyboardInterrupt()
    with pytest.raises(SystemExit):
        make_trainer(RunEvents(folder, None)).fit(tiny)
    assert [e["event"] for e in _events(folder)] == ["started", "interrupted"]
    marker = read_marker(folder.marker)
    assert marker is not None
    assert marker.state is RunState.RUNNING


def test_a_halt_is_for_good_and_a_retry_is_not(tiny, make_trainer, tmp_path) -> None:
    folder = RunFolder(tmp_path)
    tiny.fail_in_epoch, tiny.error = 1, RetryLater("the disk is full")
    with pytest.raises(RetryLater):
        make_trainer(RunEvents(folder, None)).fit(tiny)
    marker = read_marker(folder.marker)
    assert marker is not None
    assert marker.state is RunState.RUNNING
    tiny.error = RunHalted("no gradient")
    with pytest.raises(RunHalted):
        make_trainer(RunEvents(folder, None)).fit(tiny)
    marker = read_marker(folder.marker)
    assert marker is not None
    assert (marker.state, marker.reason) == (RunState.HALTED, "no gradient")
    told = {e["event"]: e for e in read_events(folder.events)}
    assert (told["retry"]["kind"], told["retry"]["reason"]) == ("RetryLater", "the disk is full")
    assert told["halted"]["reason"] == "no gradient"


def test_a_lost_data_worker_is_a_retry(tiny, make_trainer, tmp_path) -> None:
    folder = RunFolder(tmp_path)
    tiny.fail_in_epoch = 0
    tiny.error = RuntimeError("DataLoader worker (pid 17) is killed by signal: Killed. ")
    with pytest.raises(RuntimeError):
        make_trainer(RunEvents(folder, None)).fit(tiny)
    last = _events(folder)[-1]
    assert (last["event"], last["kind"]) == ("retry", "DataWorkerLost")


def test_a_marker_that_cannot_be_written_does_not_end_the_run(
    tiny, make_trainer, tmp_path: Path, monkeypatch
) -> None:
    folder = RunFolder(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minifold_pl.run.marker.atomic_write_text", full)
    make_trainer(RunEvents(folder, None), max_epochs=1).fit(tiny)
    assert [(e["event"], e.get("state")) for e in read_events(folder.events)] == [
        ("marker_not_written", "running"), ("started", None), ("done", None), ("marker_not_written", "done"),
    ]  # fmt: skip


def test_a_run_that_was_killed_after_its_last_save_is_done_at_its_next_start(
    tiny, make_trainer, tmp_path
) -> None:
    """There is nothing left to train, and Lightning calls neither the start nor the end of training."""
    make_trainer(ExactResume(), ResumeCheckpoint()).fit(tiny)
    folder = RunFolder(tmp_path)
    newest = max((tmp_path / "checkpoints").glob("resume-*.ckpt"))
    make_trainer(ExactResume(), RunEvents(folder, newest.name)).fit(
        type(tiny)(), ckpt_path=str(newest), weights_only=True
    )
    marker = read_marker(folder.marker)
    assert marker is not None
    assert (marker.state, marker.reason, marker.step) == (RunState.DONE, "finished", 15)
    assert [e["event"] for e in read_events(folder.events) if e["event"] == "done"] == ["done"]
