"""A run that begins with another run's weights: what the run folder says of it, and what a second start reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from minifold_pl.cli.main import main
from minifold_pl.modules.load import load_module
from minifold_pl.run.events import read_events


@pytest.fixture
def source(diffusion_run: Path, tmp_path: Path) -> Path:
    """A copy that a test may remove."""
    path = tmp_path / "source.ckpt"
    shutil.copy(diffusion_run / "checkpoints" / "best.ckpt", path)
    return path


@pytest.fixture
def arguments(store: Path, training: list[str], source: Path, tmp_path: Path) -> list[str]:
    return [
        "--config", "v13_small.yaml", "--data.path", str(store), *training, "--run.dir", str(tmp_path / "run"),
        "--ddim.every_n_epochs", "0", "--model.init_args.init_from.ckpt", str(source),
        "--model.init_args.init_from.fresh", "[aux]", "--model.init_args.init_from.match", "[denoiser, pair_stack]",
        "--model.init_args.optimizer.lr", "1e-12",
    ]  # fmt: skip


def test_a_run_begins_with_another_runs_weights_says_so_and_does_not_read_them_again(
    arguments: list[str], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["fit", *arguments, "--trainer.max_epochs", "1"]) == 0
    told = capsys.readouterr().out
    assert f"initialised from {source} (averaged weights, step" in told
    assert "left fresh" in told

    # At a rate that moves nothing the weights are those of the source, averages too; what was left fresh is not.
    begun = load_module(run / "checkpoints" / "best.ckpt").state_dict()
    taken = load_module(source).state_dict()
    for name, value in begun.items():
        close = torch.allclose(value, taken[name], atol=1e-6)
        assert close or name.startswith("aux."), name
    assert not all(torch.allclose(v, taken[n]) for n, v in begun.items() if n.startswith("aux."))

    events = read_events(run / "events.jsonl")
    (noted,) = (event for event in events if event["event"] == "initialised")
    origin = json.loads((run / "origin.json").read_text())
    assert noted["ckpt"] == origin["ckpt"] == str(source)
    assert noted["sha256"] == origin["sha256"]
    assert noted["tensors"]["fresh"] == origin["modules"]["aux"]["fresh"]["tensors"] > 0

    source.unlink()
    assert main(["fit", *arguments, "--trainer.max_epochs", "2"]) == 0
    told = capsys.readouterr().out
    assert "resuming" in told
    assert "initialised" not in told
    newest = max((run / "checkpoints").glob("resume-*.ckpt"))
    assert main(["ckpt", "show", str(newest), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["initialised"] == origin


def test_a_module_that_was_to_match_ends_the_start_with_one_line_and_the_table(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *arguments, "--model.init_args.denoiser.init_args.layers", "4"]) == 1
    told = capsys.readouterr()
    assert "denoiser.layers" in told.out
    assert "denoiser was to match" in told.err
    assert "Traceback" not in told.err
    assert not list((tmp_path / "run").rglob("*.ckpt"))
