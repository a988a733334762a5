"""The only conversion between Å and model units, and the centring that goes with it.

Model units are Å ÷ 10, a fixed scale, with the mean Cα of the valid residues at the origin: a scale that
depends on the protein would give each size its own noise schedule (Mini-Fold, "Fixed-Scale Coordinates").
"""

from __future__ import annotations

from typing import overload

from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.constants import MODEL_UNIT
from minifold_pl.geometry.precision import full_precision


@overload
def to_model_units(x: float) -> float: ...
@overload
def to_model_units(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]: ...
def to_model_units(x: float | Tensor) -> float | Tensor:
    """Lengths in Å to model units."""
    return x / MODEL_UNIT


@overload
def to_angstrom(x: float) -> float: ...
@overload
def to_angstrom(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]: ...
def to_angstrom(x: float | Tensor) -> float | Tensor:
    """Lengths in model units to Å."""
    return x * MODEL_UNIT


@full_precision
def center(x: Float[Tensor, "*b l 3"], mask: Bool[Tensor, "*b l"]) -> Float[Tensor, "*b l 3"]:
    """``x`` minus the mean over the residues in ``mask``; the other rows become 0. Any unit."""
    weight = mask.unsqueeze(-1).to(x.dtype)
    # where, not a product: a masked row may hold NaN or inf, and 0 · NaN is NaN
    valid = x.where(mask.unsqueeze(-1), x.new_zeros(()))
    mean = valid.sum(-2, keepdim=True) / weight.sum(-2, keepdim=True).clamp(min=1)
    return (valid - mean) * weight
