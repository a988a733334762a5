"""Chains whose geometry is known."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor


def _helix(length: int, *, turn: float, rise: float, radius: float) -> Tensor:
    place = torch.arange(length, dtype=torch.float64)
    angle = place * math.radians(turn)
    return torch.stack((radius * angle.cos(), radius * angle.sin(), rise * place), dim=-1)


@pytest.fixture
def alpha_helix() -> Tensor:
    """Cα of an ideal right-handed α helix: 100° and 1.5 Å a residue, radius 2.3 Å (Pauling et al. 1951)."""
    return _helix(20, turn=100.0, rise=1.5, radius=2.3)


@pytest.fixture
def walk() -> Tensor:
    """Two random walks of 24 steps of 3.8 Å, float64."""
    steps = torch.nn.functional.normalize(torch.randn(2, 24, 3, dtype=torch.float64), dim=-1)
    return (3.8 * steps).cumsum(1)


@pytest.fixture(scope="session")
def real_backbones(real_data: Path) -> list[Tensor]:
    """N, Cα, C, O (l 4 3) of the complete, unbroken chains of the small set."""
    chains = []
    with gzip.open(real_data / "ci_small.jsonl.gz", "rt") as lines:
        for line in lines:
            record = json.loads(line)
            atoms = torch.tensor([record["coords"][a] for a in ("N", "CA", "C", "O")]).transpose(0, 1)
            if atoms[:, :3].isfinite().all() and not record.get("breaks"):
                chains.append(atoms)
    return chains
