"""A run that cannot learn, from the command line: it halts, says why, and is not started again by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minifold_pl.cli.main import main
from minifold_pl.report.history import read_history
from minifold_pl.run import exit_codes
from minifold_pl.run.folder import RunFolder

EARLY = ["--early_signs.first", "1", "--early_signs.every_n_steps", "1", "--early_signs.chains", "4"]


@pytest.fixture(scope="module")
def halted(tmp_path_factory, store: Path, training: list[str]) -> tuple[Path, list[str]]:
    """A run with a learning rate of nothing."""
    folder = tmp_path_factory.mktemp("runs") / "still"
    fit = [
        "fit",
        "--config",
        "v13_small.yaml",
        "--data.path",
        str(store),
        "--run.dir",
        str(folder),
        *training,
    ]
    fit += [
        "--model.init_args.optimizer.lr",
        "1e-12",
        "--trainer.max_epochs",
        "2",
        "--early_signs.action",
        "stop",
    ]
    fit += [
        "--checkpoints.every_n_steps",
        "1",
        "--model.init_args.schedule.init_args.warmup_epochs",
        "0",
        *EARLY,
    ]
    assert main(fit) == exit_codes.HALTED
    return folder, fit


def test_it_halts_with_the_reason_in_its_marker_and_refuses_to_begin_again(halted, capsys) -> None:
    folder, fit = halted
    marker = json.loads((folder / "state.json").read_text())
    assert marker["state"] == "halted"
    assert "does not fall" in marker["reason"]
    assert main(fit) == exit_codes.HALTED
    assert "does not fall" in capsys.readouterr().err


def test_status_and_report_tell_the_reason(halted, capsys) -> None:
    folder, _ = halted
    assert main(["status", str(folder)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "does not fall" in told
    assert "early_sign" in told
    history = read_history(RunFolder(folder))
    assert history is not None
    assert ("early signs that the model cannot learn", 2) in history.faults
    assert "does not fall" in history.reason


def test_figures_stand_among_the_metrics(halted) -> None:
    folder, _ = halted
    head = (folder / "metrics.csv").read_text().splitlines()[0]
    assert {"early/loss", "early/loss_at_start", "early/rg_ratio", "early/alike"} <= set(head.split(","))


def test_with_a_warning_instead_it_goes_on_after_the_halt(halted) -> None:
    folder, fit = halted
    attempt = json.loads((folder / "state.json").read_text())["attempt"]
    more = ["--run.after_halt", str(attempt), "--early_signs.action", "warn"]
    assert main([*fit, *more]) == exit_codes.DONE
