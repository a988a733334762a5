"""One rotation for a whole chain, that turns with it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.geometry.frames import gram_schmidt
from minifold_pl.geometry.precision import full_precision


@full_precision
def chain_rotation(x: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b 3 3"]:
    r"""Axes of a chain, from its two slowest modes.

    .. math:: v_k = \sum_n \cos\bigl(\pi k (n + \tfrac12) / N\bigr)\, x_n, \quad k = 1, 2

    over the N residues in ``mask``, counted along the chain; Gram–Schmidt with e1 along :math:`v_1` and e2 towards
    :math:`v_2`. Of all that a noised chain shows of itself these modes stand out most: neighbours lie near each other,
    so most of a chain's variance is in its slowest modes, while noise has as much in each. Independent of the origin
    and of padding; a mirror image has other axes. Any unit.

    A chain of fewer than three residues, or one whose two modes are parallel, has axes that do not turn with it.
    """
    rank = mask.cumsum(-1).to(x.dtype) - 0.5
    phase = math.pi * rank / mask.sum(-1, keepdim=True).clamp(min=1).to(x.dtype)
    kept = x.where(mask.unsqueeze(-1), x.new_zeros(()))
    modes = [torch.einsum("bl,blx->bx", (k * phase).cos() * mask, kept) for k in (1, 2)]
    return gram_schmidt(modes[1], torch.zeros_like(modes[0]), modes[0])
