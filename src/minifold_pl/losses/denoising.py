"""Errors of the whole chain, as a denoiser that stands for a score needs them: aligned squared error, smooth lDDT."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.geometry.frames import to_global
from minifold_pl.geometry.measures import pairwise_distances
from minifold_pl.geometry.precision import full_precision
from minifold_pl.geometry.superpose import kabsch
from minifold_pl.geometry.units import length_beside
from minifold_pl.losses.reduction import PerChain, chain_mean, pair_mask, zero_masked
from minifold_pl.types import Frames

LDDT_RADIUS = 15.0
"""Å; pairs nearer than this in the truth count."""
LDDT_THRESHOLDS = (0.5, 1.0, 2.0, 4.0)
"""Å."""
_FARTHEST = 1e4
"""Model units. What lies beyond, or is no number, is left out of the search for the pose; its error stays."""


@dataclass(frozen=True, kw_only=True)
class SNRWeighting:
    r"""Weight of a timestep: :math:`w(t) = \mathrm{clamp}(\mathrm{SNR}(t) + a,\ f,\ \gamma)`.

    The defaults are min-SNR-γ for a network that predicts x0 (Hang et al. 2023, arXiv:2303.09556, eq. 8), under which
    high noise hardly counts: SNR is 0.2 at t = 730 of 1000 and 0.006 at t = 950. A ``floor`` keeps it in sight: it is
    where a fold is decided. ``offset`` 1 with an infinite ``gamma`` is EDM's weight (Karras et al. 2022,
    arXiv:2206.00364, Table 1) for data of variance 1; ``floor`` = ``gamma`` weighs all alike.
    """

    offset: float = 0.0
    """a: added to the SNR."""
    floor: float = 0.0
    """f: smallest weight."""
    gamma: float = 5.0
    """γ: largest weight."""

    def __post_init__(self) -> None:
        if not (0 <= self.offset < math.inf and 0 <= self.floor < math.inf):
            raise ValueError(
                f"x0_weighting has offset {self.offset} and floor {self.floor}: give 0 or more, both finite"
            )
        if not (self.gamma > 0 and self.gamma >= self.floor):
            raise ValueError(
                f"x0_weighting has gamma {self.gamma} and floor {self.floor}: gamma must be above 0, and no "
                "smaller than the floor"
            )

    def __call__(self, snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The weight at each signal-to-noise ratio."""
        return (snr + self.offset).clamp(self.floor, self.gamma)


MIN_SNR = SNRWeighting()


@dataclass(frozen=True, kw_only=True)
class DenoisingWeights:
    """Weight of each term of a denoiser that is judged by its whole chain; 0 leaves one out but still logs it."""

    x0: float = 0.0
    """Squared error of the chain after superposition, (10 Å)² a coordinate, times the weight of its timestep."""
    lddt: float = 0.0
    """1 - smooth lDDT of Cα; 0.196 at the truth."""


@full_precision
def aligned_mse_per_chain(
    x0: Float[Tensor, "b l 3"], true: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]
) -> PerChain:
    r"""Squared error of the coordinates at the best superposition.

    .. math:: L = \min_{R, s} \frac{1}{3|M|} \sum_{i \in M} \lVert \hat x_i - (R x_i + s) \rVert^2

    Model units, result in model units². R is a proper rotation: a mirror image costs what it costs. AlphaFold 3,
    suppl. 3.7.1 and Algorithm 28: the truth is moved onto the prediction, without a gradient through the motion. As it
    is the best one, that gradient is exact all the same, wherever the best rotation is unique (envelope theorem).
    """
    x0, true = zero_masked(x0, mask), zero_masked(true, mask)
    with torch.no_grad():
        pose = kabsch(true, x0.nan_to_num(0.0).clamp(-_FARTHEST, _FARTHEST), mask)
        moved = to_global(Frames(pose.rotation.unsqueeze(-3), pose.translation.unsqueeze(-2)), true)
    return chain_mean((x0 - moved).square().mean(-1), mask)


@full_precision
def smooth_lddt_per_chain(
    x0: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    *,
    unit: Float[Tensor, " b"] | None = None,
) -> PerChain:
    r"""One minus a smooth lDDT of Cα: local distances, each counted as far as it is right.

    .. math:: L = 1 - \frac{1}{4|P|} \sum_{(i,j) \in P} \sum_k
              \sigma\bigl(\theta_k - \bigl|\,\lVert\hat x_i - \hat x_j\rVert - \lVert x_i - x_j\rVert\,\bigr|\bigr),
              \quad \theta = 0.5, 1, 2, 4\ \text{Å}

    Coordinates in model units (of 10 Å, or of each chain's ``unit`` Å). P: pairs of two different valid residues less
    than 15 Å apart in the truth. AlphaFold 3, suppl. Algorithm 27, for proteins. As published it is 0.196 at the
    truth, not 0; its gradient there is 0. Blind to mirror images.
    """
    distances = [pairwise_distances(zero_masked(x, mask)) for x in (x0, true)]
    scale = length_beside(distances[1], 1.0, unit)  # of one Å
    pairs = pair_mask(mask) & (distances[1] < LDDT_RADIUS * scale)
    error = (distances[0] - distances[1]).abs() / scale
    score = torch.stack([torch.sigmoid(threshold - error) for threshold in LDDT_THRESHOLDS]).mean(0)
    return chain_mean(1 - score, pairs)
