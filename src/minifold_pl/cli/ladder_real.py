"""Rung 6 of ``minifold-pl diagnose ladder``: real chains, from the training split to validation."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import torch

from minifold_pl.cli.evaluate_structures import MODEL
from minifold_pl.cli.ladder_climb import (
    NO_DATA,
    TRUNK_SHARE,
    Climb,
    ddim_of,
    evaluated,
    interval,
    sampled,
    told,
)
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.data.store import ChainStore
from minifold_pl.diagnostics.chains import batches
from minifold_pl.diagnostics.sequence import sequence_gains, sequence_scores
from minifold_pl.diagnostics.short_training import Part
from minifold_pl.diagnostics.steps import LOSS
from minifold_pl.losses.trunk import DISTOGRAM
from minifold_pl.metrics.contacts import contact_precision
from minifold_pl.modules.diffusion import DiffusionModule

_LATE: Final = (725, 850, 975)
_ON_THE_WAY: Final = (0.5, 0.75)
"""Shares of the training after which samples are scored, for the trend."""


def real_chains(climb: Climb, seconds: float) -> dict[str, Any]:
    """Train on real chains up to 128 residues, one per cluster an epoch; validation chains, and does it read them?"""
    if climb.data is None:
        raise ValueError(NO_DATA)
    store = ChainStore.open(climb.data)
    module = climb.model()
    longest = min(128, module.max_residues or 128)
    train, validation = (
        ChainDataset(
            store, split, max_length=longest, long_chains="drop", needs=module.needs, seed=climb.seed,
            one_per_cluster=one_per_cluster, random_rotation=one_per_cluster,
        )
        for split, one_per_cluster in (("train", True), ("validation", False))
    )  # fmt: skip
    trend: dict[str, dict[str, Any]] = {}

    def score(share: float) -> None:
        scores = sampled(module, validation, climb.seed, ddim_of(module)) | _precision(module, validation)
        trend[f"{MODEL} after {share * seconds * climb.scale / 60:g} min"] = scores

    parts = [Part(share, partial(score, share)) for share in _ON_THE_WAY]
    end = climb.train(module, train, seconds, trunk_share=TRUNK_SHARE, parts=parts)
    final = evaluated(module, validation, train, climb.seed)
    found = sequence_scores(module, validation, _LATE, seed=climb.seed, batch_size=8)
    rows = {
        **trend, **final, MODEL: {**final[MODEL], **_precision(module, validation), "steps": end.steps},
        **{f"{row} sequence": {"late_loss": interval(scores[LOSS].mean(0))} for row, scores in found.rows.items()},
    }  # fmt: skip
    return {
        "config": climb.config,
        "training": told(end, train),
        "rows": rows,
        "validation_chains": len(validation),
        "sequence_gain": {row: gain._asdict() for row, gain in sequence_gains(found).items()},
    }


@torch.no_grad()
def _precision(module: DiffusionModule, chains: ChainDataset) -> dict[str, Any]:
    """Share of true contacts among the likeliest L/5 and L pairs of long range: the trunk's, or the encoder's."""
    trunk = module.objective.trunk
    found: dict[str, list[float]] = {}
    for batch in batches(chains, 8, module.device):
        features = module.encode(batch.tokens)
        if module.trunk_heads is not None and trunk is not None and DISTOGRAM in trunk.weights:
            said = module.trunk_heads(features.single, module.condition(batch, features).pair).distogram
            probability = trunk.contact_probability(said)
        else:
            probability = module.encoder.contact_logits(features).sigmoid()
        for name, top in (("precision_long_L5", 5), ("precision_long_L", 1)):
            share = contact_precision(probability, batch.ca, batch.ca_mask, top=top)
            found.setdefault(name, []).extend(share.tolist())
    return {name: interval(values) for name, values in found.items()}
