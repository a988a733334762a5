"""Small twins of both modules, and real-looking batches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from minifold_pl.checkpoint.io import save
from minifold_pl.cli.lightning_cli import instantiate_model, resolve_config
from minifold_pl.constants import NO_LABEL
from minifold_pl.data.collate import collate
from minifold_pl.data.dataset import ChainItem
from minifold_pl.data.tokenizer import encode
from minifold_pl.geometry.backbone import backbone_from_torsions
from minifold_pl.modules.contact_classifier import ContactClassifierModule
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.load import build_module
from minifold_pl.types import ProteinBatch

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def chain(name: str, length: int) -> ChainItem:
    """A chain whose fold and sequence follow from its name."""
    draw = np.random.default_rng(list(name.encode()))
    torsions = torch.as_tensor(draw.uniform(-1.5, -0.5, (2, length)), dtype=torch.float32)
    coords = backbone_from_torsions(torsions[0], torsions[1]).numpy()
    bonded = np.ones(length, dtype=bool)
    bonded[-1] = False
    return ChainItem(
        name=name,
        tokens=encode("".join(draw.choice(list(LETTERS), length))),
        coords=coords.astype(np.float32),
        atom_mask=np.ones((length, 4), dtype=bool),
        bonded=bonded,
        start=0,
        cath_class=int(draw.integers(4)),
        cath_architecture=NO_LABEL,
    )


@pytest.fixture
def make_batch() -> Callable[[Sequence[tuple[str, int]]], ProteinBatch]:
    return lambda chains: collate([chain(name, length) for name, length in chains])


@pytest.fixture
def batch(make_batch) -> ProteinBatch:
    return make_batch([("one", 12), ("two", 16), ("three", 9)])


@pytest.fixture(scope="session")
def _untouched() -> tuple[DiffusionModule, ContactClassifierModule]:
    """Both modules, built once: reading a config takes longer than most tests."""
    torch.manual_seed(0)
    diffusion, contact = instantiate_model("v13_small.yaml"), instantiate_model("contact_small.yaml")
    assert isinstance(diffusion, DiffusionModule)
    assert isinstance(contact, ContactClassifierModule)
    return diffusion, contact


@pytest.fixture
def diffusion(_untouched) -> DiffusionModule:
    return copy.deepcopy(_untouched[0])


@pytest.fixture
def contact(_untouched) -> ContactClassifierModule:
    return copy.deepcopy(_untouched[1])


def checkpoint_of(config: str, overrides: tuple[str, ...] = ()) -> dict:
    # Other weights than those of a module that a test builds: every test begins at the same seed.
    torch.manual_seed(1)
    module = build_module(resolve_config(config, overrides)["model"])
    checkpoint = {"state_dict": module.state_dict(), "global_step": 5, "epoch": 1}
    module.on_save_checkpoint(checkpoint)
    return checkpoint


@pytest.fixture(scope="session")
def contact_checkpoint() -> dict:
    return checkpoint_of("contact_small.yaml")


@pytest.fixture(scope="session")
def diffusion_checkpoint() -> dict:
    return checkpoint_of("v13_small.yaml")


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[dict], Path]:
    """Write a checkpoint to a file."""

    def write(checkpoint: dict) -> Path:
        path = tmp_path / "some.ckpt"
        save(checkpoint, path)
        return path

    return write


@pytest.fixture(scope="session")
def wide_checkpoint() -> dict:
    """A first stage of other sizes."""
    return checkpoint_of("contact_small.yaml", ("--model.init_args.encoder.init_args.d_pair=16",))
