"""Small models, and a few synthetic chains."""

from __future__ import annotations

import copy

import pytest
import torch

from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.data.datamodule import write_synthetic
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.data.store import ChainStore
from minifold_pl.data.synthetic import SyntheticConfig
from minifold_pl.modules.base import MinifoldModule


@pytest.fixture(scope="session")
def chains(tmp_path_factory) -> ChainDataset:
    path = tmp_path_factory.mktemp("diagnostics") / "store"
    write_synthetic(path, SyntheticConfig(n=40, folds=5, min_length=24, max_length=32))
    return ChainDataset(ChainStore.open(path), "train", limit=5)


@pytest.fixture(scope="session")
def _untouched() -> tuple[MinifoldModule, MinifoldModule]:
    """Built once: reading a config takes longer than most tests. Maps that start at 0 would hide half the model."""
    torch.manual_seed(0)
    found = []
    for config in ("v13_small.yaml", "contact_small.yaml"):
        module = instantiate_model(config)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        found.append(module.eval())
    return found[0], found[1]


@pytest.fixture
def diffusion(_untouched):
    return copy.deepcopy(_untouched[0])


@pytest.fixture
def contact(_untouched):
    return copy.deepcopy(_untouched[1])
