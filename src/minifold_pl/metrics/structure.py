"""The structure scores of a run, as one collection of torchmetrics."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from minifold_pl.metrics.ca_chain import ca_bond_share, clash_count, rg_ratio
from minifold_pl.metrics.chain_mean import ChainMean, ChainScore
from minifold_pl.metrics.gdt import gdt_ha_kabsch, gdt_ts_kabsch
from minifold_pl.metrics.lddt import lddt_ca
from minifold_pl.metrics.rmsd import rmsd
from minifold_pl.metrics.secondary_structure import (
    helix_content,
    secondary_structure_agreement,
    strand_content,
)
from minifold_pl.metrics.tm import tm_kabsch
from minifold_pl.metrics.tm_search import searched_scores

STRUCTURE_SCORES: dict[str, ChainScore] = {
    "tm_kabsch": tm_kabsch,
    "rmsd": rmsd,
    "gdt_ts_kabsch": gdt_ts_kabsch,
    "gdt_ha_kabsch": gdt_ha_kabsch,
    "lddt_ca": lddt_ca,
    "rg_ratio": rg_ratio,
}
"""Scores of (pred, true, mask), all in Å."""
_PAIRS_AT_ONCE = 1 << 22
"""Distances in memory at a time: 32 MB in float64."""


def structure_scores(
    pred: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    bonded: Bool[Tensor, "b l"],
    *,
    searched: bool = False,
) -> dict[str, Float[Tensor, " b"]]:
    """Every score of each chain.

    ``ca_bond_share``, ``clashes``, ``helix_content`` and ``strand_content`` look at the prediction alone.
    ``ss_agreement`` is the share of residues whose helix, strand or coil is right. ``searched`` adds ``tm_score``,
    ``gdt_ts`` and ``gdt_ha``, maximised over superpositions: 2 to 4 ms for a chain of 125 residues on one CPU core.
    """
    best = searched_scores(pred, true, mask) if searched else None
    rows = max(1, _PAIRS_AT_ONCE // max(1, pred.shape[1]) ** 2)
    parts = [
        _plain_scores(*part)
        for part in zip(*(x.split(rows) for x in (pred, true, mask, bonded)), strict=True)
    ]
    scores = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return scores | (
        {} if best is None else {"tm_score": best.tm, "gdt_ts": best.gdt_ts, "gdt_ha": best.gdt_ha}
    )


def _plain_scores(pred: Tensor, true: Tensor, mask: Tensor, bonded: Tensor) -> dict[str, Tensor]:
    return {name: score(pred, true, mask) for name, score in STRUCTURE_SCORES.items()} | {
        "ss_agreement": secondary_structure_agreement(pred, true, mask, bonded),
        "helix_content": helix_content(pred, mask, bonded),
        "strand_content": strand_content(pred, mask, bonded),
        "ca_bond_share": ca_bond_share(pred, mask, bonded),
        "clashes": clash_count(pred, mask),
    }


def structure_metrics(prefix: str | None = None) -> MetricCollection:
    """Mean over chains of each of :data:`STRUCTURE_SCORES`; ``update(pred, true, mask)``.

    Compute groups are off: they would merge scores that happen to agree on the first batch.
    """
    means: dict[str, Metric | MetricCollection] = {
        name: ChainMean(score) for name, score in STRUCTURE_SCORES.items()
    }
    return MetricCollection(means, prefix=prefix, compute_groups=False)
