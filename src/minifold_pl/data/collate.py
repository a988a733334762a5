"""Items of different lengths to one padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from minifold_pl.constants import BACKBONE_ATOMS, PAD
from minifold_pl.data.dataset import ChainItem
from minifold_pl.types import ProteinBatch

PAD_MULTIPLE: Final = 8
"""Padded lengths are multiples of this: aligned for tensor cores, and few shapes to compile for."""


def padded_length(length: int, pad_multiple: int = PAD_MULTIPLE) -> int:
    """The next multiple of ``pad_multiple``."""
    return -(-length // pad_multiple) * pad_multiple


def collate(items: Sequence[ChainItem], pad_multiple: int = PAD_MULTIPLE) -> ProteinBatch:
    """Pad to the longest item's length, rounded up to a multiple of ``pad_multiple``.

    Raises:
        ValueError: no item, or ``pad_multiple`` below 1.
    """
    if not items:
        raise ValueError("no item to collate; a batch holds at least one chain")
    if pad_multiple < 1:
        raise ValueError(f"pad_multiple is {pad_multiple}; give 1 or more")
    b = len(items)
    l = padded_length(max(len(item.bonded) for item in items), pad_multiple)  # noqa: E741 - the axis' name
    tokens = np.full((b, l + 2), PAD, dtype=np.int64)
    residue_mask = np.zeros((b, l), dtype=bool)
    coords = np.zeros((b, l, len(BACKBONE_ATOMS), 3), dtype=np.float32)
    atom_mask = np.zeros((b, l, len(BACKBONE_ATOMS)), dtype=bool)
    bonded = np.zeros((b, l), dtype=bool)
    residue_index = np.zeros((b, l), dtype=np.int64)
    for row, item in enumerate(items):
        length = len(item.bonded)
        tokens[row, : length + 2] = item.tokens
        residue_mask[row, :length] = True
        coords[row, :length] = item.coords
        atom_mask[row, :length] = item.atom_mask
        bonded[row, :length] = item.bonded
        residue_index[row, :length] = np.arange(item.start, item.start + length)
    return ProteinBatch(
        names=tuple(item.name for item in items),
        tokens=torch.from_numpy(tokens),
        residue_mask=torch.from_numpy(residue_mask),
        coords=torch.from_numpy(coords),
        atom_mask=torch.from_numpy(atom_mask),
        bonded=torch.from_numpy(bonded),
        residue_index=torch.from_numpy(residue_index),
        cath_class=torch.tensor([item.cath_class for item in items]),
        cath_architecture=torch.tensor([item.cath_architecture for item in items]),
        cropped=torch.tensor([item.cropped for item in items]),
        contacts_cut=torch.tensor([item.contacts_cut for item in items], dtype=torch.float32),
    )
