"""Pairwise Cα distances: their squared error, and an ordinal head's classification of them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from minifold_pl.geometry.measures import pairwise_distances
from minifold_pl.geometry.precision import full_precision
from minifold_pl.losses.reduction import PerChain, chain_mean, pair_mask, zero_masked


@full_precision
def distance_mse_per_chain(
    x0: Float[Tensor, "b l 3"], true: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]
) -> PerChain:
    r"""Squared error of all pairwise distances.

    .. math:: L = |M|^{-1} \sum_{(i,j) \in M} (\lVert \hat x_i - \hat x_j \rVert - \lVert x_i - x_j \rVert)^2

    M: pairs of two different valid residues. Model units, result in model units². Blind to mirror images.
    """
    error = pairwise_distances(zero_masked(x0, mask)) - pairwise_distances(zero_masked(true, mask))
    return chain_mean(error**2, pair_mask(mask))


def distance_mse(
    x0: Float[Tensor, "b l 3"], true: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]
) -> Float[Tensor, ""]:
    """Mean of :func:`distance_mse_per_chain` over the chains."""
    return distance_mse_per_chain(x0, true, mask).mean()


def distance_edges(bins: int = 32, first: float = 2.0, last: float = 40.0) -> Float[Tensor, " k"]:
    """The ``bins - 1`` inner edges, in Å, of equal bins from ``first`` to ``last``.

    The outermost bins are open. The width, (last - first)/bins, is the write-up's (0.396 Å for its 96 bins).
    """
    if bins < 2 or not 0 <= first < last:
        raise ValueError(
            f"distance bins: {bins} from {first} Å to {last} Å; give at least 2 bins, and 0 ≤ first < last"
        )
    return torch.linspace(first, last, bins + 1, dtype=torch.float64)[1:-1].float()


@full_precision
def distogram_per_chain(
    logits: Float[Tensor, "b l l k"],
    true_ca: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    edges: Float[Tensor, " e"],
) -> PerChain:
    r"""Cross-entropy of the bin that a distance lies in, in nats.

    .. math:: L = -|M|^{-1} \sum_{(i,j) \in M} \log p_{ij}[\operatorname{bin}(d_{ij})]

    ``true_ca`` and ``edges`` in Å; M: pairs of two different valid residues. Mini-Fold v10, "Auxiliary Distance CE".
    """
    if logits.shape[-1] != edges.shape[-1] + 1:
        raise ValueError(
            f"distogram logits have {logits.shape[-1]} channels and there are {edges.shape[-1]} edges: "
            f"give the distance head as many outputs as distance bins"
        )
    distances = pairwise_distances(zero_masked(true_ca, mask))
    found = torch.bucketize(distances, edges.to(logits.device))
    entropy = cross_entropy(logits.movedim(-1, 1), found, reduction="none")
    return chain_mean(entropy, pair_mask(mask))


@full_precision
def ordinal_distance_per_chain(
    logits: Float[Tensor, "b l l k"],
    true_ca: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    edges: Float[Tensor, " k"],
) -> PerChain:
    r"""Ordinal regression of distances: one binary question an edge, "is the distance greater?".

    .. math:: L = \frac{1}{|M|\,K} \sum_{(i,j) \in M} \sum_k
              \operatorname{BCE}\bigl(\sigma(z_{ijk}),\ [d_{ij} > e_k]\bigr)

    ``true_ca`` and ``edges`` in Å; M: pairs of two different valid residues. Mean over the edges: so
    a head that knows only how distances are distributed in real chains has 0.40, one that also knows \|i-j\|
    has 0.33 (measured), which is where the write-up's values lie (0.32 to 0.40).
    """
    if logits.shape[-1] != edges.shape[-1]:
        raise ValueError(
            f"distance logits have {logits.shape[-1]} channels and there are {edges.shape[-1]} edges: "
            f"give the distance head as many outputs as distance bins, less one"
        )
    beyond = pairwise_distances(zero_masked(true_ca, mask)).unsqueeze(-1) > edges.to(logits.device)
    entropy = binary_cross_entropy_with_logits(logits, beyond.to(logits.dtype), reduction="none")
    return chain_mean(entropy.mean(-1), pair_mask(mask))


def ordinal_distance_loss(
    logits: Float[Tensor, "b l l k"],
    true_ca: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    edges: Float[Tensor, " k"],
) -> Float[Tensor, ""]:
    """Mean of :func:`ordinal_distance_per_chain` over the chains."""
    return ordinal_distance_per_chain(logits, true_ca, mask, edges).mean()
