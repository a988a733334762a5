import numpy as np
import pytest

from minifold_pl.constants import AMINO_ACIDS
from minifold_pl.data.alignment import align
from minifold_pl.data.kmer_search import blosum62

CORE = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDG"


def test_a_chain_is_identical_to_itself_and_to_the_longer_one_that_holds_it():
    assert align(CORE, CORE).identity == 1.0
    longer = "GSHMSSAAWWPPLDE" * 4 + CORE + "GGSSDEEWKPLR" * 4
    assert align(CORE, longer).identity == align(longer, CORE).identity == 1.0


def test_the_score_is_that_of_blosum62_without_end_gaps():
    scores = blosum62()
    own = sum(scores[4 + AMINO_ACIDS.index(a), 4 + AMINO_ACIDS.index(a)] for a in CORE)
    assert align(CORE, CORE).score == own
    assert align(CORE, "GSHM" * 10 + CORE).score == own
    # A gap of three inside costs 10 + 3.
    without = CORE[:20] + CORE[23:]
    lost = sum(scores[4 + AMINO_ACIDS.index(a), 4 + AMINO_ACIDS.index(a)] for a in CORE[20:23])
    assert align(CORE, without).score == own - lost - 13


def test_one_changed_residue_lowers_the_identity_by_one_residue():
    assert align(CORE, "W" + CORE[1:]).identity == pytest.approx(1 - 1 / len(CORE))


def test_a_short_chain_stretched_over_a_long_one_is_no_relative():
    rng = np.random.default_rng(0)
    letters = list(AMINO_ACIDS)
    identities = [
        align("".join(rng.choice(letters, 30)), "".join(rng.choice(letters, 600))) for _ in range(30)
    ]
    assert any(a.matches / a.shorter >= 0.4 for a in identities)  # what the score is for
    assert not any(a.identity >= 0.4 for a in identities)


def test_blosum62_has_the_published_values():
    scores = blosum62()  # Henikoff & Henikoff 1992, as NCBI distributes it

    def score(a, b):
        return scores[4 + AMINO_ACIDS.index(a), 4 + AMINO_ACIDS.index(b)]

    published = {
        "WW": 11,
        "CC": 9,
        "AA": 4,
        "IV": 3,
        "DE": 2,
        "LI": 2,
        "KR": 2,
        "WC": -2,
        "FY": 3,
        "GI": -4,
        "PW": -4,
    }
    assert {pair: score(*pair) for pair in published} == published
    np.testing.assert_array_equal(scores, scores.T)
