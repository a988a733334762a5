import itertools

import numpy as np
import pytest

from minifold_pl.constants import AMINO_ACIDS
from minifold_pl.data.alignment import align
from minifold_pl.data.chain_set import read_chain_set
from minifold_pl.data.kmer_search import KmerSearch


def _random(rng, length):
    return "".join(rng.choice(list(AMINO_ACIDS), length))


def _mutated(rng, sequence, share):
    letters = np.array(list(sequence))
    places = rng.permutation(len(letters))[: round(share * len(letters))]
    letters[places] = rng.choice(list(AMINO_ACIDS), len(places))
    return "".join(letters)


def test_a_mutated_copy_is_found_among_strangers_wherever_it_lies():
    rng = np.random.default_rng(0)
    query = _random(rng, 120)
    others = [_random(rng, 150) for _ in range(50)]
    relative = _random(rng, 40) + _mutated(rng, query, 0.4) + _random(rng, 30)
    search = KmerSearch([*others[:30], relative, *others[30:]])
    assert search.candidates(query).tolist() == [30]
    assert search.candidates(query, before=30).tolist() == []
    assert search.candidates(query, before=31).tolist() == [30]


def test_strangers_are_rarely_candidates():
    rng = np.random.default_rng(1)
    sequences = [_random(rng, 200) for _ in range(100)]
    search = KmerSearch(sequences)
    found = sum(len(search.candidates(s)) - 1 for s in sequences)
    assert found < 0.01 * 100 * 99


def test_tags_and_unknown_residues_make_no_candidate():
    rng = np.random.default_rng(2)
    one, other = (_random(rng, 60) + "H" * 10 + "X" * 40 for _ in range(2))
    assert KmerSearch([one]).candidates(other).tolist() == []


@pytest.mark.parametrize("sequence", ["", "A", "ACDEFG", "XXXXXXXXXXXX"])
def test_a_sequence_of_any_length_may_ask_and_be_asked(sequence):
    search = KmerSearch([sequence, "ACDEFGHIKLMNPQRSTVWY" * 3])
    assert set(search.candidates(sequence).tolist()) <= {0, 1}
    assert 1 in search.candidates("ACDEFGHIKLMNPQRSTVWY" * 2)


@pytest.mark.slow
def test_the_share_of_real_relatives_that_is_found_is_what_the_docs_say(real_data):
    records = [r for r in read_chain_set(real_data / "domains.jsonl.gz") if hasattr(r, "sequence")]
    sequences = list(dict.fromkeys(r.sequence for r in records))[:700]
    search = KmerSearch(sequences)
    found = {(i, j) for i, s in enumerate(sequences) for j in search.candidates(s, i).tolist()}
    identity = {
        (i, j): align(sequences[i], sequences[j]).identity for j, i in itertools.combinations(range(700), 2)
    }
    relatives = [pair for pair, share in identity.items() if share >= 0.4]
    assert len(relatives) > 30
    assert np.mean([pair in found for pair in relatives]) >= 0.9
    assert all(pair in found for pair in relatives if identity[pair] >= 0.6)
