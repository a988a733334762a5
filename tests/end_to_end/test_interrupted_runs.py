"""Runs that were killed, stopped, or started again in another way."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from minifold_pl.cli.main import main
from minifold_pl.loggers.metrics_csv import MetricsCSV
from minifold_pl.modules.contact_classifier import ContactClassifierModule
from minifold_pl.modules.load import load_module
from minifold_pl.run.events import read_events
from minifold_pl.run.exit_codes import RETRY, TAKEN
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.marker import RunState, read_marker

PROGRAM = [sys.executable, "-c", "from minifold_pl.cli.main import entry_point; entry_point()"]
TIMINGS = ("perf/",)


@pytest.fixture
def arguments(store: Path, training: list[str]) -> list[str]:
    """The settings of ``contact_run``."""
    return [
        "fit", "--config", "contact_small.yaml", "--data.path", str(store), *training,
        "--patience.patience", "100000",
    ]  # fmt: skip


@pytest.fixture
def fit(arguments: list[str]) -> Callable[..., RunFolder]:
    """Train in a folder up to an epoch."""

    def run(folder: RunFolder, max_epochs: int, *more: str) -> None:
        where = ["--run.dir", str(folder.path), "--trainer.max_epochs", str(max_epochs)]
        assert main([*arguments, *where, *more]) == 0

    return run


@pytest.fixture
def folder(contact_run: Path, tmp_path: Path) -> RunFolder:
    """A run of two epochs with two steps each, to be changed at will."""
    shutil.copytree(contact_run, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def _metrics(folder: RunFolder) -> list[dict[str, str]]:
    with folder.metrics.open() as file:
        return [{k: v for k, v in row.items() if not k.startswith(TIMINGS)} for row in csv.DictReader(file)]


def _events(folder: RunFolder) -> list[str]:
    lifecycle = ("started", "resumed", "interrupted", "failed", "halted", "done")
    return [event["event"] for event in read_events(folder.events) if event["event"] in lifecycle]


def _raw(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def test_a_resumed_run_is_the_run_that_was_never_stopped(fit, folder: RunFolder, tmp_path: Path) -> None:
    whole = RunFolder(tmp_path / "whole")
    fit(whole, 3)
    fit(folder, 3)
    assert _metrics(folder) == _metrics(whole)
    first, second = (
        torch.load(run.checkpoints / "resume-00000006.ckpt", weights_only=True)["state_dict"]
        for run in (whole, folder)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_finished_run_that_is_started_again_stays_as_it_is(fit, folder: RunFolder) -> None:
    rows, events = _metrics(folder), _events(folder)
    fit(folder, 2)
    assert _metrics(folder) == rows
    assert _events(folder) == events
    marker = read_marker(folder.marker)
    assert marker is not None
    assert marker.state is RunState.DONE


def test_the_config_in_a_run_folder_goes_on_with_the_run_from_its_newest_checkpoint(
    fit, folder: RunFolder, capsys
) -> None:
    fit(folder, 3)
    assert yaml.safe_load(folder.config.read_text())["ckpt_path"] is None
    capsys.readouterr()
    assert main(["fit", "--config", str(folder.config), "--trainer.max_epochs", "4"]) == 0
    assert "from resume-00000006.ckpt (step 6)" in capsys.readouterr().out
    assert _events(folder) == ["started", "done", "resumed", "done", "resumed", "done"]


def test_the_config_of_a_fresh_run_does_not_ask_for_another_fresh_folder(fit, folder: RunFolder) -> None:
    fit(folder, 1, "--fresh")
    second = RunFolder(folder.path.with_name("run-2"))
    assert main(["fit", "--config", str(second.config), "--trainer.max_epochs", "2"]) == 0
    assert _events(second) == ["started", "done", "resumed", "done"]
    assert _events(folder) == ["started", "done"]
    assert sorted(path.name for path in folder.path.parent.iterdir()) == ["run", "run-2"]


def test_a_run_that_goes_on_from_a_given_checkpoint_drops_what_came_after_it(fit, folder: RunFolder) -> None:
    given = folder.checkpoints / "resume-00000002.ckpt"
    longer = MetricsCSV(folder.metrics)
    longer.log_metrics({"loss/total": 1.0}, step=40)
    longer.save()
    fit(folder, 2, "--ckpt_path", str(given))
    assert [row["step"] for row in _metrics(folder)] == ["0", "1", "2", "3"]
    resumed = [event for event in read_events(folder.events) if event["event"] == "resumed"]
    assert [(event["checkpoint"], event["step"]) for event in resumed] == [(given.name, 2)]


def test_what_was_logged_before_the_first_checkpoint_is_dropped_with_the_work(fit, folder: RunFolder) -> None:
    shutil.rmtree(folder.checkpoints)
    fit(folder, 1)
    assert [row["step"] for row in _metrics(folder)] == ["0", "1"]


@pytest.mark.parametrize(
    ("damaged", "origin"),
    [
        (["resume-00000004.ckpt"], "best.ckpt (step 4)"),
        (["resume-00000004.ckpt", "best.ckpt"], "resume-00000002.ckpt (step 2)"),
    ],
)
def test_a_damaged_newest_checkpoint_is_passed_over(
    fit, folder: RunFolder, capsys, damaged: list[str], origin: str
) -> None:
    for name in damaged:
        path = folder.checkpoints / name
        path.write_bytes(path.read_bytes()[:1000])
    capsys.readouterr()
    fit(folder, 3)
    assert f"from {origin}" in capsys.readouterr().out
    assert [row["step"] for row in _metrics(folder)] == ["0", "1", "2", "3", "4", "5"]


def test_changed_settings_are_taken_where_that_is_asked_for_and_noted(fit, folder: RunFolder) -> None:
    fit(folder, 3, "--model.init_args.contact_pos_weight", "3.0", "--accept-changes")
    noted = next(event for event in read_events(folder.events) if event["event"] == "config_changed")
    names = {change["name"]: change["after"] for change in noted["changes"]}
    assert names["model.init_args.contact_pos_weight"] == 3.0
    assert load_module(folder.checkpoints / "resume-00000006.ckpt").contact_pos_weight == 3.0


def test_a_terminated_run_is_not_done_and_says_so(arguments, folder: RunFolder, capsys, monkeypatch) -> None:
    """Schedulers send SIGTERM; an exit code of 0 would tell them that the run has finished."""

    def terminated(module: ContactClassifierModule) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ContactClassifierModule, "on_train_epoch_end", terminated)
    where = ["--run.dir", str(folder.path), "--trainer.max_epochs", "9"]
    assert main([*arguments, *where]) == RETRY
    assert "stopped by SIGTERM; the same command goes on with the run" in capsys.readouterr().err
    assert _events(folder)[-2:] == ["resumed", "interrupted"]
    marker = read_marker(folder.marker)
    assert marker is not None
    assert marker.state is RunState.RUNNING


def test_a_killed_run_lets_nobody_in_before_and_goes_on_after(arguments, fit, tmp_path: Path, capsys) -> None:
    folder = RunFolder(tmp_path / "run")
    where = ["--run.dir", str(folder.path), "--trainer.max_epochs", "100000"]
    with subprocess.Popen(
        [*PROGRAM, *arguments, *where], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            deadline = time.monotonic() + 120
            while len(list(folder.checkpoints.glob("resume-*.ckpt.json"))) < 2:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert main([*arguments, *where]) == TAKEN
            told = capsys.readouterr().err
            assert f"is in use by process {process.pid} on " in told
            assert "--fresh" in told
            assert process.poll() is None
        finally:
            process.kill()
    assert _events(folder) == ["started"]
    marker = read_marker(folder.marker)
    assert marker is not None
    assert marker.state is RunState.RUNNING
    step = max(int(path.stem.removeprefix("resume-")) for path in folder.checkpoints.glob("resume-*.ckpt"))
    fit(folder, step // 2 + 2)
    assert _events(folder) == ["started", "resumed", "done"]
    # The newest may have been cut off, and the run have begun one epoch earlier; it ends in the same place.
    assert [int(row["step"]) for row in _metrics(folder)] == list(range(step + 4))


def test_two_starts_of_a_run_write_one_offline_run_id(fit, folder: RunFolder, monkeypatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for epochs in (3, 4):
        fit(folder, epochs)
        wandb.finish()
    run_id = folder.wandb_id.read_text().strip()
    written = [path.parent.name for path in (folder.path / "wandb").glob("offline-run-*/*.wandb")]
    assert len(written) == 2
    assert all(name.endswith(run_id) for name in written)


def test_an_accepted_learning_rate_and_decay_are_trained_with(fit, folder: RunFolder, tmp_path: Path) -> None:
    """A loaded optimizer and schedule bring their own: without :func:`take_rates` the change was in name only."""
    shutil.copytree(folder.path, tmp_path / "same")
    same = RunFolder(tmp_path / "same")
    fit(same, 3)
    optimizer = "--model.init_args.optimizer"
    fit(folder, 3, f"{optimizer}.lr", "0.05", f"{optimizer}.weight_decay", "0.2", "--accept-changes")
    changed, unchanged = (
        torch.load(run.checkpoints / "resume-00000006.ckpt", weights_only=True) for run in (folder, same)
    )
    groups = [content["optimizer_states"][0]["param_groups"] for content in (changed, unchanged)]
    assert {group["weight_decay"] for group in groups[0]} == {0.2, 0.0}
    old = yaml.safe_load(same.config.read_text())["model"]["init_args"]["optimizer"]["lr"]
    for now, before in zip(*groups, strict=True):
        assert now["lr"] / before["lr"] == pytest.approx(0.05 / old)
    first, second = (
        _raw(folder.checkpoints / "resume-00000006.ckpt"),
        _raw(same.checkpoints / "resume-00000006.ckpt"),
    )
    assert any(not torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGUSR1])
def test_a_second_signal_on_the_way_out_does_not_change_the_exit_code(
    arguments, tmp_path: Path, again: signal.Signals
) -> None:
    folder = RunFolder(tmp_path / "run")
    command = [*PROGRAM, *arguments, "--run.dir", str(folder.path), "--trainer.max_epochs", "100000"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while "saved" not in {event["event"] for event in read_events(folder.events)}:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        # The end of an interpreter with its libraries takes about a second.
        while process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
            process.send_signal(again)
    assert process.returncode == RETRY


def test_fewer_epochs_than_are_finished_is_told_in_a_line(arguments, fit, folder: RunFolder, capsys) -> None:
    fit(folder, 3)
    where = ["--run.dir", str(folder.path), "--trainer.max_epochs", "2"]
    assert main([*arguments, *where]) == 2
    assert "has 3 finished epochs, and trainer.max_epochs is 2" in capsys.readouterr().err
