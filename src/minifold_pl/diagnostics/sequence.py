"""Does a model read the sequence? Its losses with the real one, beside those with wrong ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

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

AS_WELL: Final = 0.01
"""Share of the loss: within it two sequences are equally good."""


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


def verdict(gains: Mapping[str, Interval], loss: float) -> str:
    """What the gains allow to say, in a sentence; ``loss`` is that with the real sequence.

    A wrong sequence does as well only where the whole interval of its gain is within 1 % of the loss. An interval that
    holds 0 and is wider says that the two cannot be told apart.
    """
    if any(gain.n < 2 for gain in gains.values()):
        return "one chain says nothing about a model: test more"
    worse = {row for row, gain in gains.items() if gain.low > 0}
    if worse == set(gains):
        return "reads the sequence: every wrong sequence makes its structures worse"
    better = {row for row, gain in gains.items() if gain.high < 0}
    margin = AS_WELL * abs(loss)
    as_well = {row for row, gain in gains.items() if max(-gain.low, gain.high) <= margin} - worse - better
    unclear = set(gains) - worse - better - as_well
    rest = "; ".join(
        f"{' and '.join(sorted(rows))} {says}"
        for rows, says in (
            (better, "does better than the real sequence"),
            (as_well, "does as well as the real sequence"),
            (unclear, "cannot be told apart from the real sequence: test more chains"),
        )
        if rows
    )
    if SHUFFLED in worse:
        return f"the order of the residues helps it, but {rest}"
    if worse and SHUFFLED in as_well:
        return f"knows the composition at most: {rest}"
    if worse:
        return f"{' and '.join(sorted(worse))} makes its structures worse; {rest}"
    if better:
        return f"does not read the sequence as it should: {rest}"
    return f"no sign that it reads the sequence: {rest}"


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
