"""The structure scores of a run, as one collection of torchmetrics."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from minifold_pl.metrics.ca_chain import ca_bond_share, clash_count, rg_ratio
from minifold_pl.metrics.chain_mean import ChainMean, ChainScore
from minifold_pl.metrics.gdt import gdt_ha_kabsch, gdt_ts_kabsch
from minifold_pl.metrics.lddt import lddt_ca
from minifold_pl.metrics.rmsd import rmsd
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


def structure_scores(
    pred: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    bonded: Bool[Tensor, "b l"],
    *,
    searched: bool = False,
) -> dict[str, Float[Tensor, " b"]]:
    """Every score of each chain; ``ca_bond_share`` and ``clashes`` look at the prediction alone.

    ``searched`` adds ``tm_score``, ``gdt_ts`` and ``gdt_ha``, maximised over superpositions: about 50 ms
    for a chain of 125 residues on one CPU core.
    """
    scores = {name: score(pred, true, mask) for name, score in STRUCTURE_SCORES.items()}
    if searched:
        best = searched_scores(pred, true, mask)
        scores |= {"tm_score": best.tm, "gdt_ts": best.gdt_ts, "gdt_ha": best.gdt_ha}
    return scores | {"ca_bond_share": ca_bond_share(pred, mask, bonded), "clashes": clash_count(pred, mask)}


def structure_metrics(prefix: str | None = None) -> MetricCollection:
    """Mean over chains of each of :data:`STRUCTURE_SCORES`; ``update(pred, true, mask)``.

    Compute groups are off: they would merge scores that happen to agree on the first batch.
    """
    means: dict[str, Metric | MetricCollection] = {
        name: ChainMean(score) for name, score in STRUCTURE_SCORES.items()
    }
    return MetricCollection(means, prefix=prefix, compute_groups=False)
