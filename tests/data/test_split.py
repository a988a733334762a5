from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from minifold_pl.constants import AMINO_ACIDS
from minifold_pl.data.alignment import align
from minifold_pl.data.split import SplitFractions, assign_splits, topology
from minifold_pl.data.store import ChainStore, StoreWriter


@pytest.fixture(scope="module")
def families(make_record):
    """60 families of one to four relatives: 150 chains."""
    rng = np.random.default_rng(0)
    records = []
    for family in range(60):
        founder = rng.choice(list(AMINO_ACIDS), 50)
        for member in range(1 + family % 4):
            copy = founder[: 50 - member].copy()
            copy[rng.permutation(len(copy))[:8]] = rng.choice(list(AMINO_ACIDS), 8)
            records.append(make_record(f"{family}.{member}", len(copy), sequence="".join(copy), split="none"))
    return records


def test_relatives_are_in_one_split_and_the_shares_are_kept(families):
    made = assign_splits(families, search="kmer", seed=3)
    sizes = Counter(made.split_of.values())
    assert sizes == {"train": 120, "validation": 15, "test": 15}
    for family in range(60):
        names = [r.name for r in families if r.name.split(".")[0] == str(family)]
        assert len({made.split_of[name] for name in names}) == 1
        assert {made.cluster_of[name] for name in names} == {f"{family}.0"}  # the longest
    assert made.representatives == {f"{family}.0" for family in range(60)}
    assert made.notes[0] == "splits made by sequence cluster, seed 3: 60 clusters of 150 chains"


def test_splits_depend_on_the_seed_and_not_on_the_order_of_the_chains(families):
    made = assign_splits(families, search="kmer")
    assert assign_splits(families[::-1], search="kmer") == made
    assert assign_splits(families, search="kmer", seed=1).split_of != made.split_of


def test_a_large_family_is_trained_on(make_record):
    records = [make_record(f"big{i}", 40) for i in range(30)]  # one length, one name length: one sequence
    rng = np.random.default_rng(0)
    records += [
        make_record(f"x{i:04}", 40, sequence="".join(rng.choice(list(AMINO_ACIDS), 40))) for i in range(10)
    ]
    made = assign_splits(
        records, fractions=SplitFractions(train=0.5, validation=0.25, test=0.25), search="kmer"
    )
    assert {made.split_of[f"big{i}"] for i in range(30)} == {"train"}
    assert "test has 0 chains instead of 10: the other groups are too large for it" in made.notes


def test_a_single_family_is_all_trained_on(make_record):
    made = assign_splits([make_record(f"a{i}", 40) for i in range(10)], search="kmer")
    assert set(made.split_of.values()) == {"train"}


def test_topologies_are_in_one_split_even_through_a_chain_of_two_domains(make_record):
    records = [make_record(f"{t}.{i}", cath=(f"1.10.{t}.{i}",)) for t in range(40) for i in range(3)]
    records += [make_record("joins", cath=("1.10.0", "1.10.1")), make_record("unlabelled", cath=("1.10",))]
    made = assign_splits(records, "topology")
    for t in range(40):
        assert len({made.split_of[f"{t}.{i}"] for i in range(3)}) == 1
    assert made.split_of["0.0"] == made.split_of["1.0"] == made.split_of["joins"]
    assert made.split_of["unlabelled"] == "none"
    assert Counter(made.split_of.values())["test"] == 12
    assert made.cluster_of == {}
    assert "1 chains without a CATH topology are in no split" in made.notes
    with pytest.raises(ValueError, match="no chain has a CATH topology"):
        assign_splits([make_record("a")], "topology")


def test_what_cannot_be_split_is_refused(make_record):
    with pytest.raises(ValueError, match="no chain to split"):
        assign_splits([])
    with pytest.raises(ValueError, match="two chains are named 'a'"):
        assign_splits([make_record("a"), make_record("a")])
    with pytest.raises(ValueError, match="'fold' is none of cluster, topology"):
        assign_splits([make_record("a")], "fold")
    with pytest.raises(ValueError, match="sum to 1"):
        SplitFractions(train=0.5, validation=0.1, test=0.1)
    with pytest.raises(ValueError, match="train is 0"):
        SplitFractions(train=0.0, validation=0.5, test=0.5)


def test_a_code_names_its_topology():
    assert (topology("3.40.50.300"), topology("3.40.50"), topology("3.40")) == ("3.40.50", "3.40.50", None)


def test_a_writer_takes_the_assignment_and_writes_what_records_that_carry_it_give(families, tmp_path):
    made = assign_splits(families, search="kmer")
    with StoreWriter(tmp_path / "late") as late, StoreWriter(tmp_path / "carried") as carried:
        for record in families:
            late.add(record)
            name = record.name
            carried.add(
                replace(
                    record,
                    split=made.split_of[name],
                    cluster=made.cluster_of[name],
                    representative=name in made.representatives,
                )
            )
        late.assign(made)
    for path in (tmp_path / "late").iterdir():
        assert path.read_bytes() == (tmp_path / "carried" / path.name).read_bytes()
    store = ChainStore.open(tmp_path / "late")
    held_out = [store[i] for i in store.indices("test")]
    training = [store[i] for i in store.indices("train")]
    assert max(align(a.sequence, b.sequence).identity for a in held_out for b in training) < 0.4


def _some(families, keep):
    return [record for record in families if keep(*map(int, record.name.split(".")))]


@pytest.mark.parametrize("seed", range(3))
def test_chains_that_are_added_move_no_other_and_come_to_their_relatives(families, seed):
    first = assign_splits(_some(families, lambda family, member: family < 40 and member < 3), seed=seed)
    both = assign_splits(families, search="kmer", seed=seed, fixed=first.split_of)
    assert {name: both.split_of[name] for name in first.split_of} == first.split_of
    for family in range(60):
        names = [r.name for r in families if r.name.split(".")[0] == str(family)]
        assert len({both.split_of[name] for name in names}) == 1
    assert Counter(both.split_of.values()) == {"train": 120, "validation": 15, "test": 15}
    again = assign_splits(families, search="kmer", seed=seed, fixed=both.split_of)
    assert again == both


def test_a_chain_that_links_two_splits_is_in_none_of_them(make_record):
    rng = np.random.default_rng(1)
    one, other = ("".join(rng.choice(list(AMINO_ACIDS), 60)) for _ in range(2))
    records = [make_record("one", 60, sequence=one), make_record("other", 60, sequence=other)]
    link = make_record("link", 120, sequence=one + other)
    fixed = {"one": "train", "other": "test"}
    made = assign_splits([*records, link], search="kmer", fixed=fixed)
    assert made.split_of == {**fixed, "link": "none"}
    assert "1 chains are related to earlier ones of several splits" in made.notes[-1]
    again = assign_splits([*records, link], search="kmer", fixed=made.split_of)
    assert again.split_of == made.split_of


def test_a_first_held_out_set_leaves_something_to_train_on(make_record):
    rng = np.random.default_rng(2)
    records = [make_record(f"{k}", 40, sequence="".join(rng.choice(list(AMINO_ACIDS), 40))) for k in range(2)]
    made = assign_splits(records, search="kmer", fixed={"0": "test"})
    assert made.split_of == {"0": "test", "1": "train"}
