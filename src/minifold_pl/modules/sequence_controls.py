"""Wrong sequences for right structures: a model that does not mind them does not read the sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Int
from torch import Tensor

from minifold_pl.data.tokenizer import null_tokens
from minifold_pl.diffusion.draws import keyed_generator
from minifold_pl.types import ProteinBatch

REAL: Final = "real"
SHUFFLED: Final = "shuffled"
MASKED: Final = "MASK"
OTHER: Final = "another chain's"


def shuffled_tokens(batch: ProteinBatch, seed: int) -> Int[Tensor, "b n"]:
    """Each chain's own residues in an order drawn from ``seed`` and its name: same composition, no order.

    The order differs from the real one wherever two residues do.
    """
    rows = []
    for row, name, length in zip(batch.tokens, batch.names, batch.lengths.tolist(), strict=True):
        residues = row[1 : length + 1].cpu()
        generator = keyed_generator(seed, "shuffled_sequence", name)
        rows.append(_shuffled(residues, generator))
    return with_residues(batch, rows)


def masked_tokens(batch: ProteinBatch) -> Int[Tensor, "b n"]:
    """The null condition: every residue MASK."""
    return null_tokens(batch.tokens)


def other_tokens(
    batch: ProteinBatch, pools: Sequence[Sequence[Int[Tensor, " m"]]], seed: int
) -> Int[Tensor, "b n"]:
    """A piece of another chain's sequence for each chain, as long as the chain.

    Args:
        batch: The chains.
        pools: For each chain the residue tokens of those that may stand in for it, not empty.
        seed: Key of the draw, with the chain's name. It is among the sequences that are long enough; where there is
            none, sequences are laid end to end.

    Raises:
        ValueError: an empty pool or sequence.
    """
    rows = []
    for name, length, pool in zip(batch.names, batch.lengths.tolist(), pools, strict=True):
        if not pool or any(len(sequence) == 0 for sequence in pool):
            raise ValueError(f"no other chain's sequence for {name}: give a data set of at least two chains")
        generator = keyed_generator(seed, "other_sequence", name)
        rows.append(_piece(pool, length, generator))
    return with_residues(batch, rows)


def with_residues(batch: ProteinBatch, rows: Sequence[Int[Tensor, " m"]]) -> Int[Tensor, "b n"]:
    """The batch's tokens with other residues between CLS and EOS, one row a chain, each of its length."""
    tokens = batch.tokens.clone()
    for row, residues, length in zip(tokens, rows, batch.lengths.tolist(), strict=True):
        row[1 : length + 1] = residues.to(row)
    return tokens


def _shuffled(residues: Int[Tensor, " m"], generator: torch.Generator) -> Int[Tensor, " m"]:
    drawn = residues[torch.randperm(len(residues), generator=generator)]
    # A short chain may come out as it was; a turn by one place then differs, unless all residues are the same.
    return drawn.roll(1) if torch.equal(drawn, residues) else drawn


def _piece(pool: Sequence[Tensor], length: int, generator: torch.Generator) -> Int[Tensor, " m"]:
    long_enough = [sequence for sequence in pool if len(sequence) >= length]
    found = _pick(long_enough or pool, generator)
    while len(found) < length:
        found = torch.cat([found, _pick(pool, generator)])
    start = int(torch.randint(len(found) - length + 1, (), generator=generator))
    return found[start : start + length]


def _pick(pool: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    return pool[int(torch.randint(len(pool), (), generator=generator))]
