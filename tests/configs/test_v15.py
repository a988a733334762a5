"""v15: that it turns with its input, that each of its choices can be switched off, and what it logs."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from minifold_pl.cli.ladder_ablations import ABLATIONS, OPTIONS
from minifold_pl.cli.ladder_folds import TRAINING
from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.cli.main import main
from minifold_pl.data.tokenizer import null_tokens
from minifold_pl.geometry.frames import random_rotations
from minifold_pl.losses.objective import final_weights, weighted_total
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.sampling import SamplerConfig
from minifold_pl.types import Denoised

MODEL = "--model.init_args."


@pytest.fixture(scope="session")
def _small() -> DiffusionModule:
    torch.manual_seed(0)
    module = instantiate_model("v15_small")
    assert isinstance(module, DiffusionModule)
    with torch.no_grad():  # as if trained: maps that start at 0 would hide what is wrong behind them
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module.eval()


@pytest.fixture
def small(_small: DiffusionModule) -> DiffusionModule:
    return copy.deepcopy(_small)


def test_at_full_width_it_counts_35_million_and_its_own_parts_less_than_two_thirds_of_one() -> None:
    with torch.device("meta"):
        module, before = instantiate_model("v15"), instantiate_model("v14")
    counts = [sum(p.numel() for p in m.parameters()) for m in (module, before)]
    assert 35e6 < counts[0] < 36e6
    assert 0 < counts[0] - counts[1] < 2e6 / 3
    assert sum(p.numel() for p in module.parameters() if p.requires_grad) > counts[0] - 1e4


@pytest.mark.parametrize("t", [100, 500, 900])
@pytest.mark.parametrize("self_conditioned", [False, True])
def test_the_whole_denoiser_turns_with_its_input(
    t: int, self_conditioned: bool, small: DiffusionModule
) -> None:
    """f(Qx) = Q f(x) to 1e-4 model units (0.001 Å), N, C and O in their frames unchanged."""
    batch = small.example_batch(2, 40)
    with torch.no_grad():
        condition = small.condition(batch, small.encode(batch.tokens))
        x, times = torch.randn(2, 40, 3), torch.full((2,), t)
        q = random_rotations(1)[0]
        first = small.denoiser(x, times, condition)
        previous = first if self_conditioned else None
        turned = Denoised(first.x0 @ q.T, q @ first.rotation, first.local_atoms) if self_conditioned else None
        here = small.denoiser(x, times, condition, previous)
        there = small.denoiser(x @ q.T, times, condition, turned)
    assert here.x0.std() > 0.1
    torch.testing.assert_close(there.x0, here.x0 @ q.T, rtol=0, atol=1e-4)
    torch.testing.assert_close(there.rotation, q @ here.rotation, rtol=0, atol=1e-3)
    torch.testing.assert_close(there.local_atoms, here.local_atoms, rtol=0, atol=1e-4)


def test_gated_as_v14_it_does_not(small: DiffusionModule) -> None:
    """Negative control."""
    times = torch.arange(1000)
    small.denoiser.gate_frames(small.noise_schedule.frame_confidence(times))
    small.denoiser.place = None
    batch = small.example_batch(1, 40)
    with torch.no_grad():
        condition = small.condition(batch, small.encode(batch.tokens))
        x, q = torch.randn(1, 40, 3), random_rotations(1)[0]
        here, there = (small.denoiser(y, torch.tensor([600]), condition).x0 for y in (x, x @ q.T))
    assert (there - here @ q.T).abs().max() > 1e-2


OVERRIDES = [s for s in (*ABLATIONS.values(), *OPTIONS.values()) if s and not s.startswith(TRAINING)]


@pytest.mark.parametrize("override", OVERRIDES)
def test_each_choice_is_one_setting_and_a_step_without_it_works(override: str) -> None:
    """On the meta device shapes are all there is."""
    with torch.device("meta"):
        module = instantiate_model("v15_small", [MODEL + override]).to("meta")
        total, terms = module.losses(module.example_batch(2, 24))
        assert terms.keys() == final_weights(module.loss_weights).keys()
        total.backward()


def test_it_trains_logs_every_term_and_picks_the_best_by_the_score(
    reduced_config: Callable[[str], Path], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert main(["fit", "--config", str(reduced_config("v15")), "--data.path", "store", "--data.synthetic.n", "20",
                 "--data.synthetic.folds", "5", "--data.synthetic.min_length", "28",
                 "--data.synthetic.max_length", "40", "--data.batch_size", "4", "--run.dir", "run",
                 "--trainer.max_epochs", "2", "--model.init_args.trunk_first", "1",
                 "--trainer.limit_train_batches", "2",
                 "--trainer.accumulate_grad_batches", "1", "--checkpoints.background", "false",
                 "--ddim.every_n_epochs", "0"]) == 0  # fmt: skip
    with open("run/metrics.csv") as lines:
        logged = {k: float(v) for row in csv.DictReader(lines) for k, v in row.items() if v and k[0] != "_"}
    for term in ("x0", "distogram", "secondary_structure", "contacts", "fape", "bb_fape"):
        assert np.isfinite(logged[f"loss/{term}"]) and np.isfinite(logged[f"val/{term}"])
    assert logged["loss_weighted/distogram"] == pytest.approx(3.0 * logged["loss/distogram"], rel=1e-5)
    assert 0 <= logged["val/precision_long_L5"] <= 1
    assert "val/score" in logged
    best = torch.load("run/checkpoints/best.ckpt", map_location="cpu", weights_only=True)
    assert best["minifold_pl"]["encoder_origin"] == "random"
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.parametrize("again", [False, True])
def test_every_trained_parameter_takes_part_in_every_step(again: bool, small: DiffusionModule) -> None:
    """Distributed training waits for the gradient of each, also where a batch drops no condition."""
    batch = small.train().example_batch(2, 24)
    found = small.predict_structure(
        batch, batch.tokens, small.target(batch), small._training_draws(batch, 0), again
    )
    terms, weights = small.objective(*found), final_weights(small.loss_weights)
    weighted_total(terms, weights).backward()
    idle = [n for n, p in small.named_parameters() if p.requires_grad and p.grad is None]
    # A confidence head takes part in a training step, too, with its own samples: tests/modules/test_confidence.py.
    assert [n for n in idle if not n.startswith("confidence_head.")] == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_step_and_a_guided_sample_are_finite_in_half_precision(
    dtype: torch.dtype, small: DiffusionModule
) -> None:
    batch = small.example_batch(2, 24)
    batch.coords.add_(torch.randn_like(batch.coords))
    tokens = batch.tokens.clone()
    tokens[1] = null_tokens(tokens)[1]
    with torch.autocast("cpu", dtype=dtype):
        found = small.predict_structure(
            batch, tokens, small.target(batch), small._training_draws(batch, 0), True
        )
        total = weighted_total(small.objective(*found), final_weights(small.loss_weights))
        drawn = small.sample(batch, SamplerConfig(steps=3, guidance=1.5), seed=0, keys=batch.names)
    total.backward()
    assert total.isfinite() and drawn.x0.isfinite().all()
    assert all(p.grad.isfinite().all() for p in small.parameters() if p.grad is not None)
