"""Batches of like lengths, in an order that is a pure function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from jaxtyping import Int

from minifold_pl.data.collate import PAD_MULTIPLE

_CHUNK_STEPS: Final = 64
"""Steps whose chains are sorted together. More of them means less padding and batches that vary less between
epochs."""


class LengthBucketBatchSampler:
    """Yields batches of keys ``(epoch, index)``, each of chains of like padded length.

    The chains are shuffled, cut into chunks of 64 steps, sorted by padded length within a chunk (ties stay
    shuffled), cut into batches, and the batches are shuffled; every index occurs once an epoch. The epoch
    travels inside the keys, so that workers that outlive an epoch need not be told.

    With several ranks, batches that are next to each other in length go to the same step, so that no rank
    waits long for another; all ranks have the same number of batches. Where it does not divide, up to
    ``world - 1`` batches are used twice (as ``DistributedSampler`` does with chains). In a fixed order
    :meth:`repeats` tells which they are, so that no chain need count twice in a mean.

    Lightning calls ``set_epoch`` on a batch sampler's ``sampler``: hence ``self.sampler = self``. Use it with
    ``Trainer(use_distributed_sampler=False)``.

    Args:
        lengths: Residues of each chain.
        batch_size: Chains a batch and rank; the last one may be smaller.
        shuffle: False fixes the order for all epochs (keys say epoch 0): longest first, so that what does
            not fit into memory says so at once.
        seed: Key of the order.
        rank: This process, from 0.
        world: Number of processes.
        drop_last: Leave out what does not fill a batch on every rank, instead of a smaller or repeated batch.
        pad_multiple: What :func:`minifold_pl.data.collate.collate` pads to.

    Raises:
        ValueError: a value out of range, or no batch left.
    """

    def __init__(
        self,
        lengths: Sequence[int] | Int[np.ndarray, " c"],
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
        pad_multiple: int = PAD_MULTIPLE,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; give 1 or more")
        if not 0 <= rank < world:
            raise ValueError(f"rank is {rank} and world {world}; ranks run from 0 to world - 1")
        if seed < 0:
            raise ValueError(f"seed is {seed}; give 0 or more")
        self._lengths = np.asarray(lengths, dtype=np.int64)
        # Not named as BatchSampler names them, or Lightning would try to make another sampler from them.
        self._chains_per_batch = batch_size
        self._leave_out = drop_last
        self._shuffle = shuffle
        self._seed = seed
        self._rank = rank
        self._world = world
        self._padded = -(-self._lengths // pad_multiple) * pad_multiple
        self.epoch = 0
        self._start = 0
        self.sampler = self
        if not len(self):
            raise ValueError(
                f"{len(self._lengths)} chains make no batch of {batch_size} on {world} ranks; "
                "use fewer ranks, a smaller batch_size, or drop_last=False"
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; ignored when not shuffling."""
        if self._shuffle and epoch != self.epoch:
            self.epoch, self._start = epoch, 0

    def start_at(self, epoch: int, batch: int) -> None:
        """The next iteration is that of ``epoch`` without its first ``batch`` batches; later ones are whole.

        Raises:
            ValueError: the epoch has fewer batches.
        """
        if not 0 <= batch <= len(self):
            raise ValueError(f"batch {batch} of an epoch with {len(self)} batches")
        self.set_epoch(epoch)
        self._start = batch

    def __len__(self) -> int:
        """Batches of one rank in a whole epoch."""
        places = self._chains_per_batch * self._world
        return len(self._lengths) // places if self._leave_out else -(-len(self._lengths) // places)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, start = self.epoch, self._start
        # Once: the next iteration begins at the first batch again.
        self._start = 0
        for step in self._steps(epoch)[start:]:
            yield [(epoch, int(index)) for index in step[self._rank]]

    def repeats(self, batch: int) -> bool:
        """Whether this rank's ``batch``-th batch (from 0) is one that another step or rank has, too.

        Without it the batches of all ranks are those of one process, and every chain is in one of them.

        Raises:
            ValueError: the order is shuffled: training takes all batches as they come.
        """
        if self._shuffle:
            raise ValueError("which batches are repeated is told of a fixed order only; use shuffle=False")
        return batch * self._world + self._rank >= -(-len(self._lengths) // self._chains_per_batch)

    @property
    def padding_share(self) -> float:
        """Share of residue places that are padding, in this rank's batches of the current epoch."""
        batches = [step[self._rank] for step in self._steps(self.epoch)]
        places = sum(len(batch) * int(self._padded[batch].max()) for batch in batches)
        return 1.0 - sum(int(self._lengths[batch].sum()) for batch in batches) / places

    def _steps(self, epoch: int) -> list[list[np.ndarray]]:
        """The batches of every rank, step by step."""
        if not self._shuffle:
            order = np.argsort(-self._padded, kind="stable")
            if self._leave_out:
                order = order[: len(self) * self._world * self._chains_per_batch]
            fixed = self._cut(order)
            return self._grouped(fixed, np.arange(len(fixed)))
        rng = np.random.default_rng((self._seed, epoch))
        order = rng.permutation(len(self._lengths))
        # The incomplete batch is set aside before sorting: else it would always hold the longest chains.
        full = len(order) - len(order) % self._chains_per_batch
        if self._leave_out:
            full = len(self) * self._world * self._chains_per_batch
        chunk = self._chains_per_batch * self._world * _CHUNK_STEPS
        batches: list[np.ndarray] = []
        for first in range(0, full, chunk):
            members = order[first : min(first + chunk, full)]
            batches += self._cut(members[np.argsort(self._padded[members], kind="stable")])
        if full < len(order) and not self._leave_out:
            batches.append(order[full:])
        steps = self._grouped(batches, rng.permutation(len(batches)))
        return [steps[i] for i in rng.permutation(len(steps))]

    def _cut(self, order: np.ndarray) -> list[np.ndarray]:
        size = self._chains_per_batch
        return [order[first : first + size] for first in range(0, len(order), size)]

    def _grouped(self, batches: list[np.ndarray], again: np.ndarray) -> list[list[np.ndarray]]:
        """As many neighbouring batches to a step as there are ranks; ``again`` says which to repeat."""
        needed = len(self) * self._world
        repeated = [batches[again[i % len(again)]] for i in range(needed - len(batches))]
        batches = (batches + repeated)[:needed]
        return [batches[first : first + self._world] for first in range(0, needed, self._world)]
