import itertools
from dataclasses import replace

import numpy as np
import pytest

from minifold_pl.constants import AMINO_ACIDS
from minifold_pl.data.alignment import align
from minifold_pl.data.chain_set import read_chain_set
from minifold_pl.data.leakage import QUICK, search_size, similar_pairs
from minifold_pl.data.records import ChainRecord
from minifold_pl.data.store import ChainStore, write_store


def _random(rng, length):
    return "".join(rng.choice(list(AMINO_ACIDS), length))


def _mutated(rng, sequence, share):
    letters = np.array(list(sequence))
    places = rng.permutation(len(letters))[: round(share * len(letters))]
    letters[places] = rng.choice(list(AMINO_ACIDS), len(places))
    return "".join(letters)


@pytest.fixture
def store(make_record, make_store):
    rng = np.random.default_rng(0)
    one, two, three = (_random(rng, 100) for _ in range(3))
    chains = [
        ("train", one), ("train", two), ("train", _random(rng, 100)),
        ("validation", one), ("validation", _mutated(rng, two, 0.3)), ("validation", _random(rng, 90)),
        ("test", three), ("test", _mutated(rng, three, 0.1)), ("test", _mutated(rng, one, 0.4)),
        ("none", one),
    ]  # fmt: skip
    return make_store(
        *(make_record(f"{s}{i}", len(q), sequence=q, split=s) for i, (s, q) in enumerate(chains))
    )


def test_pairs_across_splits_are_counted_and_those_within_or_without_split_are_not(store):
    found = similar_pairs(store, search="kmer")
    assert found.pairs == {"train–test": 1, "train–validation": 2, "validation–test": 1}
    assert found.held_out_chains_near_training == 3
    assert [(p.one, p.other) for p in found.worst[:2]] == [
        ("train0", "validation3"),
        ("train1", "validation4"),
    ]
    assert found.worst[0].identity == 1.0
    assert 0.6 < found.worst[1].identity < 0.8
    assert "shared words" in found.search


def test_a_higher_threshold_finds_fewer_pairs(store):
    assert similar_pairs(store, search="kmer", identity=0.9).pairs == {"train–validation": 1}


def test_a_store_of_one_split_leaks_nothing(make_record, make_store):
    found = similar_pairs(make_store(make_record("a", 50), make_record("b", 50)), search="kmer")
    assert (found.pairs, found.held_out_chains_near_training, found.worst) == ({}, 0, [])


def test_the_size_of_the_search_is_that_of_held_out_chains_by_all(store):
    assert search_size(store) == (3 * 100 - 10 + 3 * 100) * (9 * 100 - 10)
    assert search_size(store) < QUICK


def test_all_real_pairs_of_half_identity_or_more_are_found(real_data, tmp_path):
    rng = np.random.default_rng(0)
    records = [r for r in read_chain_set(real_data / "ci_small.jsonl.gz") if isinstance(r, ChainRecord)]
    # Relatives of known chains, put into another split: what a careless split would do.
    copies = [
        replace(r, name=f"copy of {r.name}", sequence=_mutated(rng, r.sequence, share), split="test")
        for r, share in zip(records[:40], np.linspace(0.1, 0.55, 40), strict=True)
    ]
    first = [replace(r, split="train") for r in records[:40]]
    write_store(tmp_path / "leaky", [*first, *copies])
    exact = {
        (a.name, b.name)
        for a, b in itertools.product(first, copies)
        if align(a.sequence, b.sequence).identity >= 0.5
    }
    assert len(exact) > 20
    found = similar_pairs(ChainStore.open(tmp_path / "leaky"), identity=0.5, search="kmer")
    assert found.pairs == {"train–test": len(exact)}
