"""The losses of the first stage: CATH labels and the contact map."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from minifold_pl.constants import CONTACT_CUTOFF, NO_LABEL
from minifold_pl.geometry.measures import pairwise_distances
from minifold_pl.geometry.precision import full_precision
from minifold_pl.losses.reduction import PerChain, chain_mean, pair_mask, zero_masked


@full_precision
def cross_entropy_per_chain(logits: Float[Tensor, "b k"], labels: Int[Tensor, " b"]) -> PerChain:
    """Cross-entropy in nats; chains labelled ``NO_LABEL`` are left out."""
    return chain_mean(
        cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="none"), labels.ne(NO_LABEL)
    )


def masked_cross_entropy(logits: Float[Tensor, "b k"], labels: Int[Tensor, " b"]) -> Float[Tensor, ""]:
    """Mean cross-entropy over the labelled chains; 0, with gradient 0, when none has a label."""
    return cross_entropy_per_chain(logits, labels).mean()


@full_precision
def contact_bce_per_chain(
    logits: Float[Tensor, "b l l"],
    ca: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    *,
    pos_weight: float,
) -> PerChain:
    """Binary cross-entropy of the contact map, contacts weighing ``pos_weight`` times as much as the rest.

    A contact is a Cα–Cα distance below 8 Å; ``ca`` in Å. Mean over the pairs of two different observed
    residues (divided by their number, not by the sum of the weights, as in PyTorch).
    """
    if not pos_weight > 0:
        raise ValueError(f"contact pos_weight is {pos_weight}: give a positive number")
    contact = (pairwise_distances(zero_masked(ca, mask)) < CONTACT_CUTOFF).to(logits.dtype)
    entropy = binary_cross_entropy_with_logits(
        logits, contact, reduction="none", pos_weight=logits.new_tensor(pos_weight)
    )
    return chain_mean(entropy, pair_mask(mask))


def contact_bce(
    logits: Float[Tensor, "b l l"],
    ca: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    *,
    pos_weight: float,
) -> Float[Tensor, ""]:
    """Mean of :func:`contact_bce_per_chain` over the chains."""
    return contact_bce_per_chain(logits, ca, mask, pos_weight=pos_weight).mean()
