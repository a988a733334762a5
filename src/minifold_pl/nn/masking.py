"""How padding is kept out: masked rows are zeroed on the way in and out, masked keys get no weight."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

NO_WEIGHT = -1e4
"""Logit added for a masked key. ``exp`` of it is exactly 0 beside any valid key; unlike ``-inf`` it leaves a
row whose keys are all masked finite, and fp16 can hold it."""


def pair_mask(mask: Bool[Tensor, "b l"]) -> Bool[Tensor, "b l l"]:
    """Pairs of which both residues are valid."""
    return mask.unsqueeze(2) & mask.unsqueeze(1)


def keep(x: Float[Tensor, "*axes d"], mask: Bool[Tensor, "*axes"]) -> Float[Tensor, "*axes d"]:
    """``x`` with 0 outside ``mask``, even where it was NaN."""
    return x.masked_fill(~mask.unsqueeze(-1), 0.0)


def key_bias(mask: Bool[Tensor, "b j"], dtype: torch.dtype) -> Float[Tensor, "b 1 1 j"]:
    """Additive attention bias: 0 for valid keys, :data:`NO_WEIGHT` for masked ones."""
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, NO_WEIGHT)
    return bias[:, None, None, :]
