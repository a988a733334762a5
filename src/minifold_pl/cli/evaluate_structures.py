"""Scores of sampled structures, chain by chain, beside what trivial predictions score."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from minifold_pl.callbacks.ddim_scores import x0_tm
from minifold_pl.cli.evaluate_backbones import BackboneScores
from minifold_pl.cli.evaluate_confidence import CONFIDENCE, ConfidenceOfSamples
from minifold_pl.cli.evaluate_figures import DihedralsOfSamples
from minifold_pl.cli.evaluate_files import StructureFiles
from minifold_pl.cli.generation import draw, like_lengths, out_of_memory_told
from minifold_pl.constants import CA_ATOM
from minifold_pl.data.collate import collate
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.diffusion.draws import keyed_generator
from minifold_pl.export.agreement import sample_agreement
from minifold_pl.metrics import baselines, comparison
from minifold_pl.metrics.comparison import SEES_ANSWER, baseline_guesses, score_guesses
from minifold_pl.metrics.diversity import diversity
from minifold_pl.metrics.tm import tm_kabsch
from minifold_pl.metrics.wiener import wiener_smoother
from minifold_pl.modules.one_step import dashboard_times, one_step
from minifold_pl.modules.sampling import SamplerConfig
from minifold_pl.modules.structures import SampledChain
from minifold_pl.types import ProteinBatch

MODEL = "model"
BEST = "model, best of N by agreement"
MOST_CONFIDENT = "model, best of N by confidence"
OTHER = "another random chain"
BASELINES = (OTHER, comparison.CENTROID, comparison.HELIX, comparison.MIRROR, comparison.TRUTH)
WIENER = "Wiener smoother"
"""The row of one-step estimates that know no sequence; it samples nothing."""

Scores = dict[str, dict[str, list[float]]]
"""Row → score → one number a chain, in the order of the chains."""

__all__ = [
    "BASELINES", "BEST", "MODEL", "MOST_CONFIDENT", "OTHER", "SEES_ANSWER", "WIENER", "Scores", "score_structures",
]  # fmt: skip


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
    times: Sequence[int] | None = None,
    backbones: BackboneScores | None = None,
    dihedrals: DihedralsOfSamples | None = None,
    files: StructureFiles | None = None,
    confidence: ConfidenceOfSamples | None = None,
) -> tuple[list[dict[str, Any]], Scores]:
    """Sample every chain of ``dataset`` and score the samples and the baselines.

    Args:
        module: A diffusion module.
        dataset: Whole chains.
        pool: Where random chains come from; those of the target's own cluster are left out.
        sampler: Settings of the sampler.
        seed: Seed of the samples' noise, of the one-step noise and of the random chains.
        num_samples: Structures a chain. The model's scores are their means; with 2 or more there is also a
            row of the one that agrees best with the others, ``agreement`` and ``diversity`` (1 − mean
            pairwise TM, maximised over superpositions), and one of that which the model is most confident of, where it
            has a confidence.
        batch_size: Chains at a time.
        advance: Called with the number of structures finished.
        times: Timesteps of the one-step estimates; the dashboard's where None.
        backbones: For a module that predicts N, C and O: its scores stand beside the others, and it keeps φ and ψ.
        dihedrals: Keeps those of truth, samples and one-step guesses.
        files: Writes the samples of some chains.
        confidence: For a module with a confidence head: compares it with what came out.

    Returns:
        Name, length and observed residues of each chain, and the scores. The model and the Wiener smoother, which knows
        no sequence, also have ``x0_tm_t025`` and so on: TM (least-RMSD pose) of x̂0 in one step from that timestep,
        both from the same noise.
    """
    order = sorted(range(len(dataset)), key=lambda i: (int(dataset.lengths[i]), i))
    traces_of_all = [torch.from_numpy(pool[i].coords[:, CA_ATOM]) for i in range(len(pool))]
    chains: list[dict[str, Any]] = []
    scores: Scores = defaultdict(lambda: defaultdict(list))
    for start, end in pairwise(like_lengths([int(dataset.lengths[i]) for i in order], batch_size)):
        indices = order[start:end]
        batch = collate([dataset[i] for i in indices])
        drawn = []
        for k in range(num_samples):
            keys = [f"{name}/{k}" for name in batch.names]
            drawn.append(draw(module, batch, sampler, seed=seed, keys=keys))
            advance(len(batch))
        samples = _padded([[chain.ca for chain in row] for row in drawn], batch.ca)
        others, known = _other_chains(batch, pool, traces_of_all, dataset.indices[indices].tolist(), seed)
        more: dict[str, Tensor] = {}
        atoms = None
        if backbones is not None:
            atoms = _padded([[chain.coords for chain in row] for row in drawn], batch.coords)
            moved = torch.tensor([[chain.ca_moved for chain in row] for row in drawn])
            more = backbones.of_model(batch, atoms, moved)
        if confidence is not None:
            says = _padded([[_confidence(chain) for chain in row] for row in drawn], batch.ca[..., 0])
            clusters = [dataset.store.clusters[i] for i in dataset.indices[indices].tolist()]
            more |= confidence.add(batch, samples, says, clusters)
        found, by_sample = _sampled_scores(batch, samples, others, known, more)
        if files is not None:
            files.add(batch.names, drawn, by_sample)
        if dihedrals is not None:
            dihedrals.add_samples(batch, samples, atoms)
        if backbones is not None:
            found[comparison.TRUTH] |= backbones.of_truth(batch)
        for row, one_step_scores in _one_step_scores(module, batch, times, seed, dihedrals).items():
            found[row] = found.get(row, {}) | one_step_scores
        for row, by_score in found.items():
            for name, values in by_score.items():
                scores[row][name].extend(values.tolist())
        for name, length, mask in zip(batch.names, batch.lengths.tolist(), batch.ca_mask, strict=True):
            chains.append({"name": name, "length": length, "observed": int(mask.sum())})
    return chains, {row: dict(by_score) for row, by_score in scores.items()}


def _sampled_scores(
    batch: ProteinBatch,
    samples: Float[Tensor, "s b l 3"],
    others: Float[Tensor, "1 b l 3"],
    known: Tensor,
    more: Mapping[str, Float[Tensor, "s b"]],
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Float[Tensor, "s b"]]]:
    """Row → score → (b), and score → (s, b) of every sample; ``more`` scores of these stand in the model's row."""
    guesses = {MODEL: samples, OTHER: others, **baseline_guesses(batch.ca, batch.ca_mask)}
    scored = score_guesses(guesses, batch.ca, batch.ca_mask, batch.bonded)
    scored[MODEL] |= more
    rows = {row: {name: values.mean(0) for name, values in scored[row].items()} for row in scored}
    rows[OTHER] = {name: values.where(known, torch.nan) for name, values in rows[OTHER].items()}
    if len(samples) == 1:
        return rows, scored[MODEL]
    agreement = torch.stack(
        [sample_agreement(samples[:, k, :length]).mean(-1) for k, length in enumerate(batch.lengths.tolist())]
    ).double()
    rows[MODEL]["agreement"] = agreement.mean(1)
    rows[MODEL]["diversity"] = diversity(samples.transpose(0, 1), batch.residue_mask).double()
    by_sample = {**scored[MODEL], "agreement": agreement.T}
    chosen = {BEST: agreement.argmax(1)}
    if CONFIDENCE in by_sample:
        chosen[MOST_CONFIDENT] = by_sample[CONFIDENCE].argmax(0)
    chain = torch.arange(len(batch))
    best = {row: {name: x[k, chain] for name, x in by_sample.items()} for row, k in chosen.items()}
    model = rows.pop(MODEL)
    return {MODEL: model, **best, **rows}, by_sample


def _padded(drawn: Sequence[Sequence[Tensor]], like: Tensor) -> Tensor:
    """(s, b) structures in one tensor, each padded to the length of the batch."""
    padded = like.new_zeros(len(drawn), *like.shape)
    for rows, chains in zip(padded, drawn, strict=True):
        for row, chain in zip(rows, chains, strict=True):
            row[: len(chain)] = chain
    return padded


def _confidence(chain: SampledChain) -> Tensor:
    assert chain.confidence is not None  # of a module with a confidence head
    return chain.confidence


def _one_step_scores(
    module: Any,
    batch: ProteinBatch,
    times: Sequence[int] | None,
    seed: int,
    dihedrals: DihedralsOfSamples | None,
) -> dict[str, dict[str, Tensor]]:
    """TM of x̂0 from noise of several levels: the model's, and that of the best guess without a sequence."""
    times = times or dashboard_times(module.noise_schedule.timesteps)
    device = next(module.parameters()).device
    with torch.inference_mode(), out_of_memory_told():
        # As many noised copies at a time as chains are sampled.
        step = one_step(module, batch.to(device), times, seed=seed, chains_at_once=len(batch))
    if dihedrals is not None:
        dihedrals.add_one_step(batch, step)
    unit = None if step.unit is None else step.unit.cpu()
    found: dict[str, dict[str, Tensor]] = {MODEL: {}, WIENER: {}}
    for t, x0, noised in zip(times, step.x0.cpu(), step.noised.cpu(), strict=True):
        alpha_bar = module.noise_schedule.alpha_bar(
            torch.full((len(batch),), t, device=device), torch.float64
        )
        smooth = wiener_smoother(noised, alpha_bar.cpu(), batch.residue_mask, unit)
        for row, guess in ((MODEL, x0), (WIENER, smooth)):
            found[row][x0_tm(t)] = tm_kabsch(guess.float(), batch.ca, batch.ca_mask).double()
    return found


def _other_chains(
    batch: ProteinBatch, pool: ChainDataset, traces: list[Tensor], targets: Sequence[int], seed: int
) -> tuple[Float[Tensor, "1 b l 3"], Tensor]:
    """A window of another random chain for each one of the batch, and which of them have any to draw from.

    ``targets`` are places in the store; chains of a target's own cluster are left out.
    """
    clusters = pool.store.clusters
    drawn, known = torch.zeros_like(batch.ca), torch.zeros(len(batch), dtype=torch.bool)
    for k, (name, target) in enumerate(zip(batch.names, targets, strict=True)):
        cluster = clusters[target]
        candidates = [
            trace
            for trace, chain in zip(traces, pool.indices.tolist(), strict=True)
            if chain != target and (cluster is None or clusters[chain] != cluster)
        ]
        if candidates:
            known[k], row = True, slice(k, k + 1)
            generator = keyed_generator(seed, "random chain", name)
            drawn[row] = baselines.random_chain(batch.ca[row], batch.ca_mask[row], candidates, [generator])
    return drawn[None], known
