"""Scores of a predicted contact map."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.constants import CONTACT_CUTOFF, LONG_RANGE, MEDIUM_RANGE
from minifold_pl.geometry.measures import pairwise_distances
from minifold_pl.metrics.finite import require_finite_truth


class SeparationRange(NamedTuple):
    """Sequence separations |i − j|, both ends included; ``last`` None has no upper end."""

    first: int
    last: int | None = None


LONG = SeparationRange(LONG_RANGE)
MEDIUM = SeparationRange(*MEDIUM_RANGE)
ALL = SeparationRange(1)


def contact_map(ca: Float[Tensor, "b l 3"], cutoff: float = CONTACT_CUTOFF) -> Bool[Tensor, "b l l"]:
    """Which Cα atoms are nearer to each other than ``cutoff`` Å."""
    return pairwise_distances(ca) < cutoff


def contact_precision(
    logits: Float[Tensor, "b l l"],
    ca: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    *,
    separation: SeparationRange = LONG,
    top: int = 1,
) -> Float[Tensor, " b"]:
    """Share of true contacts among the L / ``top`` most probable pairs of a separation range.

    L counts the residues in ``mask``; at least one pair is looked at, and no more than there are. Pairs
    tied at the end of the list count as their mean, so that a score with few distinct values does not
    depend on the order of a sort. ``logits`` is read above the diagonal. NaN where the range holds no
    pair.

    Raises:
        ValueError: ``ca`` has a NaN or inf at a valid residue.
    """
    require_finite_truth(ca, mask)
    pair = _pairs(mask, separation)
    score = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # A NaN would sort first: a map that holds one ranks it last, and never as a hit.
    broken = score.isnan()
    score = score.masked_fill(~pair | broken, -torch.inf).flatten(1)
    hit = (contact_map(ca) & pair & ~broken).flatten(1)
    pairs = pair.sum((-1, -2))
    wanted = torch.minimum((mask.sum(-1) // top).clamp(min=1), pairs)
    last = score.sort(-1, descending=True).values.gather(1, (wanted - 1).clamp(min=0)[:, None])
    above, tied = score > last, (score == last) & pair.flatten(1)
    share_of_tied = (wanted - above.sum(-1)) / tied.sum(-1)
    return ((hit & above).sum(-1) + share_of_tied * (hit & tied).sum(-1)) / wanted


def contact_recall(
    logits: Float[Tensor, "b l l"],
    ca: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    *,
    separation: SeparationRange = ALL,
    threshold: float = 0.5,
) -> Float[Tensor, " b"]:
    """Share of the true contacts predicted with a probability above ``threshold``; NaN without contacts.

    Over all pairs it says little: nearly half of all contacts have |i − j| ≤ 2, and a predictor that knows
    the separation alone reaches 0.7. Read it beside :func:`contact_precision` at long range.

    Raises:
        ValueError: ``ca`` has a NaN or inf at a valid residue.
    """
    require_finite_truth(ca, mask)
    contact = contact_map(ca) & _pairs(mask, separation)
    found = (logits.sigmoid() > threshold) & contact
    return found.sum((-1, -2)) / contact.sum((-1, -2))


def contact_map_precision(
    logits: Float[Tensor, "b l l"],
    ca: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    *,
    separation: SeparationRange = ALL,
    threshold: float = 0.5,
) -> Float[Tensor, " b"]:
    """Share of the pairs predicted with a probability above ``threshold`` that are contacts; NaN without any.

    The other side of :func:`contact_recall`; over all pairs it, too, is mostly about neighbours along the chain.

    Raises:
        ValueError: ``ca`` has a NaN or inf at a valid residue.
    """
    require_finite_truth(ca, mask)
    predicted = (logits.sigmoid() > threshold) & _pairs(mask, separation)
    return (predicted & contact_map(ca)).sum((-1, -2)) / predicted.sum((-1, -2))


def _pairs(mask: Bool[Tensor, "b l"], separation: SeparationRange) -> Bool[Tensor, "b l l"]:
    pairs = (mask[:, :, None] & mask[:, None, :]).triu(max(separation.first, 1))
    return pairs if separation.last is None else pairs.tril(separation.last)


CONTACT_SCORES: Final[dict[str, Callable[..., Tensor]]] = {
    **{
        f"precision_{name}_{label}": partial(contact_precision, separation=separation, top=top)
        for name, separation in (("long", LONG), ("medium", MEDIUM))
        for label, top in (("L", 1), ("L2", 2), ("L5", 5))
    },
    "contact_recall": partial(contact_recall, separation=ALL),
    "contact_recall_long": partial(contact_recall, separation=LONG),
    "contact_precision": partial(contact_map_precision, separation=ALL),
}
"""Name → score of a map of logits: what ``evaluate`` writes, and what stands in figures."""
