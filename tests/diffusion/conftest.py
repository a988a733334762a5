import gzip
import json
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from minifold_pl.diffusion.known_data import LibraryPosterior
from minifold_pl.geometry.units import center, to_model_units
from minifold_pl.types import Condition


def mask_of(lengths: Sequence[int], padded: int | None = None) -> Tensor:
    return torch.arange(padded or max(lengths)) < torch.tensor(lengths)[:, None]


def condition(mask: Tensor, single: Tensor | None = None) -> Condition:
    b, n = mask.shape
    single = torch.zeros(b, n, 1) if single is None else single
    return Condition(single, torch.zeros(b, n, n, 1), mask, mask)


def random_chain(length: int, generator: torch.Generator) -> Tensor:
    """A freely jointed chain of 0.38 model units a bond, centred."""
    bonds = torch.randn(length, 3, generator=generator)
    walk = (0.38 * bonds / bonds.norm(dim=-1, keepdim=True)).cumsum(0)
    return walk - walk.mean(0)


@pytest.fixture(scope="session")
def real_library(real_data) -> Tensor:
    """24 windows of 60 residues of real chains, model units, centred, each in the pose of its file."""
    windows: list[Tensor] = []
    with gzip.open(real_data / "ci_small.jsonl.gz", "rt") as file:
        for line in file:
            ca = torch.tensor(json.loads(line)["coords"]["CA"])[:60]
            if len(ca) == 60 and ca.isfinite().all():
                windows.append(ca)
            if len(windows) == 24:
                break
    library = torch.stack(windows)
    return to_model_units(center(library, torch.ones(24, 60, dtype=torch.bool)))


@pytest.fixture(scope="session")
def make_mask():
    return mask_of


@pytest.fixture(scope="session")
def make_condition():
    return condition


@pytest.fixture(scope="session")
def make_chain():
    return random_chain


@pytest.fixture(scope="session")
def library_posterior():
    return LibraryPosterior
