"""A model so small that a training of several epochs costs nothing, and a trainer that says nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.data.collate import collate
from minifold_pl.data.datamodule import ProteinDataModule, write_synthetic
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.data.store import ChainStore
from minifold_pl.data.synthetic import SyntheticConfig
from minifold_pl.modules.base import MinifoldModule
from minifold_pl.types import ProteinBatch

VALUES = (5.0, 3.0, 4.0, 4.5, 4.2)
"""``val/total`` of each epoch: the best is the second."""


class Tiny(pl.LightningModule):
    """One weight that moves by −1 a step; it logs the ``val/total`` it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen_in_validation: list[float] = []
        self.fail_in_epoch: int | None = None
        self.error: BaseException = RuntimeError("one line\nand another")

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        if self.current_epoch == self.fail_in_epoch:
            raise self.error
        self.log("loss/total", 2.5, on_epoch=True, on_step=False, batch_size=1)
        return self.weight.sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.seen_in_validation.append(self.weight.item())
        self.log("val/total", VALUES[min(self.current_epoch, len(VALUES) - 1)], batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def train_dataloader(self) -> DataLoader[torch.Tensor]:
        return DataLoader(torch.zeros(3, 1))

    def val_dataloader(self) -> DataLoader[torch.Tensor]:
        return DataLoader(torch.zeros(1, 1))


@pytest.fixture
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., pl.Trainer]:
    def make(*callbacks: pl.Callback, **settings: object) -> pl.Trainer:
        has_checkpoints = any(isinstance(c, pl.callbacks.Checkpoint) for c in callbacks)
        defaults = {
            "max_epochs": 5, "accelerator": "cpu", "logger": False, "num_sanity_val_steps": 0,
            "default_root_dir": tmp_path,
        }  # fmt: skip
        return pl.Trainer(
            **{**defaults, **settings},
            callbacks=list(callbacks),
            enable_checkpointing=has_checkpoints,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    return make


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Path:
    """Synthetic chains of different lengths."""
    path = tmp_path_factory.mktemp("callbacks") / "store"
    write_synthetic(path, SyntheticConfig(n=60, folds=5, min_length=24, max_length=32))
    return path


@pytest.fixture(scope="session")
def chains(store: Path) -> ChainDataset:
    return ChainDataset(ChainStore.open(store), "train", max_length=32)


@pytest.fixture(scope="session")
def _untouched() -> MinifoldModule:
    """The second stage, small, built once: reading a config takes longer than most tests."""
    torch.manual_seed(0)
    return instantiate_model("v13_small.yaml", ["--model.init_args.sampler.steps=3"])


@pytest.fixture
def train_diffusion(_untouched, store, make_trainer) -> Callable[..., tuple[MinifoldModule, pl.Trainer]]:
    """Train a small second stage for a few steps: two batches an epoch, five validation chains."""

    def train(
        *callbacks: pl.Callback, ckpt_path: str | None = None, **settings: object
    ) -> tuple[MinifoldModule, pl.Trainer]:
        module = copy.deepcopy(_untouched)
        data = ProteinDataModule(str(store), batch_size=2, limit_train=4, limit_validation=5)
        trainer = make_trainer(*callbacks, **{"max_epochs": 2, "use_distributed_sampler": False, **settings})
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
        return module, trainer

    return train


@pytest.fixture(scope="session")
def batch(chains: ChainDataset) -> ProteinBatch:
    return collate([chains[i] for i in range(3)])
