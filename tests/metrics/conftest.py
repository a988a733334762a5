import gzip
import json

import pytest
import torch
from torch import Tensor


def padded_batch(chains: list[Tensor], padded: int | None = None) -> tuple[Tensor, Tensor]:
    """Chains as one tensor, 0 behind their ends, and the mask of their residues."""
    lengths = torch.tensor([len(chain) for chain in chains])
    width = padded or int(lengths.max())
    ca = torch.zeros(len(chains), width, 3)
    for row, chain in zip(ca, chains, strict=True):
        row[: len(chain)] = chain
    return ca, torch.arange(width) < lengths[:, None]


def walk(length: int) -> Tensor:
    """A random compact-ish Cα walk with bonds of 3.8 Å."""
    bonds = torch.randn(length, 3)
    return (3.8 * bonds / bonds.norm(dim=-1, keepdim=True)).cumsum(0)


@pytest.fixture(scope="session")
def make_batch():
    return padded_batch


@pytest.fixture(scope="session")
def make_walk():
    return walk


@pytest.fixture(scope="session")
def real_chains(real_data) -> list[Tensor]:
    """Cα of 100 complete real chains of at most 128 residues, Å."""
    chains: list[Tensor] = []
    with gzip.open(real_data / "ci_small.jsonl.gz", "rt") as file:
        for line in file:
            ca = torch.tensor(json.loads(line)["coords"]["CA"])
            if ca.isfinite().all():
                chains.append(ca)
    return chains[:100]


@pytest.fixture(scope="session")
def rotation() -> Tensor:
    """One proper rotation."""
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3))).Q
    return q * torch.det(q)
