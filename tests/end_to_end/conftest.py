"""A tiny synthetic store, and a small run of each stage on it, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from minifold_pl.cli.main import main
from minifold_pl.data.datamodule import write_synthetic
from minifold_pl.data.synthetic import SyntheticConfig

TRAINING = [
    "--data.batch_size",
    "4",
    "--data.limit_train",
    "8",
    "--data.limit_validation",
    "4",
    "--run.wandb",
    "disabled",
    "--trainer.log_every_n_steps",
    "1",
]


@pytest.fixture(scope="session")
def training() -> list[str]:
    """Flags of every small run."""
    return TRAINING


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "store"
    write_synthetic(path, SyntheticConfig(n=60, folds=5, min_length=24, max_length=34))
    return path


@pytest.fixture(scope="session")
def contact_run(tmp_path_factory, store) -> Path:
    run = tmp_path_factory.mktemp("runs") / "contact"
    args = ["--config", "contact_small.yaml", "--data.path", str(store), "--run.dir", str(run)]
    assert main(["fit", *args, *TRAINING, "--trainer.max_epochs", "2"]) == 0
    return run


@pytest.fixture(scope="session")
def diffusion_arguments(tmp_path_factory, store, contact_run) -> list[str]:
    """Arguments of a small v13 run with the encoder of ``contact_run``."""
    return [
        "--config", "v13_small.yaml", "--data.path", str(store), *TRAINING,
        "--run.dir", str(tmp_path_factory.mktemp("runs") / "v13"),
        "--model.init_args.encoder_ckpt", str(contact_run / "checkpoints" / "best.ckpt"),
        "--model.init_args.sampler.steps", "2", "--trainer.accumulate_grad_batches", "2",
        "--ddim.every_n_epochs", "1", "--ddim.chains", "3", "--ddim.save", "2",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def diffusion_run(diffusion_arguments) -> Path:
    assert main(["fit", *diffusion_arguments, "--trainer.max_epochs", "2"]) == 0
    return Path(diffusion_arguments[diffusion_arguments.index("--run.dir") + 1])
