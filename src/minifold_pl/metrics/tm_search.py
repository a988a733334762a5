"""TM-score and GDT maximised over superpositions, with a fixed residue correspondence.

The TM-score program's search (Zhang & Skolnick 2004, Proteins 57:702, and the notes in its source):
superpose every run of L, L/2, L/4 … 4 residues, then superpose again on the residues that came to lie near
their true places, until these stay the same. Every pose on the way is scored and the best value kept. Two
things are ours. What a choice of residues leads to depends on that choice alone, so each is followed once,
however many runs arrive at it. And the best pose is improved further in float64, by superpositions weighted
so that the score can only rise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minifold_pl.geometry.precision import full_precision
from minifold_pl.metrics.gdt import GDT_HA_CUTOFFS, GDT_TS_CUTOFFS
from minifold_pl.metrics.moments import (
    FEATURES,
    SUMS,
    residue_features,
    rigid_motion,
    squared_distance_rows,
)
from minifold_pl.metrics.pose import normaliser
from minifold_pl.metrics.tm import tm_d0
from minifold_pl.types import Frames

_SMALLEST_RUN = 4
_HALVINGS = 4
"""Runs of L, L/2 … L/16 and 4 residues, none shorter than 4."""
_ITERATIONS = 20
_SEARCH_D0 = (4.5, 8.0)
"""Å; d0 is kept within these while looking for neighbours, so that short chains find some."""
_STRICT, _LENIENT = -1.0, 1.0
"""Å beyond d0 for neighbours: strict after the first pose, which rests on a run alone, lenient from then on."""
_FEWEST_NEIGHBOURS = 3
"""A pose needs three points: the cutoff for neighbours grows in steps until there are as many."""
_CUTOFF_STEP = 0.5
"""Å."""
_POLISHING = 10
"""Weighted superpositions of the best pose."""
_GDT_CUTOFFS = tuple(sorted({*GDT_TS_CUTOFFS, *GDT_HA_CUTOFFS}))
_FARTHEST = 1e4
"""Å from the chain's median; what lies farther away is moved there while searching, where float32 can hold it."""
_OUT_OF_REACH = 1e12
"""Å²; how far padding is from its place."""
_TILE_SIZES = (8, 16, 32, 64)
"""Poses of one chain that are scored by one matrix product."""
_POSES_AT_ONCE = 32_768
"""First poses of one slice of chains."""
_RESIDUES_AT_ONCE = {"cpu": 1 << 18}
"""Poses times residues in one set of matrix products: 1 MB stays in a core's cache."""
_RESIDUES_AT_ONCE_ELSEWHERE = 1 << 24
_IDENTITY_BITS = 24
"""A choice of residues is known by two sums of random integers, each exact in float32."""
_MULTIPLIER = -7046029254386353131
"""2⁶⁴ over the golden ratio, as a signed integer: spreads keys over a table (Knuth, TAOCP 6.4)."""


class SearchedScores(NamedTuple):
    """The best value of each score over all poses visited; not all from the same pose."""

    tm: Float[Tensor, " b"]
    gdt_ts: Float[Tensor, " b"]
    gdt_ha: Float[Tensor, " b"]
    pose: Frames
    """The motion of the prediction onto the truth that has this ``tm``, float64."""


class TMSuperposition(NamedTuple):
    """A TM-score and the motion of the prediction onto the truth (Å, float64) that has it."""

    tm: Float[Tensor, " b"]
    pose: Frames


def tm_score(
    pred: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    length: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, " b"]:
    """TM-score as the TM-score program gives it, 0 to 1; coordinates in Å.

    Normalised by ``length``, d0 included (the residues in ``mask`` where not given). On 800 pairs of real chains of
    16 to 500 residues it is never below TM-align's value for the same fixed alignment. It is above it, with the pose
    that proves it (:func:`tm_superposition`), by 0.001 on average and 0.007 at most from 100 residues on, by 0.02 and
    0.14 below 25, whose d0 is so small that the program's steps miss the top of the peak. Two unrelated chains score
    0.16 to 0.19, 0.5 means the same fold (Xu & Zhang 2010, Bioinformatics 26:889). NaN for a chain without residues,
    0 for a prediction that is not finite.
    """
    return tm_superposition(pred, true, mask, length).tm


@full_precision
def tm_superposition(
    pred: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    length: Int[Tensor, " b"] | None = None,
) -> TMSuperposition:
    """:func:`tm_score` and the superposition that proves it; the identity where there is no score."""
    scores, pose = _search(pred, true, mask, length, cutoffs=())
    return TMSuperposition(scores[:, 0], pose)


@full_precision
def searched_scores(
    pred: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    length: Int[Tensor, " b"] | None = None,
) -> SearchedScores:
    """TM-score, GDT-TS and GDT-HA from one search.

    GDT is maximised per cutoff over the poses of the TM-score program, and from the best of these by superposing
    the residues within that cutoff; LGA searches longer and may find a little more. A search gives a lower bound
    of the true maximum, so a rotated input may differ in the third decimal.
    """
    scores, pose = _search(pred, true, mask, length, cutoffs=_GDT_CUTOFFS)
    share = dict(zip(_GDT_CUTOFFS, scores[:, 1:].unbind(-1), strict=True))
    return SearchedScores(
        scores[:, 0],
        torch.stack([share[cutoff] for cutoff in GDT_TS_CUTOFFS]).mean(0),
        torch.stack([share[cutoff] for cutoff in GDT_HA_CUTOFFS]).mean(0),
        pose,
    )


def gdt_ts(
    pred: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    length: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, " b"]:
    """GDT-TS, 0 to 1: mean share of residues within 1, 2, 4 and 8 Å, each in its best pose found.

    Zemla 2003, Nucleic Acids Res. 31:3370. Normalised by ``length`` (the residues in ``mask`` where not given). NaN
    for a chain without residues, 0 for a prediction that is not finite. For several scores call
    :func:`searched_scores`.
    """
    return searched_scores(pred, true, mask, length).gdt_ts


def gdt_ha(
    pred: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    length: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, " b"]:
    """As :func:`gdt_ts` with 0.5, 1, 2 and 4 Å."""
    return searched_scores(pred, true, mask, length).gdt_ha


class _Pairs(NamedTuple):
    """Chains to superpose, their valid residues first, shortest chain first; float64."""

    pred: Float[Tensor, "b l 3"]
    true: Float[Tensor, "b l 3"]
    valid: Bool[Tensor, "b l"]
    whole: Int[Tensor, " b"]
    """Residues to normalise by."""

    def slice(self, rows: slice) -> _Pairs:
        """Some of the chains, without the padding that they do not need."""
        width = max(1, int(self.valid[rows].sum(-1).max()))
        return _Pairs(
            self.pred[rows, :width], self.true[rows, :width], self.valid[rows, :width], self.whole[rows]
        )

    @property
    def d0(self) -> Float[Tensor, " b"]:
        return tm_d0(self.whole).double()


def _search(
    pred: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    length: Int[Tensor, " b"] | None,
    cutoffs: tuple[float, ...],
) -> tuple[Float[Tensor, "b s"], Frames]:
    """TM and the share within each of ``cutoffs``, and the pose of the best TM."""
    whole = normaliser(mask, length)
    sound = pred.where(mask[..., None], pred.new_zeros(())).isfinite().all(-1).all(-1)
    scores = torch.zeros(len(pred), 1 + len(cutoffs), dtype=torch.float64, device=pred.device)
    rotation = torch.eye(3, dtype=torch.float64, device=pred.device).repeat(len(pred), 1, 1)
    translation = rotation.new_zeros(len(pred), 3)
    counts = mask.sum(-1)
    searched = (sound & (counts > 0)).nonzero()[:, 0]
    searched = searched[counts[searched].argsort(stable=True)]
    if len(searched):
        pairs, pred_middle, true_middle = _packed(
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


def _packed(
    pred: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    whole: Int[Tensor, " b"],
) -> tuple[_Pairs, Float[Tensor, "b 3"], Float[Tensor, "b 3"]]:
    """The valid residues moved to the front in their order, so that runs pass over gaps; the rest is 0.

    Each chain is moved to its median, so that rounding depends neither on where in space it lies nor on a few
    residues far away. Also returns the medians.
    """
    order = mask.byte().sort(dim=-1, descending=True, stable=True).indices
    order = order[:, : max(1, int(mask.sum(-1).max()))]
    valid = mask.gather(1, order)
    index = order[..., None].expand(-1, -1, 3)

    def pack(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.double().gather(1, index)
        middle = x.masked_fill(~valid[..., None], torch.nan).nanmedian(1).values
        return (x - middle[:, None]).where(valid[..., None], x.new_zeros(())), middle

    pred, pred_middle = pack(pred)
    true, true_middle = pack(true)
    return _Pairs(pred, true, valid, whole), pred_middle, true_middle


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


def _search_slice(pairs: _Pairs, cutoffs: tuple[float, ...]) -> tuple[Float[Tensor, "b s"], Frames]:
    count = len(pairs.pred)
    scorer = _Scorer(pairs, cutoffs)
    chain, sums = _first_sums(pairs)
    best = scorer.features.new_zeros(count, 1 + len(cutoffs))
    best_sums = sums.new_zeros(SUMS, count, 1 + len(cutoffs))
    visited = _Visited(16 * len(chain), chain.device)
    for iteration in range(_ITERATIONS + 1):
        scores, chosen, slot = scorer(chain, rigid_motion(sums), _LENIENT if iteration else _STRICT)
        _keep_best(best, best_sums, chain, scores.index_select(1, slot), sums)
        # The strict choice after a run and the lenient one after a pose lead to the same next pose.
        fresh = visited.add(chain, chosen[SUMS:].index_select(1, slot))
        if not len(fresh):
            break
        chain = chain.index_select(0, fresh)
        sums = chosen[:SUMS].index_select(1, slot.index_select(0, fresh)).double()
    tm, pose = _highest_tm(pairs, best_sums[..., 0])
    shares = [_highest_share(pairs, best_sums[..., k], cutoff) for k, cutoff in enumerate(cutoffs, start=1)]
    return torch.stack([tm, *shares], -1), pose


def _first_sums(pairs: _Pairs) -> tuple[Int[Tensor, " r"], Float[Tensor, "16 r"]]:
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


class _Scorer:
    """Scores poses of many chains, and says which residues are near their true places, as matrix products."""

    def __init__(self, pairs: _Pairs, cutoffs: tuple[float, ...]) -> None:
        b, width = pairs.valid.shape
        self.d0 = pairs.d0
        self.per_d0 = 1 / self.d0.square()
        self.near = self.d0.clamp(*_SEARCH_D0)
        self.cutoffs = cutoffs
        self.valid = pairs.valid
        features = residue_features(*(x.clamp(-_FARTHEST, _FARTHEST) for x in (pairs.pred, pairs.true)))
        features[..., -1].masked_fill_(~pairs.valid, _OUT_OF_REACH)
        features[..., :SUMS] *= pairs.valid[..., None]
        identity = _random_integers(width, features.device).expand(b, -1, -1)
        self.features = torch.cat([features[..., :SUMS], identity], -1).mT.to(_dtype(features)).contiguous()
        """What is summed over chosen residues: (b, 18, l)."""
        self.distances = features.mT.to(self.features.dtype).contiguous()
        """What squared distances are linear in: (b, 17, l)."""
        self.at_once = _RESIDUES_AT_ONCE.get(features.device.type, _RESIDUES_AT_ONCE_ELSEWHERE)

    def __call__(
        self, chain: Int[Tensor, " r"], motion: tuple[Tensor, Tensor], margin: float
    ) -> tuple[Float[Tensor, "s n"], Float[Tensor, "18 n"], Int[Tensor, " r"]]:
        """Scores of poses, the sums over the residues that they bring near their true places, and where they stand.

        ``chain`` ascends; pose k stands in column ``slot[k]`` of both.
        """
        rows = squared_distance_rows(*motion) * self.per_d0.index_select(0, chain)
        slot, tile_chain, size = _tiles(chain, len(self.d0))
        tiles, width = len(tile_chain), self.valid.shape[1]
        tiled = self.features.new_zeros(tiles * size, FEATURES).index_copy_(0, slot, rows.T.to(self.features))
        tiled = tiled.unflatten(0, (tiles, size))
        real = torch.zeros(tiles * size, dtype=torch.bool, device=slot.device).index_fill_(0, slot, True)
        scores = tiled.new_empty(1 + len(self.cutoffs), tiles, size)
        sums = tiled.new_empty(tiles, self.features.shape[1], size)
        step = max(1, self.at_once // (size * width))
        for begin in range(0, tiles, step):
            part = slice(begin, begin + step)
            of = tile_chain[part]
            # Squared distances over d0².
            squared = torch.bmm(tiled[part], self.distances.index_select(0, of))
            chosen = self._neighbours(squared, of, margin, real.view(tiles, size)[part])
            torch.bmm(self.features.index_select(0, of), chosen.mT, out=sums[part])
            for k, gdt_cutoff in enumerate(self.cutoffs, start=1):
                limit = (gdt_cutoff**2 * self.per_d0[of]).to(squared.dtype)
                scores[k, part] = torch.le(squared, limit[:, None, None], out=chosen).sum(-1)
            scores[0, part] = squared.add_(1).reciprocal_().sum(-1)
        return scores.flatten(1), sums.permute(1, 0, 2).flatten(1), slot

    def _neighbours(
        self,
        squared: Float[Tensor, "t p l"],
        of: Int[Tensor, " t"],
        margin: float,
        real: Bool[Tensor, "t p"],
    ) -> Float[Tensor, "t p l"]:
        """1 for residues nearer than the cutoff to their true place; it grows by steps until there are three."""
        d0, cutoff = self.d0[of, None], self.near[of, None] + margin
        limit = ((cutoff / d0).square()).to(squared.dtype)
        chosen = torch.lt(squared, limit[..., None], out=torch.empty_like(squared))
        few = ((chosen.sum(-1) < _FEWEST_NEIGHBOURS) & real).flatten().nonzero()[:, 0]
        if len(few):
            tile = few // squared.shape[1]
            nearest = squared.flatten(0, 1).index_select(0, few)
            third = _third_smallest(nearest).clamp(min=0).sqrt() * d0[tile, 0]
            cutoff = cutoff[tile, 0]
            steps = ((third - cutoff) / _CUTOFF_STEP).floor() + 1
            grown = (cutoff + _CUTOFF_STEP * steps.clamp(min=0)) / d0[tile, 0]
            near = nearest < grown.square().to(nearest.dtype)[:, None]
            # A chain may have fewer than three residues: no padding then.
            chosen.view(-1, squared.shape[-1])[few] = (near & self.valid[of[tile]]).to(chosen.dtype)
        return chosen


def _third_smallest(values: Float[Tensor, "r l"]) -> Float[Tensor, " r"]:
    """Of each row; the largest where there are fewer. Faster than ``topk``."""
    for _ in range(min(_FEWEST_NEIGHBOURS, values.shape[1]) - 1):
        values = values.scatter(1, values.argmin(1, keepdim=True), torch.inf)
    return values.amin(1)


def _dtype(features: Tensor) -> torch.dtype:
    """Float32 where its products are exact to float32.

    Elsewhere (TF32 on a GPU, bfloat16 on some CPUs) a distance would be off by ångströms. On a GPU float64 costs little
    of a search that waits for launches.
    """
    if features.device.type != "cpu":
        return torch.float64
    try:
        exact = torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # set by the newer interface, which this one refuses to read
        exact = False
    return torch.float32 if exact else torch.float64


def _random_integers(count: int, device: torch.device) -> Float[Tensor, "l 2"]:
    """Whose sum over any residues is exact in float32."""
    generator = torch.Generator().manual_seed(0)
    highest = max(2, (1 << _IDENTITY_BITS) // count)
    return torch.randint(1, highest, (count, 2), generator=generator).double().to(device)


def _tiles(chain: Int[Tensor, " r"], chains: int) -> tuple[Int[Tensor, " r"], Int[Tensor, " t"], int]:
    """Where each pose goes when every chain's poses fill whole tiles; each tile's chain; poses a tile."""
    counts = torch.bincount(chain, minlength=chains)
    mean = len(chain) // chains
    size = max((s for s in _TILE_SIZES if s <= mean), default=_TILE_SIZES[0])
    tiles = (counts + size - 1) // size
    shift = size * (tiles.cumsum(0) - tiles) - (counts.cumsum(0) - counts)
    slot = torch.arange(len(chain), device=chain.device) + shift.index_select(0, chain)
    return slot, torch.arange(chains, device=chain.device).repeat_interleave(tiles), size


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
        key = (chain << (2 * _IDENTITY_BITS)) | (first << _IDENTITY_BITS) | second
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


def _highest_tm(pairs: _Pairs, sums: Float[Tensor, "16 b"]) -> tuple[Float[Tensor, " b"], Frames]:
    r"""TM-score in float64 after a climb from the best pose, and the pose it ends in.

    Superpositions weighted by :math:`w_i = (1 + d_i^2 / d_0^2)^{-2}`. The score is convex in :math:`d_i^2`, so its
    tangent, whose slope is :math:`-w_i / d_0^2`, lies below it: what raises the tangent raises the score at least
    as much.
    """
    features, per_d0 = residue_features(pairs.pred, pairs.true), 1 / pairs.d0.square()
    for step in range(_POLISHING + 1):
        rotation, translation = rigid_motion(sums)
        rows = squared_distance_rows(rotation, translation) * per_d0
        squared = torch.bmm(features, rows.T.unsqueeze(-1)).squeeze(-1).clamp(min=0)
        closeness = pairs.valid / (1 + squared)
        if step < _POLISHING:
            sums = torch.bmm(closeness.square().unsqueeze(1), features[..., :SUMS]).squeeze(1).T
    return closeness.sum(-1) / pairs.whole, Frames(rotation.movedim(-1, 0), translation.T)


def _highest_share(pairs: _Pairs, sums: Float[Tensor, "16 b"], cutoff: float) -> Float[Tensor, " b"]:
    """The share within ``cutoff``, in float64, after superposing the residues within it as long as that helps."""
    features = residue_features(pairs.pred, pairs.true)
    best = torch.zeros_like(sums[0])
    for _ in range(_POLISHING + 1):
        rows = squared_distance_rows(*rigid_motion(sums))
        squared = torch.bmm(features, rows.T.unsqueeze(-1)).squeeze(-1)
        within = (squared <= cutoff**2) & pairs.valid
        count = within.sum(-1)
        better = count > best
        if not better.any():
            break
        best = torch.maximum(best, count.to(best))
        # A pose needs three points; with fewer it stays as it is.
        chosen = torch.bmm(within.to(features).unsqueeze(1), features[..., :SUMS]).squeeze(1).T
        sums = chosen.where(better & (count >= _FEWEST_NEIGHBOURS), sums)
    return best / pairs.whole
