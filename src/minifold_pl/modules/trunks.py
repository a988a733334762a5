"""What encoder and pair stack make of a sequence, kept for whoever comes with the same sequence again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minifold_pl.constants import PAD
from minifold_pl.data.collate import padded_length


class Trunk(NamedTuple):
    """Encoder and pair stack of a batch of sequences, 0 where there is no residue."""

    single: Float[Tensor, "b l d"]
    pair: Float[Tensor, "b l l p"]
    pooled: Float[Tensor, "b e"]


Compute = Callable[[Tensor, Tensor, Tensor], Trunk]
"""(tokens, residue mask, residue places) → trunk."""

KEPT_BYTES = 1 << 30
"""Trunks beyond this size in all are forgotten, those first that were not asked for the longest: about 120 chains of
125 residues, or 7 of 512, at v13's width."""


class Trunks:
    """Runs encoder and pair stack once for each different sequence, over any number of batches.

    A trunk depends on the tokens and on the separations in the chain, and on nothing else: several samples of a chain
    share one, and so do all chains of one length once their residues are MASK, whatever their breaks. A chain's trunk
    is the same in any batch up to the rounding of another batch; a batch of which nothing is known yet and in which
    no sequence occurs twice is computed as it is.

    The object belongs to one set of weights in one precision: make another one when they have changed.

    Args:
        compute: runs the networks.
        kept_bytes: how much to keep.
    """

    def __init__(self, compute: Compute, kept_bytes: int = KEPT_BYTES) -> None:
        self._compute = compute
        self._kept_bytes = kept_bytes
        self._known: OrderedDict[bytes, Trunk] = OrderedDict()

    def of(
        self, tokens: Int[Tensor, "b n"], mask: Bool[Tensor, "b l"], residue_index: Int[Tensor, "b l"]
    ) -> Trunk:
        """The trunk of each chain, padded as ``mask`` is."""
        lengths = (tokens.ne(PAD).sum(-1) - 2).tolist()
        keys = _keys(tokens, mask, residue_index, lengths)
        missing = [row for row, key in enumerate(keys) if key not in self._known and key not in keys[:row]]
        if len(missing) == len(keys):
            trunk = self._compute(tokens, mask, residue_index)
            self._keep(keys, _pieces(trunk, lengths))
            self._forget()
            return trunk
        if missing:
            longest = padded_length(max(lengths[row] for row in missing))
            n, rows = min(longest, mask.shape[1]), torch.tensor(missing, device=tokens.device)
            trunk = self._compute(tokens[rows, : n + 2], mask[rows, :n], residue_index[rows, :n])
            self._keep([keys[row] for row in missing], _pieces(trunk, [lengths[row] for row in missing]))
        for key in keys:
            self._known.move_to_end(key)
        padded = _padded([self._known[key] for key in keys], mask.shape[1])
        self._forget()
        return padded

    def _keep(self, keys: Sequence[bytes], trunks: Sequence[Trunk]) -> None:
        self._known.update(zip(keys, trunks, strict=True))

    def _forget(self) -> None:
        size = sum(_bytes(trunk) for trunk in self._known.values())
        while size > self._kept_bytes and self._known:
            _, oldest = self._known.popitem(last=False)
            size -= _bytes(oldest)


def _keys(tokens: Tensor, mask: Tensor, residue_index: Tensor, lengths: Sequence[int]) -> list[bytes]:
    """All that a trunk depends on, without padding. Places count from the first residue: only separations are read."""
    places = residue_index - residue_index[:, :1]
    columns = (tokens.cpu().numpy(), mask.cpu().numpy(), places.cpu().numpy())
    return [
        b"".join(column[row, : length + 2 * (column is columns[0])].tobytes() for column in columns)
        for row, length in enumerate(lengths)
    ]


def _pieces(trunk: Trunk, lengths: Sequence[int]) -> list[Trunk]:
    # Copies: a view would keep the whole batch alive.
    return [
        Trunk(
            trunk.single[row, :length].clone(),
            trunk.pair[row, :length, :length].clone(),
            trunk.pooled[row].clone(),
        )
        for row, length in enumerate(lengths)
    ]


def _padded(trunks: Sequence[Trunk], length: int) -> Trunk:
    first = trunks[0]
    single = first.single.new_zeros(len(trunks), length, first.single.shape[-1])
    pair = first.pair.new_zeros(len(trunks), length, length, first.pair.shape[-1])
    for row, trunk in enumerate(trunks):
        n = len(trunk.single)
        single[row, :n] = trunk.single
        pair[row, :n, :n] = trunk.pair
    return Trunk(single, pair, torch.stack([trunk.pooled for trunk in trunks]))


def _bytes(trunk: Trunk) -> int:
    return sum(x.numel() * x.element_size() for x in trunk)
