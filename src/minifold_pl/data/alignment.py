"""Sequence identity of two chains, by exact global alignment."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

import gemmi

from minifold_pl.constants import ONE_TO_THREE

MIN_OVERLAP_SCORE: Final = 30
"""Half bits. Without it a short chain that is stretched over a much longer one often reaches 40 % by chance: of
14,368 such pairs among 1,477 CATH domains, 13,925 are of different topology; with it 3 of 434 are."""

_SCORING: Final = gemmi.AlignmentScoring("b")  # BLOSUM62, gaps 10 + 1 a residue
_GAP_OPEN: Final = 10
_OPERATION: Final = re.compile(r"(\d+)([MID])")
_OTHER: Final = "UNK"


class Alignment(NamedTuple):
    """What :func:`align` finds."""

    matches: int
    """Identical residues."""
    shorter: int
    """Residues of the shorter chain."""
    score: int
    """Score of the alignment without its end gaps, half bits."""

    @property
    def identity(self) -> float:
        """Identical residues ÷ residues of the shorter chain; 0 where the score is no better than chance."""
        return self.matches / self.shorter if self.score >= MIN_OVERLAP_SCORE else 0.0


def align(one: str, other: str) -> Alignment:
    """Align two chains from end to end (Needleman & Wunsch, affine gaps, BLOSUM62).

    0.3 ms for two chains of 150 and 330 residues.
    """
    result = gemmi.align_string_sequences(_residues(one), _residues(other), [], _SCORING)
    operations = _OPERATION.findall(result.cigar_str())
    ends = [int(n) for n, kind in {0: operations[0], -1: operations[-1]}.values() if kind != "M"]
    return Alignment(
        matches=result.match_count,
        shorter=min(len(one), len(other)),
        score=result.score + sum(_GAP_OPEN + n for n in ends),
    )


@lru_cache(maxsize=4096)  # a query is aligned to many
def _residues(sequence: str) -> list[str]:
    """The names under which gemmi knows BLOSUM62's residues."""
    return [ONE_TO_THREE.get(letter, _OTHER) for letter in sequence]
