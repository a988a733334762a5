"""Validation losses at low, middle and high noise: where on the way from noise to chain a model is weak."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

from minifold_pl.losses.reduction import PerChain

BANDS: Final = ("low", "middle", "high")
"""Thirds of the timesteps, by their noise."""
TOTAL: Final = "total"


def band_of(t: Int[Tensor, " b"], timesteps: int) -> Int[Tensor, " b"]:
    """Which of :data:`BANDS` a timestep 1 … T − 1 lies in: equal thirds, t = 333 and 666 begin the next of T = 1000."""
    return (t * len(BANDS) // timesteps).clamp(max=len(BANDS) - 1)


class BandLosses(Metric):
    """Mean of every loss term over the examples of each band, and of their weighted total.

    As in the totals, each term is a mean over the chains that have anything to count for it; a band's total is the
    weighted sum of its means. Neither batches nor processes change the result, beyond rounding.

    Args:
        terms: Names of the loss terms.
        timesteps: Length of the diffusion process.
    """

    full_state_update = False
    is_differentiable = False
    total: Tensor
    count: Tensor

    def __init__(self, terms: tuple[str, ...], timesteps: int) -> None:
        super().__init__()
        self.terms = terms
        self.timesteps = timesteps
        shape = (len(BANDS), len(terms))
        self.add_state("total", torch.zeros(shape), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(shape, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, t: Int[Tensor, " b"], terms: Mapping[str, PerChain]) -> None:
        """Add a batch of examples at timesteps ``t``."""
        values = torch.stack([terms[name].value.detach().float() for name in self.terms], -1)
        counted = torch.stack([terms[name].counted for name in self.terms], -1)
        band = band_of(t, self.timesteps)
        # where, not a product: what is not counted may be anything
        self.total.index_add_(0, band, values.where(counted, values.new_zeros(())))
        self.count.index_add_(0, band, counted.long())

    def compute(self) -> dict[str, dict[str, Float[Tensor, ""]]]:
        """Band → term → mean; bands and terms without an example are left out."""
        means = self.total / self.count
        return {
            band: {term: means[i, k] for k, term in enumerate(self.terms) if bool(self.count[i, k] > 0)}
            for i, band in enumerate(BANDS)
            if bool((self.count[i] > 0).any())
        }


def named_band_losses(
    found: Mapping[str, Mapping[str, Tensor]], weights: Mapping[str, float], prefix: str
) -> dict[str, Tensor]:
    """``{prefix}/{band}/{term}`` for what is logged, with the weighted ``total`` of each band."""
    values = {}
    for band, terms in found.items():
        parts = [weights[name] * term for name, term in terms.items() if weights[name] != 0]
        if parts:
            values[f"{prefix}/{band}/{TOTAL}"] = torch.stack(parts).sum()
        values |= {f"{prefix}/{band}/{name}": term for name, term in terms.items()}
    return values
