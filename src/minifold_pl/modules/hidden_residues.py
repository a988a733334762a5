"""Residues that a model is shown as MASK among others, to be guessed from the rest of the sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from minifold_pl.constants import AMINO_ACIDS, CLS, EOS, FIRST_RESIDUE, MASK, NO_LABEL, PAD
from minifold_pl.diffusion.draws import keyed_generator


def amino_acids(tokens: Int[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """Which tokens are one of the 20 amino acids."""
    return (tokens >= FIRST_RESIDUE) & (tokens < FIRST_RESIDUE + len(AMINO_ACIDS))


def without_residues(tokens: Int[Tensor, "b n"]) -> Bool[Tensor, " b"]:
    """Chains of which no residue is shown, only MASK: the null condition."""
    return (tokens.eq(MASK) | tokens.eq(PAD) | tokens.eq(CLS) | tokens.eq(EOS)).all(-1)


def hide_residues(
    tokens: Int[Tensor, "b n"], share: float, names: Sequence[str], *key: int | str
) -> Int[Tensor, "b n"]:
    """``tokens`` with MASK in place of about ``share`` of the amino acids, drawn from ``key`` and the chain's name.

    A chain's draw depends neither on the rest of the batch nor on padding.
    """
    drawn = torch.ones(tokens.shape)
    for row, name, length in zip(drawn, names, tokens.ne(PAD).sum(-1).tolist(), strict=True):
        row[:length] = torch.rand(length, generator=keyed_generator(*key, name))
    return tokens.masked_fill((drawn < share).to(tokens.device) & amino_acids(tokens), MASK)


def hidden_residues(shown: Int[Tensor, "b n"], true: Int[Tensor, "b n"]) -> Int[Tensor, "b l"]:
    """The amino acid, 0…19, where ``shown`` has MASK in its place, ``NO_LABEL`` elsewhere.

    Nothing is to be guessed of a chain whose residues are MASK one and all: that is the null condition.
    """
    hidden = shown.eq(MASK) & amino_acids(true)
    seen = amino_acids(shown).any(-1, keepdim=True)
    return torch.where(hidden & seen, true - FIRST_RESIDUE, NO_LABEL)[:, 1:-1]
