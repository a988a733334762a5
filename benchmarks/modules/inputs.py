"""Random input for the modules: the same for every contender."""

from __future__ import annotations

import torch
from torch import Tensor

from minifold_pl.geometry.frames import random_rotations
from minifold_pl.types import Frames


def chains(length: int, batch: int, device: torch.device) -> Tensor:
    """Mask of chains, every second of them a little shorter than ``length``."""
    lengths = length - (torch.arange(batch, device=device) % 2) * (length // 8)
    return torch.arange(length, device=device)[None] < lengths[:, None]


def pair_features(length: int, batch: int, channels: int, device: torch.device) -> Tensor:
    """Standard normal pair features."""
    return _normal((batch, length, length, channels), 1).to(device)


def single_features(length: int, batch: int, channels: int, device: torch.device) -> Tensor:
    """Standard normal single features."""
    return _normal((batch, length, channels), 2).to(device)


def frames(length: int, batch: int, device: torch.device) -> Frames:
    """Frames as spread as a small protein, model units."""
    generator = torch.Generator().manual_seed(3)
    rotation = random_rotations(batch * length, generator).view(batch, length, 3, 3)
    return Frames(rotation.to(device), (1.5 * _normal((batch, length, 3), 4)).to(device))


def _normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
