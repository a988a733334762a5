"""The mean of a score over chains, over batches and processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

ChainScore = Callable[..., Float[Tensor, " b"]]
"""A function of a batch that gives one number a chain, NaN where it is not defined."""


class ChainMean(Metric):
    """Mean of a per-chain score; every chain counts the same, whatever its length or batch.

    ``update`` takes the arguments of ``score``. Chains for which the score is NaN (nothing to count, such
    as the long-range contacts of 20 residues) are left out; :attr:`chains` says how many remained. NaN
    when none did. The sums are float64, so that neither order nor the number of processes shows.
    """

    full_state_update = False
    is_differentiable = False
    total: Tensor
    chains: Tensor

    def __init__(self, score: ChainScore, **kwargs: Any) -> None:
        """``kwargs`` are those of :class:`torchmetrics.Metric`."""
        super().__init__(**kwargs)
        self.score = score
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("chains", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Add a batch."""
        scores = self.score(*args, **kwargs).detach().double()
        defined = ~scores.isnan()
        self.total += scores[defined].sum()
        self.chains += defined.sum()

    def compute(self) -> Float[Tensor, ""]:
        """The mean so far."""
        return (self.total / self.chains).float()
