"""Scores of superpositions, and the residues each brings near their true places, as matrix products."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minifold_pl.metrics.chain_pairs import ChainPairs
from minifold_pl.metrics.moments import FEATURES, SUMS, residue_features, squared_distance_rows

STRICT, LENIENT = -1.0, 1.0
"""Å beyond d0 for neighbours: strict after the first pose, which rests on a run alone, lenient from then on."""
_SEARCH_D0 = (4.5, 8.0)
"""Å; d0 is kept within these while looking for neighbours, so that short chains find some."""
FEWEST_NEIGHBOURS = 3
"""A pose needs three points: the cutoff for neighbours grows in steps until there are as many."""
_CUTOFF_STEP = 0.5
"""Å."""
_WIDEST = 2e3
"""Å; beyond, float32 loses the distances of two chains that are both so far extended."""
_OUT_OF_REACH = 1e12
"""Å²; how far padding is from its place."""
_TILE_SIZES = (8, 16, 32, 64)
"""Poses of one chain that are scored by one matrix product."""
_RESIDUES_AT_ONCE = {"cpu": 1 << 18}
"""Poses times residues in one set of matrix products: 1 MB stays in a core's cache."""
_RESIDUES_AT_ONCE_ELSEWHERE = 1 << 24
IDENTITY_BITS = 24
"""A choice of residues is known by two sums of random integers, each exact in float32."""


class PoseScorer:
    """Scores poses of many chains, and says which residues are near their true places, as matrix products."""

    def __init__(self, pairs: ChainPairs, cutoffs: tuple[float, ...]) -> None:
        b, width = pairs.valid.shape
        self.d0 = pairs.d0
        self.per_d0 = 1 / self.d0.square()
        self.near = self.d0.clamp(*_SEARCH_D0)
        self.cutoffs = cutoffs
        self.valid = pairs.valid
        features = residue_features(pairs.pred, pairs.true)
        features[..., -1].masked_fill_(~pairs.valid, _OUT_OF_REACH)
        features[..., :SUMS] *= pairs.valid[..., None]
        wide = features.device.type == "cpu" and bool((pairs.true.abs() > _WIDEST).any())
        dtype = torch.float64 if wide else _dtype(features)
        identity = _random_integers(width, features.device).expand(b, -1, -1)
        self.features = torch.cat([features[..., :SUMS], identity], -1).mT.to(dtype).contiguous()
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
        few = ((chosen.sum(-1) < FEWEST_NEIGHBOURS) & real).flatten().nonzero()[:, 0]
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
    for _ in range(min(FEWEST_NEIGHBOURS, values.shape[1]) - 1):
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
    highest = max(2, (1 << IDENTITY_BITS) // count)
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
