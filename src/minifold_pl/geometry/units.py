"""The only conversion between Å and model units, and the centring that goes with it.

Model units are Å ÷ 10, a fixed scale, with the mean Cα of the valid residues at the origin: a scale that
depends on the protein gives each size its own noise schedule (Mini-Fold, "Fixed-Scale Coordinates"). That other
scale, the protein's own radius of gyration (v8–v10), is here for comparison: wherever it may be in use, lengths are
converted with the ``unit`` of each chain.
"""

from __future__ import annotations

from typing import Literal, overload

from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.constants import MODEL_UNIT
from minifold_pl.geometry.measures import radius_of_gyration
from minifold_pl.geometry.precision import full_precision

Scale = Literal["fixed", "rg"]
"""What a model unit is: 10 Å, or the radius of gyration of the protein."""
_SMALLEST_UNIT = 1.0
"""Å. A chain of one observed residue has no size; no real one of three has a smaller one (3 · 3.8 Å: 2 Å)."""


def true_unit(
    scale: Scale, ca: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]
) -> Float[Tensor, " b"] | None:
    """Å in one model unit of each chain, from its true Cα positions in Å; None at the fixed scale."""
    return radius_of_gyration(ca, mask).clamp(min=_SMALLEST_UNIT) if scale == "rg" else None


def predicted_unit(scale: Scale, log_rg: Float[Tensor, " b"]) -> Float[Tensor, " b"] | None:
    """The same where the truth is not known, from the predicted natural logarithm of Rg in Å."""
    return log_rg.float().exp().clamp(min=_SMALLEST_UNIT) if scale == "rg" else None


@overload
def to_model_units(x: float) -> float: ...
@overload
def to_model_units(
    x: Float[Tensor, "*any"], unit: Float[Tensor, " b"] | None = None
) -> Float[Tensor, "*any"]: ...
def to_model_units(x: float | Tensor, unit: Tensor | None = None) -> float | Tensor:
    """Lengths in Å to model units, of 10 Å or, for each chain, of ``unit`` Å."""
    return x / (MODEL_UNIT if unit is None else _along(unit, x))


@overload
def to_angstrom(x: float) -> float: ...
@overload
def to_angstrom(
    x: Float[Tensor, "*any"], unit: Float[Tensor, " b"] | None = None
) -> Float[Tensor, "*any"]: ...
def to_angstrom(x: float | Tensor, unit: Tensor | None = None) -> float | Tensor:
    """Lengths in model units, of 10 Å or, for each chain, of ``unit`` Å, to Å."""
    return x * (MODEL_UNIT if unit is None else _along(unit, x))


def length_beside(x: Tensor, angstrom: float, unit: Float[Tensor, " b"] | None = None) -> Tensor:
    """A length in Å as one in model units that broadcasts against ``x``."""
    return x.new_full((), angstrom / MODEL_UNIT) if unit is None else angstrom / _along(unit.to(x.dtype), x)


def _along(unit: Tensor, x: float | Tensor) -> Tensor:
    """``unit`` with an axis for each further one of ``x``, whose first is that of the chains."""
    assert isinstance(x, Tensor)
    return unit.view(-1, *[1] * (x.ndim - 1))


@full_precision
def center(x: Float[Tensor, "*b l 3"], mask: Bool[Tensor, "*b l"]) -> Float[Tensor, "*b l 3"]:
    """``x`` minus the mean over the residues in ``mask``; the other rows become 0. Any unit."""
    weight = mask.unsqueeze(-1).to(x.dtype)
    # where, not a product: a masked row may hold NaN or inf, and 0 · NaN is NaN
    valid = x.where(mask.unsqueeze(-1), x.new_zeros(()))
    mean = valid.sum(-2, keepdim=True) / weight.sum(-2, keepdim=True).clamp(min=1)
    return (valid - mean) * weight
