"""W&B: one id for the life of a run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from minifold_pl.loggers.wandb_logger import _has_key, wandb_logger
from minifold_pl.run.folder import RunFolder


@pytest.fixture(autouse=True)
def _no_account(monkeypatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_disabled_is_no_logger_and_leaves_no_folder(tmp_path: Path) -> None:
    assert wandb_logger(RunFolder(tmp_path), "disabled", "p") is None
    assert list(tmp_path.iterdir()) == []


def test_the_environment_wins(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_logger(RunFolder(tmp_path), "online", "p") is None


def test_two_starts_share_one_id_and_auto_is_offline_without_a_key(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("minifold_pl.loggers.wandb_logger._has_key", lambda: False)
    loggers = [wandb_logger(RunFolder(tmp_path), "auto", "p") for _ in range(2)]
    first, second = (logger._wandb_init for logger in loggers if logger is not None)
    assert first["id"] == second["id"] == (tmp_path / "wandb" / "run-id").read_text().strip()
    assert first["mode"] == "offline"


def test_a_key_is_found_in_the_environment_or_in_netrc_and_a_broken_netrc_is_none(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not _has_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password abc")
    assert _has_key()
    (tmp_path / "netrc").write_text("machine")
    assert not _has_key()
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    assert _has_key()


def test_a_real_offline_run_is_written_under_that_id(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("minifold_pl.loggers.wandb_logger._has_key", lambda: False)
    logger = wandb_logger(RunFolder(tmp_path), "auto", "p")
    assert logger is not None
    logger.log_metrics({"loss/total": 1.0}, step=0)
    logger.experiment.finish()
    run_id = (tmp_path / "wandb" / "run-id").read_text().strip()
    assert list(tmp_path.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb"))
