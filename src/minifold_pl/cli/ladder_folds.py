"""Rung 5 of ``minifold-pl diagnose ladder``, synthetic folds, seen and unseen, and its models for rung 7."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Final

from minifold_pl.cli.evaluate_structures import MODEL
from minifold_pl.cli.ladder_climb import (
    TRUNK_SHARE,
    Climb,
    Evaluation,
    Goal,
    Rung,
    ddim_of,
    evaluated,
    parameters,
    sampled,
    told,
)
from minifold_pl.data.datamodule import write_synthetic
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.data.store import ChainStore
from minifold_pl.data.synthetic import SyntheticConfig
from minifold_pl.metrics.comparison import SEES_ANSWER
from minifold_pl.modules.diffusion import DiffusionModule

SYNTHETIC: Final = SyntheticConfig(n=2664, folds=72, min_length=40, max_length=100)
"""2,016 chains of 63 folds to train on; 315 others of these folds, and 333 of 9 more, to test."""
SEEN: Final = "seen folds"
UNSEEN: Final = "unseen folds"
TRAINING: Final = "training."
"""Begins an ablation of the training, by a field of :class:`ShortTraining`."""


def synthetic_folds(climb: Climb) -> Rung:
    """Held-out chains of folds that it has seen, and of folds that it has not."""
    rung = Rung(number=5, title="generalises on the synthetic set in 40 minutes", minutes=40)
    store = synthetic_store(climb)
    module, rung.training = _trained_on_folds(climb, store, 1980)
    sampler = ddim_of(module)
    found = _folds(module, store, climb)
    rung.rows = _rows(found)
    rung.note = f"DDIM-{sampler.steps}, guidance {sampler.guidance:g}; {parameters(module):,} parameters"
    rung.models = {label: {"by_fold": evaluation.by_cluster()} for label, evaluation in found.items()}
    if sampler.step_scale != 1:
        chains = ChainDataset(store, "validation", max_length=128, long_chains="drop", needs=module.needs)
        plain = sampled(module, chains, climb.seed, replace(sampler, step_scale=1.0))
        rung.rows[f"{SEEN}: model, steps not scaled"] = plain
    seen, unseen = found[SEEN].rows[MODEL], found[UNSEEN]
    rung.goals += [
        Goal(name=f"{SEEN}: mean TM of DDIM samples", value=seen["tm_score"]["mean"], target=0.60),
        Goal(name=f"{SEEN}: mean lDDT-Cα", value=seen["lddt_ca"]["mean"], target=0.60),
        Goal(
            name=f"{SEEN}: x̂0-TM at t = 975 less that of DDIM (least-RMSD pose)",
            value=seen["x0_tm_t975"]["mean"] - seen["tm_kabsch"]["mean"], target=0.02, at_least=False,
        ),
    ]  # fmt: skip
    for baseline, scores in unseen.rows.items():
        if baseline == MODEL or baseline in SEES_ANSWER:
            continue
        rung.goals += [
            Goal(
                name=f"{UNSEEN}: lower end of the model's TM above the upper one of {baseline}",
                value=unseen.rows[MODEL]["tm_score"]["low"], target=scores["tm_score"]["high"],
            ),
            Goal(
                name=f"{UNSEEN}: TM gained over {baseline}, lower end where whole folds are drawn",
                value=unseen.gain(baseline).low, target=0.0,
            ),
        ]  # fmt: skip
    return rung


def ablation(climb: Climb, override: str, seconds: float) -> dict[str, Any]:
    """Rung 5 with one choice switched off (``""`` for none), trained for ``seconds``: its rows and its training."""
    store = synthetic_store(climb)
    name, _, value = override.partition("=")
    changes = {name.removeprefix(TRAINING): json.loads(value)} if name.startswith(TRAINING) else {}
    module, training = _trained_on_folds(climb, store, seconds, *overrides_of(override), **changes)
    return {
        "override": override, "training": training, "rows": _rows(_folds(module, store, climb)),
        "parameters": parameters(module),
    }  # fmt: skip


def overrides_of(override: str) -> list[str]:
    """The setting of the model that an ablation changes, for :meth:`Climb.model`; none where it is of the training."""
    return [f"--model.init_args.{override}"] if override and not override.startswith(TRAINING) else []


def synthetic_store(climb: Climb) -> ChainStore:
    """The set of rung 5, made where it is not there."""
    if not climb.synthetic.exists():
        climb.tell(f"  making {SYNTHETIC.n:,} synthetic chains in {climb.synthetic}")
        write_synthetic(climb.synthetic, SYNTHETIC)
    store = ChainStore.open(climb.synthetic)
    if store.provenance.get("synthetic") != asdict(SYNTHETIC):
        raise ValueError(f"{climb.synthetic} is not the synthetic set of rung 5; give another folder")
    return store


def _trained_on_folds(
    climb: Climb, store: ChainStore, seconds: float, *overrides: str, **changes: Any
) -> tuple[DiffusionModule, dict[str, Any]]:
    module = climb.model(*overrides)
    chains = ChainDataset(
        store, "train", max_length=128, long_chains="drop", needs=module.needs, random_rotation=True
    )
    end = climb.train(module, chains, seconds, **{"trunk_share": TRUNK_SHARE, **changes})
    return module, told(end, chains)


def _folds(module: DiffusionModule, store: ChainStore, climb: Climb) -> dict[str, Evaluation]:
    found = {}
    for label, split in ((SEEN, "validation"), (UNSEEN, "test")):
        chains, pool = (
            ChainDataset(store, s, max_length=128, long_chains="drop", needs=module.needs)
            for s in (split, "train")
        )
        found[label] = evaluated(module, chains, pool, climb.seed)
    return found


def _rows(found: Mapping[str, Evaluation]) -> dict[str, dict[str, Any]]:
    return {
        f"{label}: {row}": scores
        for label, evaluation in found.items()
        for row, scores in evaluation.rows.items()
    }
