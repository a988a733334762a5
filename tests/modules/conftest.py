"""Small twins of both modules, and real-looking batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.constants import NO_LABEL
from minifold_pl.data.collate import collate
from minifold_pl.data.dataset import ChainItem
from minifold_pl.data.tokenizer import encode
from minifold_pl.geometry.backbone import backbone_from_torsions
from minifold_pl.modules.contact_classifier import ContactClassifierModule
from minifold_pl.modules.diffusion import DiffusionModule
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


@pytest.fixture
def diffusion() -> DiffusionModule:
    torch.manual_seed(0)
    module = instantiate_model("v13_small.yaml")
    assert isinstance(module, DiffusionModule)
    return module


@pytest.fixture
def contact() -> ContactClassifierModule:
    torch.manual_seed(0)
    module = instantiate_model("contact_small.yaml")
    assert isinstance(module, ContactClassifierModule)
    return module
