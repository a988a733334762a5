import json

import numpy as np
import pytest

from minifold_pl.data.crops import crop_losses
from minifold_pl.data.leakage import similar_pairs
from minifold_pl.data.prepare import prepare
from minifold_pl.data.stats import stats_table, store_stats
from minifold_pl.data.store import ChainStore


@pytest.fixture
def store(make_record, make_store):
    coords = make_record("x", 20).coords.copy()
    coords[5] = np.nan
    ca_only = make_record("x", 12).coords.copy()
    ca_only[:, [0, 2, 3]] = np.nan
    return make_store(
        make_record("a", 20, coords=coords, cath=("1.10.1",), cluster="p"),
        make_record("b", 12, sequence="ACDEFGHIKXXX", cath=("3.40.1", "3.30.1"), breaks=(3,)),
        make_record("c", 12, sequence="ACDEFGHIKXXX", cluster="p", split="test", cath=("2.40.1",)),
        make_record("d", 12, coords=ca_only, cluster="q", split="validation"),
        make_record("e", 10, coords=np.full((10, 4, 3), np.nan, dtype=np.float32), split="validation"),
    )


def test_everything_is_counted(store):
    stats = store_stats(store)
    assert (stats.chains, stats.residues) == (5, 66)
    assert stats.split_sizes == {"train": 2, "validation": 2, "test": 1}
    assert stats.length_quantiles["100%"] == 20
    assert sum(stats.length_histogram.values()) == 5
    assert stats.missing_ca_share == 1 / 56  # of the chains with coordinates
    assert stats.missing_atoms == dict.fromkeys(("N", "CA", "C", "O"), 1 / 44)  # of those with more than Cα
    assert stats.sequence_only_chains == 1
    assert (stats.breaks, stats.chains_with_breaks) == (3, 2)  # two around the missing Cα, one given
    assert stats.unknown_letters == 6
    assert stats.ca_only_chains == 1
    assert stats.class_counts["train"] == {
        "Mainly Alpha": 1, "Mainly Beta": 0, "Alpha Beta": 1, "Few Secondary Structures": 0, "no label": 0,
    }  # fmt: skip
    assert stats.architectures == {"1.10": 1}
    assert stats.unseen_architectures == {"2.40": 1}


def test_leakage_is_found_by_cluster_and_by_sequence(store):
    leakage = store_stats(store).leakage
    assert leakage.clusters_across_splits == 1
    assert leakage.held_out_chains_near_training == 1
    assert leakage.same_sequence_as_training == 1


def test_leakage_by_cluster_is_unknown_where_no_cluster_is(make_record, make_store):
    stats = store_stats(make_store(make_record("a"), make_record("b", split="test", sequence="A" * 12)))
    assert stats.clusters is None
    assert stats.leakage.clusters_across_splits is None
    assert stats.leakage.same_sequence_as_training == 0
    assert "unknown by cluster" in stats_table(stats)


def test_the_table_fits_eighty_columns(store):
    stats = store_stats(
        store,
        similar=similar_pairs(store, search="kmer"),
        crops=[crop_losses(store, 8), crop_losses(store, 50)],
    )
    assert max(map(len, stats_table(stats).splitlines())) <= 110


def test_what_was_looked_for_is_shown_and_what_was_not_is_said(store):
    assert "similar sequences were not looked for; --leakage yes does it" in stats_table(store_stats(store))
    stats = store_stats(store, similar=similar_pairs(store, search="kmer"), crops=[crop_losses(store, 10)])
    table = stats_table(stats)
    assert "pairs across splits of 40% identity or more: train–test 1" in table
    assert "100%  b (train) – c (test)" in table
    assert "at 10 residues: 4 chains (100.0%) are cropped, 28.6% of all residues left out" in table
    assert json.loads(json.dumps(stats.as_dict()))["crops"][0]["max_length"] == 10


def test_real_chains_have_the_counts_of_their_readme(real_data, tmp_path):
    prepare(real_data / "ci_small.jsonl.gz", tmp_path / "store")
    stats = store_stats(ChainStore.open(tmp_path / "store"))
    # README: 192 clean short (≤ 128) labelled chains, one per cluster
    assert stats.chains == stats.clusters == 192
    assert stats.length_quantiles["100%"] <= 128
    assert stats.leakage.clusters_across_splits == 0
    assert sum(stats.split_sizes.values()) == 192
