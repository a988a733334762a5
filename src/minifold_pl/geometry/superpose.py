"""Least-squares superposition (Kabsch 1976, Acta Cryst. A32:922)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.geometry.frames import to_global
from minifold_pl.geometry.precision import full_precision
from minifold_pl.types import Frames


@full_precision
def kabsch(
    mobile: Float[Tensor, "*b l 3"], target: Float[Tensor, "*b l 3"], mask: Bool[Tensor, "*b l"]
) -> Frames:
    """The rigid motion of ``mobile`` that brings the residues in ``mask`` nearest to ``target``.

    A proper rotation always: a mirror image stays one. Any unit, the same for both. Not meant to be
    differentiated (the SVD's gradient is undefined for equal singular values). An empty mask gives the
    identity.
    """
    weight = mask.unsqueeze(-1).to(mobile.dtype)
    count = weight.sum(-2, keepdim=True).clamp(min=1)
    zero = mobile.new_zeros(())
    mobile, target = (x.where(mask.unsqueeze(-1), zero) for x in (mobile, target))
    mobile_mean = mobile.sum(-2, keepdim=True) / count
    target_mean = target.sum(-2, keepdim=True) / count
    covariance = torch.einsum(
        "...lx,...ly->...xy", (target - target_mean) * weight, (mobile - mobile_mean) * weight
    )
    u, _, vh = torch.linalg.svd(covariance)
    handedness = torch.ones_like(covariance[..., 0])
    handedness[..., 2] = torch.det(u @ vh).sign()
    rotation = (u * handedness.unsqueeze(-2)) @ vh
    moved = torch.einsum("...xy,...ly->...lx", rotation, mobile_mean)
    return Frames(rotation, (target_mean - moved).squeeze(-2))


def superpose(
    mobile: Float[Tensor, "*b l 3"], target: Float[Tensor, "*b l 3"], mask: Bool[Tensor, "*b l"]
) -> Float[Tensor, "*b l 3"]:
    """``mobile``, all of it, moved onto ``target`` by :func:`kabsch`."""
    motion = kabsch(mobile, target, mask)
    return to_global(Frames(motion.rotation.unsqueeze(-3), motion.translation.unsqueeze(-2)), mobile)
