"""Rung 6 of ``minifold-pl diagnose ladder``: real chains, from the training split to validation."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import torch

from minifold_pl.cli.evaluate_structures import MODEL
from minifold_pl.cli.ladder_climb import (
    NO_DATA,
    STEPS,
    TRUNK_SHARE,
    Climb,
    Goal,
    Rung,
    ddim_of,
    evaluated,
    interval,
    parameters,
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
from minifold_pl.metrics.comparison import SEES_ANSWER
from minifold_pl.metrics.contacts import contact_precision
from minifold_pl.modules.diffusion import DiffusionModule

_LATE: Final = (725, 850, 975)
_ON_THE_WAY: Final = (0.5, 0.75)
"""Shares of the training after which samples are scored, for the trend."""


def real_chains(climb: Climb, seconds: float, beside: Climb | None = None) -> Rung:
    """Figures of a config, and of another one beside it; asked for is that the first reads its sequences."""
    rung = Rung(number=6, title="real chains: train split, validated")
    for number, one in enumerate(filter(None, (climb, beside))):
        name = one.config if one.config not in rung.models else f"{one.config}, changed"
        model = rung.models[name] = _model(one, seconds)
        rung.rows |= {f"{name}: {row}": scores for row, scores in model["rows"].items()}
        rung.note += (
            f"{'; ' if number else ''}{name}: {model['parameters']:,} parameters, encoder {model['encoder']}, "
            f"{model['training']['distinct_chains']:,} training chains an epoch, one of each cluster, "
            f"{model['validation_chains']} to validate, of {model['validation_clusters']} clusters, long range by "
            f"{model['contacts']}"
        )
        if number == 0:
            rung.rows |= {f"{name}: {row} sequence": loss for row, loss in model["sequence_loss"].items()}
            rung.goals = [
                Goal(
                    name=f"loss at t ≥ 700: {row} sequence worse than the real one, lower end", value=gain["low"],
                    target=0.0,
                )
                for row, gain in model["sequence_gain"].items()
            ]  # fmt: skip
    rung.note += (
        f"; {seconds * climb.scale / 60:g} minutes of training each, by the same recipe; DDIM-{STEPS}"
    )
    return rung


def _model(climb: Climb, seconds: float) -> dict[str, Any]:
    """Train on real chains up to 128 residues, one per cluster an epoch; validation chains, and does it read them?"""
    if climb.data is None:
        raise ValueError(NO_DATA)
    store = ChainStore.open(climb.data)
    module = climb.model()
    module.use_store(store.path)
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
        scores = sampled(module, validation, climb.seed, ddim_of(module)) | _precision(module, validation)[0]
        trend[f"{MODEL} after {share * seconds * climb.scale / 60:g} min"] = scores

    parts = [Part(share, partial(score, share)) for share in _ON_THE_WAY]
    end = climb.train(module, train, seconds, trunk_share=TRUNK_SHARE, parts=parts)
    final = evaluated(module, validation, train, climb.seed)
    precision, contacts = _precision(module, validation)
    gains = {row: final.gain(row)._asdict() for row in final.rows if row != MODEL and row not in SEES_ANSWER}
    found = sequence_scores(module, validation, _LATE, seed=climb.seed, batch_size=8)
    return {
        "config": climb.config,
        "parameters": parameters(module),
        "encoder": "from a checkpoint"
        if module.encoder_origin != "random"
        else ("frozen at random weights" if module.freeze_encoder else "trained along"),
        "training": told(end, train),
        "rows": {**trend, **final.rows, MODEL: {**final.rows[MODEL], **precision, "steps": end.steps}},
        "gain_by_cluster": gains,
        "validation_chains": len(validation),
        "validation_clusters": len(set(final.clusters)),
        "contacts": contacts,
        "sequence_loss": {
            row: {"late_loss": interval(scores[LOSS].mean(0))} for row, scores in found.rows.items()
        },
        "sequence_gain": {row: gain._asdict() for row, gain in sequence_gains(found).items()},
    }


@torch.no_grad()
def _precision(module: DiffusionModule, chains: ChainDataset) -> tuple[dict[str, Any], str]:
    """Share of true contacts among the likeliest L/5 and L pairs of long range, and whose they are."""
    trunk = module.objective.trunk
    by_trunk = module.trunk_heads is not None and trunk is not None and DISTOGRAM in trunk.weights
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
    scores = {name: interval(values) for name, values in found.items()}
    return scores, "the trunk's distogram" if by_trunk else "the encoder's contact head"
