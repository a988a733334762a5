"""Every shipped config: what it resolves to, and that it trains."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
import yaml

from minifold_pl.cli.configs import shipped_configs
from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.cli.main import main

SNAPSHOTS = Path(__file__).parent / "snapshots"
"""Resolved configs. Renew them with ``python tests/configs/renew_snapshots.py`` and read the difference."""

SNAPSHOT = runpy.run_path(str(SNAPSHOTS.parent / "renew_snapshots.py"))["snapshot"]


@pytest.mark.parametrize("name", shipped_configs())
def test_a_shipped_config_resolves_to_its_snapshot(name: str) -> None:
    assert SNAPSHOT(name) == yaml.safe_load((SNAPSHOTS / name).read_text())


def test_no_snapshot_is_left_of_a_config_that_is_gone() -> None:
    assert sorted(p.name for p in SNAPSHOTS.glob("*.yaml")) == shipped_configs()


@pytest.mark.parametrize("name", shipped_configs())
def test_a_step_of_a_shipped_config_fits_together_at_full_width(name: str) -> None:
    """On the meta device shapes are all there is."""
    with torch.device("meta"):
        module = instantiate_model(name).to("meta")
        total, terms = module.losses(module.example_batch(2, 24))
    total.backward()
    assert module.model_config["class_path"].startswith("minifold_pl.modules.")
    assert total.shape == ()
    of_a_stage = {"contact"}, {"topology", "hidden_residues"}, {"fape", "dist", "aux"}
    assert any(terms.keys() >= stage for stage in of_a_stage)
    assert any(p.grad is not None for p in module.parameters())


def test_the_quickstart_makes_its_data_and_every_command_runs_on_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    small = [
        "--config", "quickstart", "--data.synthetic.n", "24", "--data.synthetic.folds", "5",
        "--data.synthetic.max_length", "32", "--model.init_args.sampler.steps", "2",
    ]  # fmt: skip
    assert main(["fit", *small, "--trainer.max_steps", "2", "--ddim.every_n_epochs", "0"]) == 0
    run = tmp_path / "runs" / "quickstart"
    assert (tmp_path / "runs" / "quickstart-data").is_dir()
    assert (run / "state.json").is_file()
    newest = next(iter(sorted((run / "checkpoints").glob("*.ckpt"))))
    for command in ("validate", "test", "predict"):
        assert main([command, *small, "--ckpt_path", str(newest)]) == 0
    assert list((run / "samples" / "predict").glob("*.pdb"))
