import numpy as np
import pytest

from minifold_pl.data.structure_sequence import placed_between

FULL = "MKVLAG"


def _places(observed, ids, missing):
    numbers = np.array([number for number, _ in ids], dtype=np.int32)
    insertions = np.array([ord(code) if code else 0 for _, code in ids], dtype=np.uint8)
    return placed_between(observed, numbers, insertions, missing, FULL)


def test_residues_called_missing_fill_the_rest():
    ids = [(-1, ""), (0, ""), (3, "A"), (4, "")]
    assert _places("MKAG", ids, [("3", "L"), ("2", "V")]) == [0, 1, 4, 5]


@pytest.mark.parametrize(
    ("observed", "ids", "missing"),
    [
        ("MKAG", [(1, ""), (2, ""), (5, ""), (6, "")], [("3", "V")]),  # one too few
        ("MKAG", [(1, ""), (2, ""), (5, ""), (6, "")], [("3", "V"), ("4", "W")]),  # of another sequence
        ("KMAG", [(2, ""), (1, ""), (5, ""), (6, "")], [("3", "V"), ("4", "L")]),  # not in the file's order
        ("MKAG", [(1, ""), (2, ""), (5, "#"), (6, "")], [("3", "V"), ("4", "L")]),  # no insertion code
        ("MKAG", [(-(2**31), ""), (2, ""), (5, ""), (6, "")], [("3", "V"), ("4", "L")]),  # no number
    ],
)
def test_they_are_placed_nowhere_when_anything_disagrees(observed, ids, missing):
    assert _places(observed, ids, missing) is None
