"""Scores of matched pairs, and beside them of what chance gives; many chains at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minifold_pl.cli.score_chains import MatchedPair
from minifold_pl.diffusion.draws import keyed_generator
from minifold_pl.metrics import baselines
from minifold_pl.metrics.ca_chain import ca_bond_share, clash_count, rg_ratio
from minifold_pl.metrics.lddt import lddt_ca
from minifold_pl.metrics.rmsd import rmsd
from minifold_pl.metrics.tm import tm_kabsch
from minifold_pl.metrics.tm_search import searched_scores

MODEL: Final = "prediction"
OTHER: Final = "another reference"
BASELINES: Final = (OTHER, "centroid", "ideal helix", "mirrored reference")
SEES_ANSWER: Final = ("mirrored reference",)
"""Made from the answer itself: it shows what handedness is worth, nothing can be compared with it."""
SCORES: Final = (
    "tm_score", "tm_kabsch", "rmsd", "gdt_ts", "gdt_ha", "lddt_ca", "rg_ratio", "ca_bond_share", "clashes",
    "coverage",
)  # fmt: skip
SEED: Final = 0
"""Of the other chains that are drawn."""

_PAIRS_AT_ONCE: Final = 4_000_000
"""Residue pairs in one batch: 16 MB for a matrix of distances."""
_CHAINS_AT_ONCE: Final = 64
"""The search for superpositions is fastest on many; more would leave too few batches to share among the cores."""
_FAR: Final = 1e4
"""Å between residues that were not predicted, so that no distance of theirs is kept."""

Scores = dict[str, dict[str, float]]
"""Row → score → value."""


class _Candidate(NamedTuple):
    """One row of one pair: a set of coordinates to hold against the reference."""

    pair: int
    row: str
    true: Float[Tensor, "l 3"]
    pred: Float[Tensor, "l 3"]
    matched: Bool[Tensor, " l"]
    trace: Float[Tensor, "p 3"]
    bonded: Bool[Tensor, " p"]


def score_pairs(
    pairs: Sequence[MatchedPair], *, with_baselines: bool, advance: Callable[[int], None] = lambda count: None
) -> list[Scores]:
    """The scores of each pair, in the order of ``pairs``.

    ``tm_score``, ``tm_kabsch``, ``gdt_ts`` and ``gdt_ha`` are normalised by the whole reference, and ``lddt_ca``
    is over all its near pairs: what was not predicted counts as wrong. ``rmsd`` and ``rg_ratio`` are over the
    matched residues alone, ``ca_bond_share`` and ``clashes`` over the whole prediction, matched or not.

    Args:
        pairs: Matched pairs.
        with_baselines: Whether each pair gets the rows of ``BASELINES``, too; all of them cover the whole
            reference. "Another reference" is a window of a pair's with another sequence, where there is one.
        advance: Called with the number of candidates finished, :func:`count_candidates` in all.
    """
    candidates = [candidate for i in range(len(pairs)) for candidate in _candidates(pairs, i, with_baselines)]
    batches = list(_batches(candidates))
    scores: list[Scores] = [{} for _ in pairs]
    with _one_thread_each() as pool:
        for batch, values in zip(batches, pool.map(_scores, batches), strict=True):
            for candidate, row in zip(batch, values, strict=True):
                scores[candidate.pair][candidate.row] = row
            advance(len(batch))
    return [{row: by_row[row] for row in (MODEL, *BASELINES) if row in by_row} for by_row in scores]


def count_candidates(pairs: Sequence[MatchedPair], *, with_baselines: bool) -> int:
    """How many sets of coordinates :func:`score_pairs` will score."""
    if not with_baselines:
        return len(pairs)
    sequences = {pair.true_sequence for pair in pairs}
    return len(pairs) * (1 + len(BASELINES) - (len(sequences) < 2))


def _candidates(pairs: Sequence[MatchedPair], index: int, with_baselines: bool) -> Iterator[_Candidate]:
    pair = pairs[index]
    true, everywhere = torch.from_numpy(pair.true), torch.ones(len(pair.true), dtype=torch.bool)
    yield _Candidate(
        index,
        MODEL,
        true,
        torch.from_numpy(pair.pred),
        torch.from_numpy(pair.matched),
        torch.from_numpy(pair.trace),
        torch.from_numpy(pair.bonded),
    )
    if not with_baselines:
        return
    bonded = torch.from_numpy(pair.true_bonded)
    ca, mask = true[None], everywhere[None]
    made = {
        "centroid": baselines.centroid(ca, mask),
        "ideal helix": baselines.ideal_helix(ca, mask),
        "mirrored reference": baselines.mirrored_truth(ca, mask),
    }
    if others := [torch.from_numpy(p.true) for p in pairs if p.true_sequence != pair.true_sequence]:
        generator = keyed_generator(SEED, "random chain", pair.name)
        made[OTHER] = baselines.random_chain(ca, mask, others, [generator])
    for row, chain in made.items():
        yield _Candidate(index, row, true, chain[0], everywhere, chain[0], bonded)


def _batches(candidates: Sequence[_Candidate]) -> Iterator[list[_Candidate]]:
    """Candidates of like lengths together, the longest first: what is left for the end is quickly shared."""
    batch: list[_Candidate] = []
    for candidate in sorted(candidates, key=_length, reverse=True):
        longest = _length(batch[0]) if batch else 0
        if len(batch) == _CHAINS_AT_ONCE or (batch and (len(batch) + 1) * longest**2 > _PAIRS_AT_ONCE):
            yield batch
            batch = []
        batch.append(candidate)
    if batch:
        yield batch


def _length(candidate: _Candidate) -> int:
    return max(len(candidate.true), len(candidate.trace))


@torch.inference_mode()
def _scores(batch: Sequence[_Candidate]) -> list[dict[str, float]]:
    true, pred, trace = (
        pad_sequence([getattr(candidate, name) for candidate in batch], batch_first=True)
        for name in ("true", "pred", "trace")
    )
    matched, bonded = (
        pad_sequence([getattr(candidate, name) for candidate in batch], batch_first=True)
        for name in ("matched", "bonded")
    )
    length = torch.tensor([len(candidate.true) for candidate in batch])
    observed = torch.arange(true.shape[1]) < length[:, None]
    in_trace = torch.arange(trace.shape[1]) < torch.tensor([len(c.trace) for c in batch])[:, None]

    best = searched_scores(pred, true, matched, length)
    away = _FAR * torch.arange(1, true.shape[1] + 1, dtype=pred.dtype)[:, None].expand(-1, 3)
    columns = {
        "tm_score": best.tm,
        "tm_kabsch": tm_kabsch(pred, true, matched, length),
        "rmsd": rmsd(pred, true, matched),
        "gdt_ts": best.gdt_ts,
        "gdt_ha": best.gdt_ha,
        "lddt_ca": lddt_ca(pred.where(matched[..., None], away), true, observed),
        "rg_ratio": rg_ratio(pred, true, matched),
        "ca_bond_share": ca_bond_share(trace, in_trace, bonded),
        "clashes": clash_count(trace, in_trace),
        "coverage": matched.sum(-1) / length,
    }
    lists = [columns[name].tolist() for name in SCORES]
    return [dict(zip(SCORES, map(float, values), strict=True)) for values in zip(*lists, strict=True)]


@contextmanager
def _one_thread_each() -> Iterator[ThreadPoolExecutor]:
    """As many workers as torch has threads, each with one: batches side by side leave no core waiting."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)
