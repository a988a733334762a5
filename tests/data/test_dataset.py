from dataclasses import replace

import numpy as np
import pytest

from minifold_pl.constants import NO_LABEL
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.data.tokenizer import decode, encode


def _same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_whole_chain_comes_as_it_is_stored(make_record, make_store):
    record = make_record("a", 12, cath=("1.10.530",))
    item = ChainDataset(make_store(record), "train")[0]
    assert item.name == "a"
    assert item.tokens.tolist() == encode(record.sequence).tolist()
    assert np.array_equal(item.coords, record.coords)
    assert item.atom_mask.all()
    assert item.bonded.tolist() == [True] * 11 + [False]
    assert (item.start, item.cath_class, item.cath_architecture) == (0, 0, 0)


def test_missing_ca_lie_on_the_line_between_their_neighbours_and_other_atoms_at_zero(make_record, make_store):
    whole = make_record("a", 12).coords
    coords = whole.copy()
    coords[[0, 5, 6]] = np.nan
    coords[9, 3] = np.nan
    item = ChainDataset(make_store(make_record("a", 12, coords=coords)), "train")[0]
    assert item.coords[[5, 6], 1] == pytest.approx(whole[[5, 6], 1], abs=1e-5)
    assert item.coords[0, 1] == pytest.approx(whole[1, 1])  # beyond the end: the nearest observed one
    assert (item.coords[[0, 5, 6]][:, [0, 2, 3]] == 0).all()
    assert (item.coords[9, 3] == 0).all()
    assert item.atom_mask.tolist() == (~np.isnan(coords).any(-1)).tolist()
    assert np.flatnonzero(~item.bonded).tolist() == [0, 4, 5, 6, 11]


def test_a_crop_is_a_contiguous_piece_that_keeps_its_places(make_record, make_store):
    record = make_record("a", 100, breaks=(40,))
    dataset = ChainDataset(make_store(record), "train", max_length=30)
    starts = set()
    for epoch in range(40):
        item = dataset[epoch, 0]
        piece = slice(item.start, item.start + 30)
        starts.add(item.start)
        assert decode(item.tokens) == record.sequence[piece]
        assert np.array_equal(item.coords, record.coords[piece])
        assert not item.bonded[-1]
        assert np.flatnonzero(~item.bonded[:-1]).tolist() == [40 - item.start] * (0 <= 40 - item.start < 29)
    assert len(starts) > 20
    assert min(starts) >= 0
    assert max(starts) <= 70
    assert dataset.lengths.tolist() == [30]
    assert dataset.cropped_share == 1.0


def test_a_crop_never_falls_into_a_gap(make_record, make_store):
    coords = make_record("a", 200).coords.copy()
    coords[20:180] = np.nan
    dataset = ChainDataset(make_store(make_record("a", 200, coords=coords)), "train", max_length=20)
    assert all(dataset[epoch, 0].atom_mask[:, 1].sum() >= 10 for epoch in range(50))


def test_an_item_is_a_function_of_seed_epoch_and_chain_alone(make_record, make_store):
    store = make_store(*(make_record(f"a{i}", 60) for i in range(5)))
    options = {"max_length": 20, "random_rotation": True}
    one = ChainDataset(store, "train", seed=3, **options)
    first = one[2, 4]
    _ = one[0, 1], one[2, 3]
    assert _same(one[2, 4], first)
    assert _same(ChainDataset(store, "train", seed=3, **options)[2, 4], first)
    # Of a selection, the same chain is the same item.
    few = ChainDataset(store, "train", seed=3, limit=2, **options)
    place = int(few.indices[1])
    assert _same(few[2, 1], one[2, place])
    for other in (one[3, 4], one[2, 3], ChainDataset(store, "train", seed=4, **options)[2, 4]):
        assert not np.array_equal(other.coords, first.coords)


def test_random_rotations_are_proper_and_uniform(make_record, make_store):
    # Three atoms that are the unit vectors show the rotation itself.
    coords = np.zeros((4, 4, 3), dtype=np.float32)
    coords[:, :3] = np.eye(3)
    store = make_store(make_record("a", 4, coords=coords))
    dataset = ChainDataset(store, "train", random_rotation=True)
    rotations = np.stack([dataset[epoch, 0].coords[0, :3].T for epoch in range(2000)])
    assert np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max() < 1e-5
    assert np.linalg.det(rotations) == pytest.approx(1.0, abs=1e-5)
    # Uniform: every entry has mean 0 and variance 1/3; 1-cosθ has mean 1.5 with angle density (1-cosθ)/π.
    assert np.abs(rotations.mean(0)).max() < 4 * np.sqrt(1 / 3 / 2000)
    cosine = (np.trace(rotations, axis1=1, axis2=2) - 1) / 2
    assert (1 - cosine).mean() == pytest.approx(1.5, abs=0.06)


def test_long_chains_are_dropped_when_asked(make_record, make_store):
    store = make_store(make_record("a", 10), make_record("b", 30), make_record("c", 11))
    dataset = ChainDataset(store, "train", max_length=11, long_chains="drop")
    assert [dataset[i].name for i in range(len(dataset))] == ["a", "c"]
    assert dataset.cropped_share == 0.0
    with pytest.raises(ValueError, match="longer than max_length=5"):
        ChainDataset(store, "train", max_length=5, long_chains="drop")


def test_one_chain_stands_for_its_cluster(make_record, make_store):
    store = make_store(
        make_record("a", cluster="x"),
        make_record("b", cluster="x", representative=True),
        make_record("c", cluster="y"),
        make_record("d", cluster="y"),
        make_record("e"),
        make_record("f", 40, cluster="z", representative=True),
        make_record("g", cluster="z"),
    )
    dataset = ChainDataset(store, "train", one_per_cluster=True, max_length=20, long_chains="drop")
    assert [store.names[i] for i in dataset.indices] == ["b", "c", "e", "g"]
    with pytest.raises(ValueError, match="knows no clusters"):
        ChainDataset(make_store(make_record("a"), name="other"), "train", one_per_cluster=True)


def test_labels_that_training_has_not_seen_are_no_label(make_record, make_store):
    store = make_store(
        make_record("a", cath=("3.40.50",)),
        make_record("b", split="validation", cath=("3.40.720",)),
        make_record("c", split="validation", cath=("3.30.70",)),
    )
    dataset = ChainDataset(store, "validation")
    assert [(i.cath_class, i.cath_architecture) for i in (dataset[0], dataset[1])] == [(2, 0), (2, NO_LABEL)]
    assert ChainDataset(store, "validation", architectures=("3.20", "3.30"))[1].cath_architecture == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_length": 0}, "max_length is 0"),
        ({"long_chains": "split"}, "long_chains is 'split'"),
        ({"limit": 0}, "limit is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_out_of_range_are_refused_by_name(make_record, make_store, options, told):
    with pytest.raises(ValueError, match=told):
        ChainDataset(make_store(make_record("a")), "train", **options)


def test_an_empty_split_is_refused_by_name(make_record, make_store):
    with pytest.raises(ValueError, match="no chain in split 'test'"):
        ChainDataset(make_store(make_record("a")), "test")


def _with(record, *atoms):
    """The record with only these atoms."""
    coords = np.full_like(record.coords, np.nan)
    coords[:, list(atoms)] = record.coords[:, list(atoms)]
    return replace(record, coords=coords)


@pytest.fixture
def mixed(make_record, make_store):
    """A chain with its backbone, one with Cα only, and a sequence."""
    return make_store(
        make_record("backbone", 20),
        _with(make_record("ca only", 20), 1),
        _with(make_record("sequence", 20, cath=("1.10.8",))),
    )


@pytest.mark.parametrize(
    ("needs", "names", "left_out"),
    [
        ("none", ["backbone", "ca only", "sequence"], {}),
        ("ca", ["backbone", "ca only"], {"no coordinates": 1}),
        ("backbone", ["backbone"], {"no coordinates": 1, "only Cα coordinates": 1}),
    ],
)
def test_chains_that_lack_what_is_needed_are_left_out_and_counted(mixed, needs, names, left_out):
    dataset = ChainDataset(mixed, "train", needs=needs)
    assert [dataset[i].name for i in range(len(dataset))] == names
    assert dataset.left_out == left_out


def test_a_split_without_a_chain_that_can_be_used_is_refused_with_the_reason(make_record, make_store):
    store = make_store(
        _with(make_record("ca", 20), 1), _with(make_record("s", 20)), make_record("t", split="test")
    )
    with pytest.raises(
        ValueError,
        match=r"no chain of split 'train' .* has the N, Cα and C coordinates that the model needs: "
        r"1 have no coordinates, 1 have only Cα coordinates; prepare a store from structures",
    ):
        ChainDataset(store, "train", needs="backbone")


def test_a_sequence_is_an_item_without_atoms_cropped_anywhere(mixed):
    dataset = ChainDataset(
        mixed, "train", needs="none", max_length=8, replace_damaged=True, random_rotation=True
    )
    items = [dataset[epoch, 2] for epoch in range(30)]
    starts = {item.start for item in items}
    assert starts <= set(range(13))
    assert len(starts) > 6
    for item in items:
        assert not item.atom_mask.any()
        assert not item.bonded.any()
        assert not item.coords.any()
        assert item.cath_class == 0
    assert dataset.quarantine.found() == 0
