from __future__ import annotations

import numpy as np
import pytest

from minifold_pl.constants import AMINO_ACIDS
from minifold_pl.data.synthetic_sequence import PREFERENCES, draw_sequence, identity

CHARGE = {"D": -1, "E": -1, "K": 1, "R": 1}


def plain_identity(a, b, gap=2):
    """The alignment of the docstring, cell by cell."""
    cell = [[(0, 0)] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            same = a[i - 1] == b[j - 1]
            (s, m), (u, p), (v, q) = cell[i - 1][j - 1], cell[i - 1][j], cell[i][j - 1]
            cell[i][j] = max((s + same, m + same), (u - gap, p), (v - gap, q))
    ends = [row[-1] for row in cell] + cell[-1]
    return max(ends)[1] / min(len(a), len(b))


def test_identity_is_that_of_the_best_alignment():
    rng = np.random.default_rng(0)
    # four letters: enough matches that gaps pay, now and then
    sequences = ["".join(rng.choice(list("ACDE"), rng.integers(5, 40))) for _ in range(30)]
    for sequence in sequences[:5]:
        expected = [plain_identity(sequence, other) for other in sequences]
        np.testing.assert_allclose(identity(sequence, sequences), expected)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ("MKVLAGTREW", 1.0),
        ("KVLAGTRE", 1.0),  # a piece of it: gaps at the ends are free
        ("MKVLATREW", 1.0),  # a deletion: the gap costs 2 of 9 matches, and without it there are 5
        ("HHHHHHHHHH", 0.0),
    ],
)
def test_identity_of_known_pairs(other, expected):
    assert identity("MKVLAGTREW", [other])[0] == pytest.approx(expected)


def test_identity_is_symmetric():
    rng = np.random.default_rng(1)
    a, b = ("".join(rng.choice(list(AMINO_ACIDS), n)) for n in (30, 44))
    assert identity(a, [b])[0] == identity(b, [a])[0]


def test_too_long_a_sequence_is_refused():
    with pytest.raises(ValueError, match="128 residues"):
        identity("A" * 128, ["ACD"])


def test_preferences_name_amino_acids_only():
    assert {letter for table in PREFERENCES.values() for letter in table} <= set(AMINO_ACIDS)


def test_partners_of_opposite_charge_are_drawn_more_often():
    rng = np.random.default_rng(0)
    uniform = np.zeros((2, 20))
    uniform[:, [AMINO_ACIDS.index(a) for a in "DEKR"]] = 0.25
    met = [draw_sequence(uniform, np.array([-1, 0]), rng) for _ in range(400)]
    alone = [draw_sequence(uniform, np.array([-1, -1]), rng) for _ in range(400)]
    opposite = [np.mean([CHARGE[a] != CHARGE[b] for a, b in pairs]) for pairs in (met, alone)]
    assert opposite[0] > 0.85
    assert 0.4 < opposite[1] < 0.6
