"""Scores of sampled structures, chain by chain, beside what trivial predictions score."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.cli.generation import draw
from minifold_pl.constants import CA_ATOM
from minifold_pl.data.collate import collate
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.diffusion.draws import keyed_generator
from minifold_pl.export.agreement import sample_agreement
from minifold_pl.metrics import baselines
from minifold_pl.metrics.structure import structure_scores
from minifold_pl.metrics.tm import tm_kabsch
from minifold_pl.modules.sampling import SamplerConfig
from minifold_pl.types import ProteinBatch

MODEL = "model"
BEST = "model, best of N by agreement"
BASELINES = ("another random chain", "centroid", "ideal helix", "mirrored truth", "truth")
SEES_ANSWER = ("mirrored truth", "truth")
"""Rows that are made from the answer itself: no model can be compared with them, they show the scale."""

Scores = dict[str, dict[str, list[float]]]
"""Row → score → one number a chain, in the order of the chains."""


def score_structures(
    module: Any,
    dataset: ChainDataset,
    pool: ChainDataset,
    sampler: SamplerConfig,
    *,
    seed: int,
    num_samples: int,
    batch_size: int,
    advance: Callable[[int], None],
) -> tuple[list[dict[str, Any]], Scores]:
    """Sample every chain of ``dataset`` and score the samples and the baselines.

    Args:
        module: A diffusion module.
        dataset: Whole chains.
        pool: Where random chains come from; those of the target's own cluster are left out.
        sampler: Settings of the sampler.
        seed: Seed of the samples' noise and of the random chains.
        num_samples: Structures a chain. The model's scores are their means; with 2 or more there is also a
            row of the one that agrees best with the others, ``agreement`` and ``diversity`` (1 − mean
            pairwise TM).
        batch_size: Chains at a time.
        advance: Called with the number of structures finished.

    Returns:
        Name, length and observed residues of each chain, and the scores.
    """
    order = sorted(range(len(dataset)), key=lambda i: (int(dataset.lengths[i]), i))
    traces_of_all = [torch.from_numpy(pool[i].coords[:, CA_ATOM]) for i in range(len(pool))]
    chains: list[dict[str, Any]] = []
    scores: Scores = defaultdict(lambda: defaultdict(list))
    for start in range(0, len(order), batch_size):
        batch = collate([dataset[i] for i in order[start : start + batch_size]])
        samples: list[list[Tensor]] = [[] for _ in batch.names]
        for k in range(num_samples):
            keys = [f"{name}/{k}" for name in batch.names]
            for traces, ca in zip(samples, draw(module, batch, sampler, seed=seed, keys=keys), strict=True):
                traces.append(ca)
            advance(len(batch))
        for index, (one, drawn) in enumerate(zip(_one_by_one(batch), samples, strict=True)):
            length, mask = int(one.lengths[0]), one.ca_mask
            chains.append({"name": one.names[0], "length": length, "observed": int(mask.sum())})
            target = int(dataset.indices[order[start + index]])
            others = _other_chains(pool, traces_of_all, target)
            for row, scored in _chain_scores(one, torch.stack(drawn), others, seed).items():
                for score, value in scored.items():
                    scores[row][score].append(value)
    return chains, {row: dict(by_score) for row, by_score in scores.items()}


def _chain_scores(
    chain: ProteinBatch, samples: Float[Tensor, "s l 3"], others: list[Tensor], seed: int
) -> dict[str, dict[str, float]]:
    true, mask = chain.ca, chain.ca_mask
    predictions = {
        "centroid": baselines.centroid(true, mask),
        "ideal helix": baselines.ideal_helix(true, mask),
        "mirrored truth": baselines.mirrored_truth(true, mask),
        "truth": baselines.truth(true, mask),
    }
    if others:
        generator = keyed_generator(seed, "random chain", chain.names[0])
        predictions["another random chain"] = baselines.random_chain(true, mask, others, [generator])
    # One call for all rows: the search for the best superposition is fastest on many candidates at once.
    everything = torch.cat([samples, *predictions.values()])
    scored = _scores(everything, true, mask, chain.bonded)

    count = len(samples)
    rows = {MODEL: {score: float(values[:count].mean()) for score, values in scored.items()}}
    if count > 1:
        agreement = sample_agreement(samples).mean(-1)
        best = int(agreement.argmax())
        rows[MODEL] |= {"agreement": float(agreement.mean()), "diversity": _diversity(samples, mask)}
        rows[BEST] = {score: float(values[best]) for score, values in scored.items()}
        rows[BEST]["agreement"] = float(agreement[best])
    place = {row: count + i for i, row in enumerate(predictions)}
    for row in BASELINES:
        rows[row] = {
            score: float(values[place[row]]) if row in place else float("nan")
            for score, values in scored.items()
        }
    return rows


def _scores(
    pred: Float[Tensor, "s l 3"], true: Float[Tensor, "1 l 3"], mask: Bool[Tensor, "1 l"], bonded: Tensor
) -> dict[str, Tensor]:
    count = len(pred)
    scores = structure_scores(
        pred, true.expand(count, -1, -1), mask.expand(count, -1), bonded.expand(count, -1), searched=True
    )
    # Clashes are whole numbers, and their mean is not.
    return {name: values.double() for name, values in scores.items()}


def _diversity(samples: Float[Tensor, "s l 3"], mask: Bool[Tensor, "1 l"]) -> float:
    """1 − mean TM (least-RMSD pose) over all pairs of samples."""
    first, second = torch.triu_indices(len(samples), len(samples), 1)
    everywhere = torch.ones_like(mask).expand(len(first), -1)
    return 1 - float(tm_kabsch(samples[first], samples[second], everywhere).mean())


def _one_by_one(batch: ProteinBatch) -> Iterator[ProteinBatch]:
    """The chains of a batch as batches of one, without padding."""
    for i, length in enumerate(batch.lengths.tolist()):
        yield ProteinBatch(
            names=(batch.names[i],),
            tokens=batch.tokens[i : i + 1, : length + 2],
            residue_mask=batch.residue_mask[i : i + 1, :length],
            coords=batch.coords[i : i + 1, :length],
            atom_mask=batch.atom_mask[i : i + 1, :length],
            bonded=batch.bonded[i : i + 1, :length],
            residue_index=batch.residue_index[i : i + 1, :length],
            cath_class=batch.cath_class[i : i + 1],
            cath_architecture=batch.cath_architecture[i : i + 1],
        )


def _other_chains(pool: ChainDataset, traces: list[Tensor], target: int) -> list[Tensor]:
    """The Cα traces that may stand for "another random chain" than ``target``, a place in the store."""
    clusters = pool.store.clusters
    cluster = clusters[target]
    return [
        trace
        for trace, chain in zip(traces, pool.indices.tolist(), strict=True)
        if chain != target and (cluster is None or clusters[chain] != cluster)
    ]
