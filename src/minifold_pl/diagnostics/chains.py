"""Chains of a data set in batches of like lengths, each by its own key: no batch has a say in a number."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from minifold_pl.data.collate import collate
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.types import ProteinBatch


def batches(chains: ChainDataset, size: int, device: torch.device) -> Iterator[ProteinBatch]:
    """All chains, shortest first."""
    order = sorted(range(len(chains)), key=lambda i: (int(chains.lengths[i]), i))
    for start in range(0, len(order), size):
        yield collate([chains[i] for i in order[start : start + size]]).to(device)
