"""The search for the superposition that scores best, with a fixed residue correspondence.

The TM-score program's search (Zhang & Skolnick 2004, Proteins 57:702, and the notes in its source):
superpose every run of L, L/2, L/4 … 4 residues, then superpose again on the residues that came to lie near
their true places, until these stay the same. Every pose on the way is scored and the best value kept. Two
things are ours. What a choice of residues leads to depends on that choice alone, so each is followed once,
however many runs arrive at it. And the best pose is improved further (:mod:`minifold_pl.metrics.pose_polish`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minifold_pl.metrics.chain_pairs import ChainPairs, pack_pairs
from minifold_pl.metrics.finite import require_finite_truth
from minifold_pl.metrics.moments import SUMS, residue_features, rigid_motion
from minifold_pl.metrics.pose import normaliser
from minifold_pl.metrics.pose_polish import highest_share, highest_tm
from minifold_pl.metrics.pose_scorer import IDENTITY_BITS, LENIENT, STRICT, PoseScorer
from minifold_pl.types import Frames

_SMALLEST_RUN = 4
_HALVINGS = 4
"""Runs of L, L/2 … L/16 and 4 residues, none shorter than 4."""
_ITERATIONS = 20
_POSES_AT_ONCE = 32_768
"""First poses of one slice of chains."""
_MULTIPLIER = -7046029254386353131
"""2⁶⁴ over the golden ratio, as a signed integer: spreads keys over a table (Knuth, TAOCP 6.4)."""


def search_poses(
    pred: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    length: Int[Tensor, " b"] | None,
    cutoffs: tuple[float, ...],
) -> tuple[Float[Tensor, "b s"], Frames]:
    """TM and the share within each of ``cutoffs``, and the pose of the best TM.

    Raises:
        ValueError: The truth has a NaN or inf at a valid residue.
    """
    require_finite_truth(true, mask)
    whole = normaliser(mask, length)
    sound = pred.where(mask[..., None], pred.new_zeros(())).isfinite().all(-1).all(-1)
    scores = torch.zeros(len(pred), 1 + len(cutoffs), dtype=torch.float64, device=pred.device)
    rotation = torch.eye(3, dtype=torch.float64, device=pred.device).repeat(len(pred), 1, 1)
    translation = rotation.new_zeros(len(pred), 3)
    counts = mask.sum(-1)
    searched = (sound & (counts > 0)).nonzero()[:, 0]
    searched = searched[counts[searched].argsort(stable=True)]
    if len(searched):
        pairs, pred_middle, true_middle = pack_pairs(
            pred[searched], true[searched], mask[searched], whole[searched]
        )
        rotations, translations = [], []
        for rows in _slices(pairs.valid.sum(-1).tolist()):
            part, motion = _search_slice(pairs.slice(rows), cutoffs)
            scores[searched[rows]] = part
            rotations.append(motion.rotation)
            translations.append(motion.translation)
        turned = torch.cat(rotations)
        rotation[searched] = turned
        moved = torch.einsum("bxy,by->bx", turned, pred_middle)
        translation[searched] = torch.cat(translations) + true_middle - moved
    scores[whole == 0] = torch.nan
    scores[counts == 0] = torch.nan if length is None else 0.0
    return scores.to(pred.dtype), Frames(rotation, translation)


def _slices(lengths: list[int]) -> Iterator[slice]:
    """Chains, by their lengths, whose first poses are worked off at once."""
    start = poses = 0
    for chain, length in enumerate(lengths):
        own = sum(length - run + 1 for run in _runs(length))
        if chain > start and poses + own > _POSES_AT_ONCE:
            yield slice(start, chain)
            start, poses = chain, 0
        poses += own
    yield slice(start, len(lengths))


def _runs(length: int) -> list[int]:
    """Lengths of the runs of residues that a chain's first poses superpose."""
    shortest = min(_SMALLEST_RUN, length)
    return sorted({shortest, *(max(length >> k, shortest) for k in range(_HALVINGS + 1))})


def _search_slice(pairs: ChainPairs, cutoffs: tuple[float, ...]) -> tuple[Float[Tensor, "b s"], Frames]:
    count = len(pairs.pred)
    scorer = PoseScorer(pairs, cutoffs)
    chain, sums = _first_sums(pairs)
    best = scorer.features.new_zeros(count, 1 + len(cutoffs))
    best_sums = sums.new_zeros(SUMS, count, 1 + len(cutoffs))
    visited = _Visited(16 * len(chain), chain.device)
    for iteration in range(_ITERATIONS + 1):
        scores, chosen, slot = scorer(chain, rigid_motion(sums), LENIENT if iteration else STRICT)
        _keep_best(best, best_sums, chain, scores.index_select(1, slot), sums)
        # The strict choice after a run and the lenient one after a pose lead to the same next pose.
        fresh = visited.add(chain, chosen[SUMS:].index_select(1, slot))
        if not len(fresh):
            break
        chain = chain.index_select(0, fresh)
        sums = chosen[:SUMS].index_select(1, slot.index_select(0, fresh)).double()
    tm, pose = highest_tm(pairs, best_sums[..., 0])
    shares = [highest_share(pairs, best_sums[..., k], cutoff) for k, cutoff in enumerate(cutoffs, start=1)]
    return torch.stack([tm, *shares], -1), pose


def _first_sums(pairs: ChainPairs) -> tuple[Int[Tensor, " r"], Float[Tensor, "16 r"]]:
    """Chain and sums of every starting run of every chain."""
    features = residue_features(pairs.pred, pairs.true)[..., :SUMS]
    running = torch.nn.functional.pad(features.cumsum(1).permute(2, 0, 1), (1, 0))
    lengths, groups = pairs.valid.sum(-1).unique_consecutive(return_counts=True)
    sums, poses = [], []
    # Chains of one length have the same runs.
    for length, group in zip(lengths.tolist(), running.split(groups.tolist(), 1), strict=True):
        group = group[..., : length + 1]
        own = torch.cat([group[..., run:] - group[..., :-run] for run in _runs(length)], -1)
        sums.append(own.flatten(1))
        poses.append(own.shape[-1])
    each = torch.tensor(poses, device=groups.device).repeat_interleave(groups)
    chain = torch.arange(len(each), device=each.device).repeat_interleave(each)
    return chain, torch.cat(sums, 1)


class _Visited:
    """The choices of residues made so far, in a table of one place a hash.

    Two choices that share a place forget one of them: it may be followed again, none is ever left out.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.bits = max(4, (size - 1).bit_length())
        self.keys = torch.full((1 << self.bits,), -1, dtype=torch.long, device=device)
        self.rows = torch.empty_like(self.keys)

    def add(self, chain: Int[Tensor, " r"], identity: Float[Tensor, "2 r"]) -> Int[Tensor, " n"]:
        """Indices of the choices not made before, one of each; all are remembered."""
        first, second = identity.long()
        key = (chain << (2 * IDENTITY_BITS)) | (first << IDENTITY_BITS) | second
        place = (key * _MULTIPLIER) >> (64 - self.bits) & ((1 << self.bits) - 1)
        fresh = (self.keys.index_select(0, place) != key).nonzero()[:, 0]
        key, place = key.index_select(0, fresh), place.index_select(0, fresh)
        row = torch.arange(len(key), device=key.device)
        # The first of those at a place stays there, on every device.
        self.rows.index_fill_(0, place, len(key)).scatter_reduce_(0, place, row, "amin")
        winner = self.rows.index_select(0, place)
        self.keys.index_copy_(0, place, key.index_select(0, winner))
        return fresh[(winner == row) | (key.index_select(0, winner) != key)]


def _keep_best(
    best: Float[Tensor, "b s"],
    best_sums: Float[Tensor, "16 b s"],
    chain: Int[Tensor, " r"],
    scores: Float[Tensor, "s r"],
    sums: Float[Tensor, "16 r"],
) -> None:
    """Put the sums of poses that score higher than any before in their chain's place."""
    for k, score in enumerate(scores):
        highest = torch.zeros_like(best[:, k]).scatter_reduce_(0, chain, score, "amax")
        improved = highest > best[:, k]
        row = torch.arange(len(chain), device=chain.device)
        row = row.where(score == highest.index_select(0, chain), len(chain))
        first = torch.full_like(improved, len(chain), dtype=torch.long).scatter_reduce_(0, chain, row, "amin")
        best[:, k] = highest.where(improved, best[:, k])
        best_sums[:, improved, k] = sums.index_select(1, first[improved])
