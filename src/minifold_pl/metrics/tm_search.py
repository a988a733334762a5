"""TM-score and GDT maximised over superpositions, with a fixed residue correspondence.

The TM-score program's search (Zhang & Skolnick 2004, Proteins 57:702, and the notes in its source):
superpose every run of L, L/2, L/4 … 4 residues, then superpose again on the residues that came to lie near
their true places, until these stay the same. Every pose on the way is scored and the best value kept. Each
chain has hundreds of starting runs; all of a batch are one long list here, worked off in slices of bounded
memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minifold_pl.geometry.precision import full_precision
from minifold_pl.geometry.superpose import superpose
from minifold_pl.metrics.gdt import GDT_HA_CUTOFFS, GDT_TS_CUTOFFS
from minifold_pl.metrics.pose import normaliser
from minifold_pl.metrics.tm import tm_d0

_SMALLEST_RUN = 4
_HALVINGS = 4
"""Runs of L, L/2 … L/16 and 4 residues, none shorter than 4."""
_ITERATIONS = 20
_SEARCH_D0 = (4.5, 8.0)
"""Å; d0 is kept within these while looking for neighbours, so that short chains find some."""
_FEWEST_NEIGHBOURS = 3
"""A pose needs three points: the cutoff for neighbours grows in steps until there are as many."""
_CUTOFF_STEP = 0.5
"""Å."""
_GDT_CUTOFFS = tuple(sorted({*GDT_TS_CUTOFFS, *GDT_HA_CUTOFFS}))
_RESIDUES_AT_ONCE = 400_000
"""Runs times residues in one slice: about 50 MB."""


class SearchedScores(NamedTuple):
    """The best value of each score over all poses visited; not all from the same pose."""

    tm: Float[Tensor, " b"]
    gdt_ts: Float[Tensor, " b"]
    gdt_ha: Float[Tensor, " b"]


def tm_score(
    pred: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    length: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, " b"]:
    """TM-score as the TM-score program gives it, 0 to 1; coordinates in Å.

    Normalised by ``length``, d0 included (the residues in ``mask`` where not given). Agrees with TM-align's
    value for the same fixed alignment to 1e-4. Two unrelated chains score 0.16 to 0.19, 0.5 means the same
    fold (Xu & Zhang 2010, Bioinformatics 26:889). NaN for a chain without residues, 0 for a prediction that
    is not finite.
    """
    return searched_scores(pred, true, mask, length).tm


@full_precision
def searched_scores(
    pred: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    length: Int[Tensor, " b"] | None = None,
) -> SearchedScores:
    """TM-score, GDT-TS and GDT-HA from one search.

    GDT is maximised per cutoff, as in the TM-score program; LGA searches longer and may find a little
    more. A search gives a lower bound of the true maximum, so a rotated input may differ in the third
    decimal.
    """
    whole = normaliser(mask, length)
    pred, true, valid = _valid_first(pred, true, mask)
    lengths = valid.sum(-1)
    sound = pred.isfinite().all(-1).all(-1)
    pred = pred.where(sound[:, None, None], pred.new_zeros(()))
    best = pred.new_zeros(len(pred), 1 + len(_GDT_CUTOFFS))
    chains, starts, runs = _seeds(lengths.where(sound, torch.zeros_like(lengths)))
    rows = max(1, _RESIDUES_AT_ONCE // max(1, pred.shape[1]))
    for chain, start, run in zip(chains.split(rows), starts.split(rows), runs.split(rows), strict=True):
        found = _refine(pred[chain], true[chain], valid[chain], whole[chain], start, run)
        best.scatter_reduce_(0, chain[:, None].expand_as(found), found, "amax")
    best[lengths == 0] = torch.nan
    share = dict(zip(_GDT_CUTOFFS, best[:, 1:].unbind(-1), strict=True))
    return SearchedScores(
        best[:, 0],
        torch.stack([share[cutoff] for cutoff in GDT_TS_CUTOFFS]).mean(0),
        torch.stack([share[cutoff] for cutoff in GDT_HA_CUTOFFS]).mean(0),
    )


def _valid_first(
    pred: Float[Tensor, "b l 3"], true: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]
) -> tuple[Float[Tensor, "b m 3"], Float[Tensor, "b m 3"], Bool[Tensor, "b m"]]:
    """The valid residues moved to the front in their order, so that runs pass over gaps; the rest is 0.

    Both are centred, so that rounding does not depend on where in space the chain lies.
    """
    order = mask.byte().sort(dim=-1, descending=True, stable=True).indices
    order = order[:, : max(1, int(mask.sum(-1).max())) if len(mask) else 1]
    valid = mask.gather(1, order)
    index = order[..., None].expand(-1, -1, 3)

    def pack(x: Tensor) -> Tensor:
        x = x.gather(1, index).where(valid[..., None], x.new_zeros(()))
        mean = x.sum(1, keepdim=True) / valid.sum(1).clamp(min=1)[:, None, None]
        return (x - mean).where(valid[..., None], x.new_zeros(()))

    return pack(pred), pack(true), valid


def _seeds(lengths: Int[Tensor, " b"]) -> tuple[Int[Tensor, " r"], Int[Tensor, " r"], Int[Tensor, " r"]]:
    """Chain, first residue and length of every starting run of every chain."""
    table: list[tuple[int, int, int]] = []
    for chain, length in enumerate(lengths.tolist()):
        shortest = min(_SMALLEST_RUN, length)
        runs = {shortest, *(max(length >> k, shortest) for k in range(_HALVINGS + 1))} if length else set()
        table += [(chain, start, run) for run in sorted(runs) for start in range(length - run + 1)]
    seeds = torch.tensor(table, dtype=torch.long).view(-1, 3).to(lengths.device)
    return seeds[:, 0], seeds[:, 1], seeds[:, 2]


def _refine(
    pred: Float[Tensor, "r l 3"],
    true: Float[Tensor, "r l 3"],
    valid: Bool[Tensor, "r l"],
    whole: Int[Tensor, " r"],
    start: Int[Tensor, " r"],
    run: Int[Tensor, " r"],
) -> Float[Tensor, "r s"]:
    """The best scores each run leads to: TM, then the share within each GDT cutoff."""
    place = torch.arange(pred.shape[1], device=pred.device)
    selected = (place >= start[:, None]) & (place < (start + run)[:, None])
    d0 = tm_d0(whole).to(pred.dtype)
    near = d0.clamp(*_SEARCH_D0)
    best = pred.new_zeros(len(pred), 1 + len(_GDT_CUTOFFS))
    active = torch.arange(len(pred), device=pred.device)
    for iteration in range(_ITERATIONS + 1):
        distance = (superpose(pred, true, selected) - true).square().sum(-1).sqrt()
        best[active] = torch.maximum(best[active], _scores(distance, valid, d0, whole))
        # The program is strict after the first pose, which rests on a run alone, and lenient from then on.
        chosen = _neighbours(distance, valid, near + (1.0 if iteration else -1.0))
        # Choosing the run again with the strict cutoff settles nothing: the lenient one may add to it.
        moving = (chosen != selected).any(-1) | (iteration == 0)
        if not moving.any():
            break
        active, pred, true, valid = active[moving], pred[moving], true[moving], valid[moving]
        selected, d0, near, whole = chosen[moving], d0[moving], near[moving], whole[moving]
    return best


def _scores(
    distance: Float[Tensor, "r l"],
    valid: Bool[Tensor, "r l"],
    d0: Float[Tensor, " r"],
    whole: Int[Tensor, " r"],
) -> Float[Tensor, "r s"]:
    terms = [1 / (1 + (distance / d0[:, None]).square())]
    terms += [(distance <= cutoff).to(distance.dtype) for cutoff in _GDT_CUTOFFS]
    return torch.stack([(term * valid).sum(-1) / whole for term in terms], dim=-1)


def _neighbours(
    distance: Float[Tensor, "r l"], valid: Bool[Tensor, "r l"], cutoff: Float[Tensor, " r"]
) -> Bool[Tensor, "r l"]:
    """Residues nearer than ``cutoff`` to their true place; it grows by steps until there are three."""
    distance = distance.masked_fill(~valid, torch.inf)
    fewest = min(_FEWEST_NEIGHBOURS, distance.shape[1])
    third = distance.topk(fewest, dim=-1, largest=False).values[:, -1]
    steps = ((third - cutoff) / _CUTOFF_STEP).floor() + 1
    return (distance < (cutoff + _CUTOFF_STEP * steps.clamp(min=0))[:, None]) & valid
