import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minifold_pl.data import store_writer
from minifold_pl.data.old_store import read_old_store
from minifold_pl.data.records import SPLITS, ChainRecord, peptide_bonds
from minifold_pl.data.store import ChainStore, StoreError, StoreWriter, write_store

finite = st.floats(-9999, 9999, width=32)
nan = st.just(np.nan)
residue_numbers = st.builds("{}{}".format, st.integers(-999_999, 999_999), st.sampled_from(["", "A", "z"]))


@st.composite
def chain_records(draw):
    length = draw(st.integers(4, 12))
    return ChainRecord(
        name=draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1)),
        sequence=draw(st.text("ACDEFGHIKLMNPQRSTVWYX", min_size=length, max_size=length)),
        coords=draw(
            arrays(np.float32, (length, 4, 3), elements=finite | nan)
            | arrays(np.float32, (length, 4, 3), elements=nan)
        ),
        breaks=tuple(sorted(draw(st.sets(st.integers(0, length - 2))))),
        cath=tuple(draw(st.lists(st.sampled_from(["1.10.530", "3.40.50.300"]), max_size=3))),
        split=draw(st.sampled_from(SPLITS)),
        cluster=draw(st.none() | st.text(st.characters(exclude_categories=["Cs"]))),
        representative=draw(st.booleans()),
        residue_ids=tuple(draw(st.just([]) | st.lists(residue_numbers, min_size=length, max_size=length))),
    )


FIELDS = ("name", "sequence", "breaks", "cath", "split", "cluster", "representative", "residue_ids")


@settings(max_examples=30, deadline=None)
@given(
    st.lists(chain_records(), min_size=1, max_size=5, unique_by=lambda r: r.name),
    st.sampled_from([1, 300, 2**20]),
)
def test_what_is_written_is_read_back_verbatim(records, shard_bytes):
    with tempfile.TemporaryDirectory() as folder:
        with StoreWriter(Path(folder) / "store", shard_bytes=shard_bytes) as writer:
            for record in records:
                writer.add(record)
        store = ChainStore.open(Path(folder) / "store")
        store.verify()
        assert len(store) == len(records)
        for read, written in zip((store[i] for i in range(len(store))), records, strict=True):
            assert read.coords.tobytes() == written.coords.tobytes()
            for name in FIELDS:
                assert getattr(read, name) == getattr(written, name)
        for i, written in enumerate(records):
            store.check(i)
            assert store.find(written.name) == i
            assert store.bonded(i).tolist() == peptide_bonds(written.coords, written.breaks).tolist()


def test_splits_and_labels_are_found(make_record, make_store):
    store = make_store(
        make_record("a", cath=("1.10.530",)),
        make_record("b", split="test", cath=("3.40.50",)),
        make_record("c", cath=("2.40.10",)),
        make_record("d", split="none"),
    )
    assert store.indices("train").tolist() == [0, 2]
    assert store.indices("validation").tolist() == []
    assert store.indices("all").tolist() == [0, 1, 2, 3]
    assert store.architectures == ("1.10", "2.40")  # the test chain's is unseen in training
    assert store.cath_classes.tolist() == [0, 2, 1, -1]
    with pytest.raises(ValueError, match="split 'dev' is none of train"):
        store.indices("dev")


def test_reading_is_a_view_of_the_mapped_file_and_cannot_write_to_it(make_record, make_store):
    store = make_store(make_record("a"))
    assert not store.coords(0).flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        store.coords(0)[0] = 0.0
    with pytest.raises(IndexError, match="chain 1 of a store of 1"):
        store.coords(1)


def test_a_store_travels_to_a_worker_as_its_path(make_record, make_store):
    store = make_store(*(make_record(f"a{i}", 200) for i in range(20)))
    data = pickle.dumps(store)
    assert len(data) < 1000
    assert pickle.loads(data)[3].sequence == store[3].sequence


FILES = ("store.json", "index.bin", "strings.bin", "chains-00000.bin")


@pytest.mark.parametrize(
    ("name", "damage"),
    [(name, damage) for name in FILES for damage in ("cut", "remove")]
    + [(name, "flip") for name in FILES[1:]],  # the header's checksums cover the others
)
def test_every_damage_is_noticed(make_record, make_store, name, damage):
    store = make_store(make_record("a"), make_record("b"))
    path = store.path / name
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[:-1])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(StoreError, match=r"is damaged|no store"):
        ChainStore.open(store.path).verify()


def test_a_damaged_chain_is_found_among_sound_ones_by_its_own_checksum(make_record, make_store):
    store = make_store(*(make_record(f"a{i}") for i in range(5)))
    path = store.path / "chains-00000.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    store = ChainStore.open(store.path)  # opening reads no chain
    for chain in (0, 1, 3, 4):
        store.check(chain)
    with pytest.raises(StoreError, match=r"chain 'a2' in chains-00000\.bin has changed"):
        store.check(2)


def test_a_worker_refuses_a_store_that_was_replaced_since(make_record, make_store):
    store = make_store(make_record("a"))
    data = pickle.dumps(store)
    write_store(store.path, [make_record("b")], overwrite=True)
    assert store[0].name == "a"  # what is open stays whole
    with pytest.raises(StoreError, match="was replaced while it was in use"):
        pickle.loads(data)


def test_another_format_version_is_refused(make_record, make_store):
    store = make_store(make_record("a"))
    header = json.loads((store.path / "store.json").read_text())
    (store.path / "store.json").write_text(json.dumps({**header, "version": 99}))
    with pytest.raises(StoreError, match="version 99, this program reads"):
        ChainStore.open(store.path)


def test_a_path_without_store_says_how_to_make_one(tmp_path):
    with pytest.raises(StoreError, match="does not exist; make one with `minifold-pl data prepare"):
        ChainStore.open(tmp_path / "absent")
    with pytest.raises(StoreError, match="is no store"):
        ChainStore.open(tmp_path)


def test_only_a_store_is_ever_replaced_and_only_when_asked(tmp_path, make_record):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name in ("precious", "file"):
        with pytest.raises(StoreError, match="choose another --out"):
            write_store(tmp_path / name, [make_record("a")], overwrite=True)
    write_store(tmp_path / "empty", [make_record("a")])
    with pytest.raises(StoreError, match="--overwrite replaces it"):
        write_store(tmp_path / "empty", [make_record("b")])
    assert ChainStore.open(tmp_path / "empty").names == ("a",)
    write_store(tmp_path / "empty", [make_record("b")], overwrite=True)
    assert ChainStore.open(tmp_path / "empty").names == ("b",)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "precious"]


def test_a_failure_midway_leaves_nothing_and_spares_the_old_store(tmp_path, make_record):
    write_store(tmp_path / "store", [make_record("old")])

    def records():
        yield make_record("a")
        raise RuntimeError("source failed")

    with pytest.raises(RuntimeError, match="source failed"):
        write_store(tmp_path / "store", records(), overwrite=True)
    with pytest.raises(ValueError, match="two chains are named 'a'"):
        write_store(tmp_path / "other", [make_record("a"), make_record("a")])
    with pytest.raises(StoreError, match="no chain was found"):
        write_store(tmp_path / "other", [])
    assert [p.name for p in tmp_path.iterdir()] == ["store"]
    assert ChainStore.open(tmp_path / "store").names == ("old",)


def test_of_two_writers_the_slower_one_gives_way(tmp_path, make_record):
    with pytest.raises(StoreError, match="holds a store already"), StoreWriter(tmp_path / "store") as slow:
        slow.add(make_record("slow"))
        slow._folder.rename(tmp_path / "aside")  # as if under another process's number
        write_store(tmp_path / "store", [make_record("fast")])
        (tmp_path / "aside").rename(slow._folder)
    assert ChainStore.open(tmp_path / "store").names == ("fast",)


def test_the_same_chains_give_the_same_bytes_copied_or_added(tmp_path, make_record):
    records = [make_record(f"a{i}", 5 + i, cluster="xy"[i % 2], cath=("1.10.8",) * (i % 3)) for i in range(9)]
    for name in ("one", "two"):
        with StoreWriter(tmp_path / name, shard_bytes=1000) as writer:
            for record in records:
                writer.add(record)
    one = ChainStore.open(tmp_path / "one")
    with StoreWriter(tmp_path / "copied", shard_bytes=1000) as writer:
        for chain in range(len(one)):
            writer.copy(one, chain)
    assert sum(path.name.startswith("chains-") for path in one.path.iterdir()) > 2
    for path in one.path.iterdir():
        for other in ("two", "copied"):
            assert path.read_bytes() == (tmp_path / other / path.name).read_bytes()


def test_a_damaged_chain_is_not_copied(tmp_path, make_record, make_store):
    store = make_store(make_record("a"))
    path = store.path / "chains-00000.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match="chain 'a'"), StoreWriter(tmp_path / "copy") as writer:
        writer.copy(ChainStore.open(store.path), 0)


def test_names_are_found_where_one_is_part_of_another(make_record, make_store):
    store = make_store(*(make_record(name) for name in ("aa", "a", "\x01\x00\x00\x00b", "b")))
    assert [store.find(name) for name in ("aa", "a", "\x01\x00\x00\x00b", "b")] == [0, 1, 2, 3]
    for absent in ("", "c", "train"):
        with pytest.raises(KeyError):
            store.find(absent)


def test_a_cluster_has_one_number(make_record, make_store):
    store = make_store(*(make_record(str(i), cluster=c) for i, c in enumerate(["y", None, "x", "y"])))
    assert store.cluster_ids.tolist() == [0, -1, 1, 0]
    assert store.clusters == ("y", None, "x", "y")


def test_a_sequence_takes_no_room_for_coordinates(make_record, make_store):
    nothing = np.full((40, 4, 3), np.nan, dtype=np.float32)
    store = make_store(make_record("a", 40), make_record("b", 40, coords=nothing))
    assert store.has_coords.tolist() == [True, False]
    assert (len(store.raw(0)), len(store.raw(1))) == (40 * 50, 40 * 2)
    assert store[1].sequence_only
    assert store.coords(1).shape == (40, 4, 3)


def test_a_store_of_the_earlier_format_is_refused_with_an_instruction_and_can_be_read_for_conversion(
    old_store,
):
    with pytest.raises(StoreError, match=r"earlier format \(version 1\).*data merge .* --out NEW"):
        ChainStore.open(old_store)
    provenance, attached, records = read_old_store(old_store)
    (record,) = records
    assert (provenance, attached) == ({"x": 1}, {"report.json": "{}"})
    assert (record.name, record.sequence, record.breaks, record.cluster) == ("a", "ACDX", (1,), "c")
    assert record.coords.ravel().tolist() == list(range(48))
    (old_store / "tokens.u8").write_bytes(bytes([4, 5, 6, 23]))
    with pytest.raises(StoreError, match=r"tokens\.u8 has changed"):
        read_old_store(old_store)


def test_where_two_paths_cannot_be_exchanged_a_death_between_the_renames_is_undone(
    tmp_path, make_record, monkeypatch
):
    monkeypatch.setattr(store_writer, "exchange", lambda one, other: False)
    store = tmp_path / "store"
    write_store(store, [make_record("old")])
    write_store(store, [make_record("new")], overwrite=True)
    assert ChainStore.open(store).names == ("new",)
    assert [p.name for p in tmp_path.iterdir()] == ["store"]

    process = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    gone = int(process.stdout)
    aside = tmp_path / f".store.replaced-{store_writer._machine()}{gone}"
    store.rename(aside)
    with pytest.raises(
        StoreError, match=r"does not exist; a write that was cut short left the earlier store at"
    ):
        ChainStore.open(store)
    with pytest.raises(StoreError, match="--overwrite replaces it"):
        write_store(store, [make_record("newer")])
    assert ChainStore.open(store).names == ("new",)


def test_a_store_is_exchanged_in_one_step_where_the_file_system_can(tmp_path, make_record, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not store_writer.exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system has no RENAME_EXCHANGE")
    assert (tmp_path / "a" / "b").exists()
    assert (tmp_path / "b" / "a").exists()
    write_store(tmp_path / "store", [make_record("old")])
    monkeypatch.setattr(store_writer.os, "rename", None)  # nothing else may be used
    write_store(tmp_path / "store", [make_record("new")], overwrite=True)
    assert ChainStore.open(tmp_path / "store").names == ("new",)
    with pytest.raises(FileNotFoundError):
        store_writer.exchange(tmp_path / "absent", tmp_path / "a")


_WRITE = """
import resource, signal, sys, time
import numpy as np
from minifold_pl.data.records import ChainRecord
from minifold_pl.data.store import write_store

def records():
    for i in range(10_000):
        yield ChainRecord(name=str(i), sequence="A" * 100, coords=np.zeros((100, 4, 3), np.float32))
        if i == 500 and mode == "kill":
            print("midway", flush=True)
            time.sleep(60)

out, mode = sys.argv[1:]
if mode == "full":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    write_store(out, records())
except OSError as error:
    print("refused", error.errno, flush=True)
"""


def _writer(out, mode):
    return subprocess.Popen(
        [sys.executable, "-c", _WRITE, str(out), mode],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_a_writer_killed_midway_leaves_no_store_and_the_next_one_cleans_up(tmp_path, make_record):
    process = _writer(tmp_path / "store", "kill")
    assert process.stdout.readline() == "midway\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "store").exists()
    assert len(list(tmp_path.iterdir())) == 1  # the leftover, under a hidden name
    write_store(tmp_path / "store", [make_record("a")])
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_a_disk_that_fills_up_leaves_nothing(tmp_path):
    process = _writer(tmp_path / "store", "full")
    output, _ = process.communicate()
    assert output.startswith("refused")
    assert list(tmp_path.iterdir()) == []
