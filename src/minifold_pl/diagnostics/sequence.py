"""Does a model read the sequence? Its losses with the real one, beside those with wrong ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from minifold_pl.data.dataset import ChainDataset
from minifold_pl.diagnostics.chains import batches
from minifold_pl.diagnostics.steps import LOSS, Scores, StepScores, joined, step_scores
from minifold_pl.metrics.bootstrap import Interval, bootstrap_interval
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.one_step import check_times, one_step
from minifold_pl.modules.sequence_controls import (
    MASKED,
    OTHER,
    REAL,
    SHUFFLED,
    masked_tokens,
    other_tokens,
    shuffled_tokens,
)


def sequence_scores(
    module: DiffusionModule,
    chains: ChainDataset,
    times: Sequence[int],
    *,
    seed: int,
    batch_size: int,
    advance: Callable[[int], None] = lambda count: None,
) -> StepScores:
    """One-step estimates of the same noised chains with the real sequence, and with three wrong ones.

    Shuffled: the chain's own residues in another order. MASK: no residue known, the null condition. Another chain's:
    a piece of the sequence of a chain of another cluster, where there is one.

    Raises:
        ValueError: a timestep out of range.
    """
    times = check_times(times, module.noise_schedule.timesteps)
    sequences = _sequences(chains)
    names: list[str] = []
    parts: list[dict[str, Scores]] = []
    for batch in batches(chains, batch_size, module.device):
        rows = {REAL: batch.tokens, SHUFFLED: shuffled_tokens(batch, seed), MASKED: masked_tokens(batch)}
        pools = [_others(sequences, name) for name in batch.names]
        if all(_others(sequences, name) for name in sequences):
            rows[OTHER] = other_tokens(batch, pools, seed)
        parts.append(
            {
                row: step_scores(module, batch, one_step(module, batch, times, seed=seed, tokens=tokens))
                for row, tokens in rows.items()
            }
        )
        names += batch.names
        advance(len(batch))
    return joined(times, names, parts)


def sequence_gains(found: StepScores) -> dict[str, Interval]:
    """What the real sequence gains over each wrong one: loss without it − loss with it, paired by chain.

    Means over the timesteps of a chain, then over chains, with a 95 % bootstrap interval over chains. Above 0 the
    wrong sequence is worse.
    """
    real = found.rows[REAL][LOSS].mean(0)
    return {
        row: bootstrap_interval(scores[LOSS].mean(0) - real)
        for row, scores in found.rows.items()
        if row != REAL
    }


def verdict(gains: Mapping[str, Interval]) -> str:
    """What the gains allow to say, in a sentence."""
    if any(gain.n < 2 for gain in gains.values()):
        return "one chain says nothing about a model: test more"
    worse = {row for row, gain in gains.items() if gain.low > 0}
    if worse == set(gains):
        return "reads the sequence: every wrong sequence makes its structures worse"
    if SHUFFLED in worse:
        rest = " and ".join(sorted(set(gains) - worse))
        return f"the order of the residues helps it, but {rest} does as well as the real sequence"
    if worse:
        return "knows the composition at most: shuffled residues do as well as the real sequence"
    better = {row for row, gain in gains.items() if gain.high < 0}
    if better:
        return f"does not read the sequence as it should: better with {' and '.join(sorted(better))} residues"
    return "no sign that it reads the sequence: wrong ones do as well"


def _sequences(chains: ChainDataset) -> dict[str, tuple[str | None, Int[Tensor, " m"]]]:
    """Name → cluster and residue tokens."""
    found = {}
    for i in range(len(chains)):
        item = chains[i]
        tokens = torch.as_tensor(item.tokens)[1 : len(item.coords) + 1]
        found[item.name] = (chains.store.clusters[int(chains.indices[i])], tokens)
    return found


def _others(sequences: Mapping[str, tuple[str | None, Tensor]], name: str) -> list[Int[Tensor, " m"]]:
    own, _ = sequences[name]
    return [
        tokens
        for other, (cluster, tokens) in sequences.items()
        if other != name and (own is None or cluster != own)
    ]
