"""Which residue of one chain is which of another: by number, or where the numbers mislead, by sequence.

Two files of one protein often disagree about numbers: a prediction counts from 1, a PDB entry as its author
does, with gaps and insertion codes. Numbers say most about what is meant (the TM-score program knows nothing
else), so they hold until the sequences contradict them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import gemmi
import numpy as np
from jaxtyping import Int

BY_NUMBER: Final = "number"
BY_ALIGNMENT: Final = "alignment"
AUTO: Final = "auto"
WAYS: Final = (AUTO, BY_NUMBER, BY_ALIGNMENT)

MORE_IDENTICAL: Final = (3, 0.05)
"""Numbers mislead when an alignment lays this many more identical residues on each other: at least 3, and one
in twenty of the shorter chain. A few mutations never reach it, a stretch that is numbered otherwise does."""
RELATED: Final = 0.4
"""An alignment is believed when this share of the shorter chain is identical: of 400 pairs of unrelated real
chains the most alike reached 0.33."""
OVERLAP: Final = (20, 0.9)
"""Or, for two pieces of a protein that share little, this many identical residues, and this share of the aligned."""
DOUBTFUL: Final = 0.9
"""Below this share of identical residues a match deserves a second look, whichever way it was made."""

UNKNOWN: Final = "X"
_CIGAR: Final = re.compile(r"(\d+)([MID])")
_MATCH, _MISMATCH, _GAP = 5, -1, -12
"""One protein in two files, not distant relatives: identity counts. A gap costs the same at any length, since
missing loops and ends are of any length, too."""


@dataclass(frozen=True, kw_only=True)
class ResidueMatch:
    """Pairs of places, in ascending order in both chains when aligned."""

    way: Literal["number", "alignment"]
    """How the residues were matched."""
    pred: Int[np.ndarray, " m"] = field(repr=False)
    """Places in the first chain, from 0."""
    ref: Int[np.ndarray, " m"] = field(repr=False)
    """Their partners in the second."""
    identical: int
    """Pairs of the same amino acid; unknown ones (``X``) are not counted."""
    comparable: int
    """Pairs of which both amino acids are known."""

    def __len__(self) -> int:
        return len(self.pred)

    @property
    def identity(self) -> float:
        """Share of identical residues among the comparable; NaN where there are none."""
        return self.identical / self.comparable if self.comparable else float("nan")

    @property
    def doubtful(self) -> bool:
        """The sequences contradict the match, or cannot support it."""
        return not self.identity >= DOUBTFUL


def match_residues(
    pred_sequence: str,
    pred_ids: Sequence[str],
    ref_sequence: str,
    ref_ids: Sequence[str],
    *,
    way: str = AUTO,
) -> ResidueMatch:
    """Pair the residues of two chains.

    ``auto`` pairs equal numbers (insertion codes included), unless aligning the sequences lays clearly more
    identical residues on each other (``MORE_IDENTICAL``) and shows the two to be related (``RELATED``).
    Chains of different sequence but equal numbers (designs, poly-alanine models) so keep their numbers, and
    :attr:`ResidueMatch.doubtful` says that the letters do not vouch for it.

    Args:
        pred_sequence: One-letter codes.
        pred_ids: Residue numbers with insertion codes, ``12A``; an empty one matches nothing; an empty
            sequence of them counts from 1. Of a number that occurs twice the first holds.
        ref_sequence: As of the first chain.
        ref_ids: As of the first chain.
        way: ``auto``, ``number`` or ``alignment``.

    Raises:
        ValueError: another way, or not one number per residue.
    """
    if way not in WAYS:
        raise ValueError(f"no way to match residues is called {way!r}; there are {', '.join(WAYS)}")
    pred_ids, ref_ids = _numbers(pred_sequence, pred_ids), _numbers(ref_sequence, ref_ids)
    if way == BY_ALIGNMENT:
        return _align(pred_sequence, ref_sequence)
    numbered = _by_number(pred_sequence, pred_ids, ref_sequence, ref_ids)
    shorter = min(len(pred_sequence), len(ref_sequence))
    needed = numbered.identical + max(MORE_IDENTICAL[0], MORE_IDENTICAL[1] * shorter)
    if way == BY_NUMBER or needed > shorter:
        return numbered
    aligned = _align(pred_sequence, ref_sequence)
    related = aligned.identical >= RELATED * shorter or (
        aligned.identical >= OVERLAP[0] and aligned.identity >= OVERLAP[1]
    )
    return aligned if related and aligned.identical >= needed else numbered


def _numbers(sequence: str, ids: Sequence[str]) -> Sequence[str]:
    if not ids:
        return [str(place) for place in range(1, len(sequence) + 1)]
    if len(ids) != len(sequence):
        raise ValueError(f"{len(ids)} residue numbers for {len(sequence)} residues")
    return ids


def _by_number(
    pred_sequence: str, pred_ids: Sequence[str], ref_sequence: str, ref_ids: Sequence[str]
) -> ResidueMatch:
    place_of: dict[str, int] = {}
    for place, number in enumerate(pred_ids):
        place_of.setdefault(number, place)
    place_of.pop("", None)
    pairs: dict[int, int] = {}
    for place, number in enumerate(ref_ids):
        if number in place_of:
            pairs.setdefault(place_of[number], place)
    return _matched(BY_NUMBER, list(pairs), list(pairs.values()), pred_sequence, ref_sequence)


def _align(pred_sequence: str, ref_sequence: str) -> ResidueMatch:
    scoring = gemmi.AlignmentScoring()
    scoring.match, scoring.mismatch, scoring.gapo, scoring.gape = _MATCH, _MISMATCH, _GAP, 0
    found = gemmi.align_string_sequences(list(pred_sequence), list(ref_sequence), [], scoring)
    runs: list[tuple[int, int, int]] = []
    p = r = 0
    for count, kind in _CIGAR.findall(found.cigar_str()):
        n = int(count)
        if kind == "M":
            runs.append((p, r, n))
        p += n * (kind != "D")
        r += n * (kind != "I")

    runs = _without_stray_ends(runs, pred_sequence, ref_sequence)
    pred_places = [place for pred, _, n in runs for place in range(pred, pred + n)]
    ref_places = [place for _, ref, n in runs for place in range(ref, ref + n)]
    return _matched(BY_ALIGNMENT, pred_places, ref_places, pred_sequence, ref_sequence)


def _without_stray_ends(
    runs: list[tuple[int, int, int]], pred_sequence: str, ref_sequence: str
) -> list[tuple[int, int, int]]:
    """Runs (place, place, length) whose first and last are worth the gap behind them.

    The aligner charges for gaps at the ends as for others, so that it tears residues off at no further cost
    and lays them on like ones far away. Those are given up, and the run next to them grows back.
    """

    def worth(run: tuple[int, int, int]) -> int:
        pred, ref, n = run
        same = sum(pred_sequence[pred + i] == ref_sequence[ref + i] for i in range(n))
        return same * _MATCH + (n - same) * _MISMATCH + _GAP

    runs = list(runs)
    torn = False
    while len(runs) > 1 and worth(runs[0]) <= 0:
        torn = bool(runs.pop(0))
    if torn:
        pred, ref, n = runs[0]
        while pred and ref and pred_sequence[pred - 1] == ref_sequence[ref - 1]:
            pred, ref, n = pred - 1, ref - 1, n + 1
        runs[0] = (pred, ref, n)
    torn = False
    while len(runs) > 1 and worth(runs[-1]) <= 0:
        torn = bool(runs.pop())
    if torn:
        pred, ref, n = runs[-1]
        while pred_sequence[pred + n : pred + n + 1] == ref_sequence[ref + n : ref + n + 1] != "":
            n += 1
        runs[-1] = (pred, ref, n)
    return runs


def _matched(
    way: Literal["number", "alignment"],
    pred: list[int],
    ref: list[int],
    pred_sequence: str,
    ref_sequence: str,
) -> ResidueMatch:
    letters = [(pred_sequence[p], ref_sequence[r]) for p, r in zip(pred, ref, strict=True)]
    known = [pair for pair in letters if UNKNOWN not in pair]
    return ResidueMatch(
        way=way,
        pred=np.array(pred, dtype=np.int64),
        ref=np.array(ref, dtype=np.int64),
        identical=sum(a == b for a, b in known),
        comparable=len(known),
    )
