"""Damaged records: bytes flipped on the disk, and records that were bad when they were written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from minifold_pl.data.collate import collate
from minifold_pl.data.datamodule import write_synthetic
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.data.quarantine import problem
from minifold_pl.data.records import ChainRecord
from minifold_pl.data.store import ChainStore, StoreError, write_store
from minifold_pl.data.synthetic import SyntheticConfig


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("quarantine") / "store"
    write_synthetic(path, SyntheticConfig(n=60, folds=5, min_length=24, max_length=40, seed=1))
    return path


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "store"))


def flip(path: Path, chain: int) -> str:
    """Flip a bit in the middle of a chain's bytes; returns its name."""
    store = ChainStore.open(path)
    wanted = store.raw(chain).tobytes()
    name = store.name(chain)
    (file,) = [f for f in path.iterdir() if wanted in f.read_bytes()]
    content = bytearray(file.read_bytes())
    content[content.index(wanted) + len(wanted) // 3] ^= 0x40
    file.write_bytes(bytes(content))
    return name


def _items(data: ChainDataset, epochs: int = 2) -> list[tuple[int, str, bytes]]:
    return [
        (epoch, item.name, item.coords.tobytes())
        for epoch in range(epochs)
        for item in (data[epoch, i] for i in range(len(data)))
    ]


def test_a_sound_store_gives_every_chain_itself(whole: Path) -> None:
    store = ChainStore.open(whole)
    plain, guarded = ChainDataset(store, "train"), ChainDataset(store, "train", replace_damaged=True)
    assert _items(plain) == _items(guarded)
    assert guarded.quarantine is not None
    assert guarded.quarantine.found() == 0


def test_a_flipped_bit_is_noticed_named_and_replaced_by_a_chain_of_like_length(store: Path) -> None:
    before = ChainDataset(ChainStore.open(store), "train")
    bad = 5
    expected = _items(before)
    name = flip(store, int(before.indices[bad]))
    data = ChainDataset(ChainStore.open(store), "train", replace_damaged=True)
    found = _items(data)
    different = [i for i, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b]
    assert different == [bad, len(data) + bad]  # all others are as they were
    assert name not in {n for _, n, _ in found}
    assert data.quarantine is not None
    assert data.quarantine.damaged() == {name: "its bytes have changed since they were written"}
    by_length = sorted(data.lengths.tolist())
    stand_in = next(len(data[0, i].bonded) for i in (bad,))
    place = by_length.index(int(data.lengths[bad]))
    assert by_length[max(0, place - 9)] <= stand_in <= by_length[min(len(by_length) - 1, place + 9)]


def test_what_stands_in_is_a_function_of_seed_epoch_and_place(store: Path) -> None:
    data = ChainDataset(ChainStore.open(store), "train")
    flip(store, int(data.indices[5]))

    def names(seed: int) -> list[str]:
        again = ChainDataset(ChainStore.open(store), "train", replace_damaged=True, seed=seed)
        return [again[epoch, 5].name for epoch in range(12)]

    assert names(0) == names(0)
    assert names(0) != names(1)
    assert len(set(names(0))) > 3  # not one chain for all epochs


def test_workers_find_what_the_trainer_sees_and_give_the_same_items(store: Path) -> None:
    plain = ChainDataset(ChainStore.open(store), "train")
    name = flip(store, int(plain.indices[3]))

    def read(workers: int) -> tuple[list[tuple[str, ...]], dict[str, str]]:
        data = ChainDataset(ChainStore.open(store), "train", replace_damaged=True)
        loader = DataLoader(data, batch_size=4, collate_fn=collate, num_workers=workers)
        batches = [batch.names for batch in loader]
        assert data.quarantine is not None
        return batches, data.quarantine.damaged()

    assert read(0) == read(2)
    assert read(2)[1].keys() == {name}


def test_without_quarantine_a_damaged_record_is_an_error_that_names_it(store: Path) -> None:
    data = ChainDataset(ChainStore.open(store), "train")
    name = flip(store, int(data.indices[5]))
    with pytest.raises(StoreError, match=name):
        ChainDataset(ChainStore.open(store), "train")[5]


def _poisoned(kind: str) -> np.ndarray:
    coords = np.cumsum(np.full((30, 4, 3), 1.0, dtype=np.float32), axis=0)
    if kind == "no":
        coords[:, 1] = np.nan
    elif kind == "infinite":
        coords[7, 2, 1] = np.inf
    elif kind == "absurd":
        coords[7, 2, 1] = -1e30
    elif kind == "missing":
        coords[3:9] = np.nan
    return coords


@pytest.mark.parametrize(
    ("kind", "words"),
    [("no", "no Cα"), ("infinite", "infinite"), ("absurd", "beyond"), ("missing", None), ("sound", None)],
)
def test_records_that_were_bad_when_written_are_found_and_missing_atoms_are_not_bad(
    tmp_path, kind, words
) -> None:
    record = ChainRecord(name="x", sequence="A" * 30, coords=_poisoned("sound"), split="train")
    object.__setattr__(record, "coords", _poisoned(kind))  # past the record's own checks
    write_store(tmp_path / "s", [record])
    found = problem(ChainStore.open(tmp_path / "s"), 0)
    assert (found is None) if words is None else (found is not None and words in found)


def test_a_split_without_any_sound_chain_is_an_error(store: Path) -> None:
    data = ChainDataset(ChainStore.open(store), "train")
    for chain in data.indices:
        flip(store, int(chain))
    with pytest.raises(StoreError, match="no chain of the split is sound"):
        ChainDataset(ChainStore.open(store), "train", replace_damaged=True)[0]
