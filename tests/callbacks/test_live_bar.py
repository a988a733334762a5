"""The line at the bottom of a terminal."""

from __future__ import annotations

import io
import time
from datetime import timedelta

import lightning.pytorch as pl
import pytest
import rich
from lightning.pytorch.callbacks import TQDMProgressBar
from rich.console import Console

from minifold_pl.callbacks import live_bar
from minifold_pl.callbacks.live_bar import JOB_END, LiveBar, seconds_left, told, use_live_bar
from minifold_pl.callbacks.patience import Patience
from minifold_pl.callbacks.progress import EpochLines


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Console:
    """A terminal of 160 columns that keeps what is written to it."""
    console = Console(file=io.StringIO(), force_terminal=True, width=160, color_system=None)
    monkeypatch.setattr(rich, "_console", console)
    monkeypatch.setattr("lightning.pytorch.callbacks.progress.rich_progress.reconfigure", lambda **_: None)
    monkeypatch.setattr("lightning.pytorch.callbacks.progress.rich_progress.get_console", lambda: console)
    return console


def _trainer(tmp_path, *callbacks: pl.Callback, **settings: object) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", logger=False, num_sanity_val_steps=0, enable_checkpointing=False, enable_model_summary=False,
        default_root_dir=tmp_path, callbacks=list(callbacks), **{"max_epochs": 3, **settings},
    )  # fmt: skip


def test_loss_score_patience_and_the_epoch_counted_from_1_are_on_the_screen(
    tiny, tmp_path, terminal, monkeypatch
) -> None:
    monkeypatch.setattr(live_bar, "_EVERY", 0.0)
    monkeypatch.delenv(JOB_END, raising=False)
    _trainer(tmp_path, Patience(patience=9), LiveBar()).fit(tiny)
    screen = terminal.file.getvalue()
    assert "epoch 3/3" in screen
    assert "epoch 0" not in screen
    assert "3/3" in screen
    assert "loss: " in screen
    assert "val/total: 4.000 · best: 3.000 · patience: 1/9" in screen
    assert "job ends in" not in screen


def test_the_lines_of_the_epochs_stay_whole_above_it(tiny, tmp_path, terminal) -> None:
    _trainer(tmp_path, Patience(patience=9), EpochLines(), LiveBar()).fit(tiny)
    lines = [line for line in terminal.file.getvalue().splitlines() if "NEW BEST" in line]
    assert len(lines) >= 2
    assert any("epoch   2  step      6" in line for line in lines)


def test_the_nearer_limit_counts(tmp_path) -> None:
    free, timed = _trainer(tmp_path), _trainer(tmp_path, max_time=timedelta(hours=1))
    soon, late = (str(int(time.time()) + seconds) for seconds in (600, 36000))
    assert seconds_left(free, {}) is None
    assert seconds_left(free, {JOB_END: "no number"}) is None
    assert seconds_left(free, {JOB_END: soon}) == pytest.approx(600, abs=3)
    assert seconds_left(free, {JOB_END: "1000"}) == 0
    assert seconds_left(timed, {}) == pytest.approx(3600, abs=3)
    assert seconds_left(timed, {JOB_END: late}) == pytest.approx(3600, abs=3)


def test_the_limit_of_the_job_is_shown(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(JOB_END, str(int(time.time()) + 3725))
    assert told(_trainer(tmp_path), None)["job ends in"].startswith("1:02:0")


def test_it_takes_the_place_of_the_usual_bar_and_comes_nowhere_without_one(tmp_path) -> None:
    trainer = _trainer(tmp_path, enable_progress_bar=True)
    use_live_bar(trainer)
    assert isinstance(trainer.progress_bar_callback, LiveBar)
    silent = _trainer(tmp_path, enable_progress_bar=False)
    use_live_bar(silent)
    assert silent.progress_bar_callback is None


def test_a_bar_that_the_config_names_is_kept(tmp_path) -> None:
    from minifold_pl.cli.lightning_cli import MinifoldCLI, cli

    made = MinifoldCLI.instantiate_trainer

    class Stop(Exception):
        pass

    def stop(self: MinifoldCLI, **kwargs: object) -> pl.Trainer:
        trainer = made(self, **kwargs)
        raise Stop(type(trainer.progress_bar_callback))

    def chosen(*extra: str) -> type:
        arguments = [
            "--config",
            "quickstart.yaml",
            "--run.dir",
            str(tmp_path / "run"),
            "--run.wandb",
            "disabled",
        ]
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop) as found:
            patch.setattr(MinifoldCLI, "instantiate_trainer", stop)
            cli(
                [
                    "fit",
                    *arguments,
                    f"--data.path={tmp_path}/data",
                    "--trainer.enable_progress_bar=true",
                    *extra,
                ]
            )
        return found.value.args[0]

    assert chosen() is LiveBar
    assert chosen("--trainer.callbacks+=TQDMProgressBar") is TQDMProgressBar
