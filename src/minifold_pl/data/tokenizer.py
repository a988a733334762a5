"""Amino-acid letters to tokens and back; the numbering is that of :mod:`minifold_pl.constants`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Int, UInt8

from minifold_pl.constants import (
    AMINO_ACIDS,
    CLS,
    EOS,
    FIRST_RESIDUE,
    MASK,
    PAD,
    UNK,
    VOCABULARY_SIZE,
)

if TYPE_CHECKING:  # preparing a store starts many processes that need no torch
    from torch import Tensor

UNKNOWN_LETTER: Final = "X"
MASK_LETTER: Final = "_"
"""How :func:`decode` shows a masked residue; no amino acid, so encoding it gives UNK."""

_TOKEN_OF_BYTE: Final = np.full(256, UNK, dtype=np.uint8)
for _token, _letter in enumerate(AMINO_ACIDS, start=FIRST_RESIDUE):
    _TOKEN_OF_BYTE[ord(_letter)] = _TOKEN_OF_BYTE[ord(_letter.lower())] = _token

_LETTER_OF_TOKEN: Final = {
    MASK: MASK_LETTER,
    UNK: UNKNOWN_LETTER,
    **dict(enumerate(AMINO_ACIDS, start=FIRST_RESIDUE)),
}
_BYTE_OF_TOKEN: Final = np.zeros(256, dtype=np.uint8)
for _token, _letter in _LETTER_OF_TOKEN.items():
    _BYTE_OF_TOKEN[_token] = ord(_letter)


def residue_tokens(sequence: str) -> UInt8[np.ndarray, " l"]:
    """One token a letter, upper or lower case; everything but the 20 amino acids becomes ``UNK``."""
    # "replace" turns any letter outside Latin-1 into one "?", so that the length is kept.
    letters = np.frombuffer(sequence.encode("latin-1", "replace"), dtype=np.uint8)
    return _TOKEN_OF_BYTE[letters]


def encode(sequence: str) -> Int[np.ndarray, " n"]:
    """CLS, one token a residue, EOS: ``n = l + 2``."""
    tokens = np.empty(len(sequence) + 2, dtype=np.int64)
    tokens[0], tokens[-1] = CLS, EOS
    tokens[1:-1] = residue_tokens(sequence)
    return tokens


def decode(tokens: Int[np.ndarray, " n"] | Int[Tensor, " n"]) -> str:
    """The residues' letters; CLS, EOS and PAD are left out, UNK is ``X`` and MASK is ``_``.

    Raises:
        ValueError: a token outside the vocabulary.
    """
    values = np.asarray(tokens)
    if values.size and not (values.min() >= 0 and values.max() < VOCABULARY_SIZE):
        raise ValueError(
            f"tokens run from {values.min()} to {values.max()}; the vocabulary has 0…{VOCABULARY_SIZE - 1}"
        )
    letters = _BYTE_OF_TOKEN[values]
    return letters[letters != 0].tobytes().decode("ascii")


def normalise(sequence: str) -> tuple[str, int]:
    """The sequence in upper case with ``X`` for every unknown letter, and how many of those there are."""
    tokens = residue_tokens(sequence)
    return _BYTE_OF_TOKEN[tokens].tobytes().decode("ascii"), int((tokens == UNK).sum())


def null_tokens(tokens: Int[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """The unconditional input: residues become MASK; CLS, EOS, PAD and so the attention mask stay."""
    kept = (tokens == PAD) | (tokens == CLS) | (tokens == EOS)
    return tokens.where(kept, MASK)
