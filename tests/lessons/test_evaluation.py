"""Lessons 16 and 17: what a reported figure says, and with what settings it was measured."""

from __future__ import annotations

import json

import pytest
import torch

from minifold_pl.checkpoint.io import save
from minifold_pl.cli.main import main
from minifold_pl.data.datamodule import write_synthetic
from minifold_pl.data.synthetic import SyntheticConfig
from minifold_pl.metrics.diversity import diversity
from minifold_pl.modules import sampling
from minifold_pl.modules.sampling import SamplerConfig


def test_lesson_16_eta_reaches_the_sampler_and_collapse_shows_in_the_diversity(
    holds, mistake, diffusion, monkeypatch
) -> None:
    """DDIM at η = 0 fell into one mode, and no figure said so. Put back by a sampler that knows η = 0 alone.

    Evaluations report ``diversity`` from two samples a chain on: ``tests/callbacks/test_ddim_evaluator.py``.
    """
    if mistake:
        sampler = sampling.ddim
        monkeypatch.setattr(sampling, "ddim", lambda *a, **k: sampler(*a, **{**k, "eta": 0.0}))
    batch = diffusion.example_batch(1, 24)
    drawn = {
        eta: diffusion.sample(batch, SamplerConfig(steps=5, eta=eta), seed=0, keys=["a"]).x0
        for eta in (0.0, 0.5)
    }
    collapsed = torch.stack([drawn[0.0]] * 2, 1)
    several = torch.stack([drawn[0.0], drawn[0.5]], 1)
    mask = batch.residue_mask
    assert float(diversity(collapsed, mask)) == pytest.approx(0, abs=1e-3)
    with holds():
        assert not torch.equal(drawn[0.0], drawn[0.5])
        assert float(diversity(several, mask)) > 1e-3


SETTINGS = {"steps": 3, "eta": 0.3, "guidance": 1.5, "seed": 4}


def test_lesson_17_a_figure_carries_the_settings_it_was_measured_with(
    holds, mistake, diffusion, tmp_path, monkeypatch
) -> None:
    """Figures at 50 and at 100 steps stood in one column. Put back by an ``evaluate`` that leaves its settings out.

    The same for the evaluations of a run and for samples: ``tests/callbacks/test_ddim_evaluator.py``,
    ``tests/cli/test_sample.py``.
    """
    checkpoint: dict = {"state_dict": diffusion.state_dict(), "global_step": 1, "epoch": 1}
    diffusion.on_save_checkpoint(checkpoint)
    written = save(checkpoint, tmp_path / "some.ckpt")
    write_synthetic(tmp_path / "store", SyntheticConfig(n=30, folds=5, min_length=24, max_length=32))
    if mistake:
        monkeypatch.setattr(SamplerConfig, "told", lambda sampler: {})
    arguments = [str(part) for name, value in SETTINGS.items() for part in (f"--{name}", value)]
    main([
        "evaluate", "--ckpt", str(tmp_path / "some.ckpt"), "--data", str(tmp_path / "store"), "--split", "test",
        "--out", str(tmp_path / "out"), *arguments,
    ])  # fmt: skip
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    with holds():
        assert told["settings"].items() >= SETTINGS.items()
        assert told["checkpoint"]["sha256"] == written.sha256
        assert told["rows"]["model"]["tm_score"]["n"] == told["data"]["chains"]
