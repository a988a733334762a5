"""Damaged records of a store: found as they are read, and replaced so that training can go on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from minifold_pl.constants import AMINO_ACIDS, CA_ATOM, FIRST_RESIDUE
from minifold_pl.data.store import ChainStore, StoreError

FARTHEST: Final = 1e5
"""Å; a coordinate beyond it is no atom's. A PDB file holds up to 10⁴."""
_NEAR: Final = 8
"""Stand-ins are drawn from this many chains on either side in the order of lengths."""
_STAND_IN: Final = 0x7A
"""First word of the draw's key."""


def problem(store: ChainStore, chain: int) -> str | None:
    """Why a chain cannot be trained on, or None; a function of the store's bytes alone. Takes microseconds."""
    try:
        store.check(chain)
    except StoreError:
        return "its bytes have changed since they were written"
    coords = store.coords(chain)
    if store.has_coords[chain] and np.isnan(coords[:, CA_ATOM]).any(-1).all():
        return "no Cα is observed"  # though other atoms are; a chain known by its sequence only is sound
    # NaN is how the format says missing; it compares as False.
    if (np.abs(coords) > FARTHEST).any():
        return f"a coordinate lies beyond {FARTHEST:g} Å or is infinite"
    tokens = store.tokens(chain)
    if tokens.min() < FIRST_RESIDUE or tokens.max() > FIRST_RESIDUE + len(AMINO_ACIDS):
        return "a token stands for no residue"
    return None


class Quarantine:
    """Gives a sound chain for each place of a split: the chain itself, or one of like length for a damaged one.

    What stands in is a function of the store's bytes, the seed, the epoch and the place: neither the number of
    workers nor a restart changes it, nothing has to be saved, and the order of all other chains stays as it is.

    Every process that reads marks what it finds in shared memory, where :meth:`found` sees it.

    Args:
        store: Where the chains are.
        chains: Places in the store, in the split's order.
        seed: Key of the draws.
    """

    def __init__(self, store: ChainStore, chains: Int[np.ndarray, " c"], seed: int) -> None:
        self.store = store
        self.chains = chains
        self.seed = seed
        lengths = store.lengths[chains]
        self._by_length = np.argsort(lengths, kind="stable")
        self._rank = np.argsort(self._by_length, kind="stable")
        self._marks: Tensor = torch.zeros(len(chains), dtype=torch.uint8).share_memory_()

    def sound(self, epoch: int, index: int) -> int:
        """The place in the split of the chain to use for place ``index``.

        Raises:
            StoreError: no chain of the split is sound.
        """
        if self._is_sound(index):
            return index
        for other in self._others(epoch, index):
            if self._is_sound(other):
                return other
        raise StoreError(f"store {self.store.path} is damaged: no chain of the split is sound; make it again")

    def found(self) -> int:
        """How many damaged chains the processes have met so far; costs microseconds."""
        return int(self._marks.sum())

    def damaged(self) -> dict[str, str]:
        """Name and problem of each that was met."""
        chains = [int(self.chains[i]) for i in torch.nonzero(self._marks).flatten().tolist()]
        return {self.store.name(c): problem(self.store, c) or "damaged when it was read" for c in chains}

    def _is_sound(self, index: int) -> bool:
        bad = problem(self.store, int(self.chains[index])) is not None
        if bad:
            self._marks[index] = 1
        return not bad

    def _others(self, epoch: int, index: int) -> Iterator[int]:
        place, count = int(self._rank[index]), len(self.chains)
        near = np.array([d for k in range(1, _NEAR + 1) for d in (-k, k)])
        key = (_STAND_IN, self.seed, epoch, int(self.chains[index]))
        far = (d for k in range(_NEAR + 1, count) for d in (-k, k))
        for step in (*np.random.default_rng(key).permutation(near).tolist(), *far):
            if 0 <= place + step < count:
                yield int(self._by_length[place + step])
