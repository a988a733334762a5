import json

import pytest

from minifold_pl.data.shards import merge_stores, parse_shard, shard_range
from minifold_pl.data.split import assign_splits
from minifold_pl.data.store import ChainStore, StoreError, StoreWriter

REPORT = "report.json"


@pytest.fixture
def records(make_record):
    return [
        make_record(f"c{i}", 10 + i, cluster="xy"[i % 2], cath=("1.10.8",), split="test") for i in range(11)
    ]


@pytest.fixture
def write(tmp_path):
    """Writes a store with the given provenance."""

    def write(name, records, **provenance):
        with StoreWriter(tmp_path / name) as writer:
            writer.provenance = {"source": "x", **provenance}
            for record in records:
                writer.add(record)
        return tmp_path / name

    return write


def _same(one, other):
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("total", [1, 2, 5, 11])
def test_shards_given_in_any_order_make_the_store_of_one_run(records, write, tmp_path, total):
    whole = write("whole", records)
    shards = []
    for k in range(1, total + 1):
        part = [records[i] for i in shard_range(len(records), k, total)]
        shards.append(write(f"part{k}", part, shard=[k, total]))
    done = merge_stores(tmp_path / "merged", shards[::-1])
    _same(whole, tmp_path / "merged")
    assert (done.chains, done.residues, done.duplicates) == (11, sum(map(len, records)), [])


def test_a_name_that_an_earlier_shard_has_is_left_out_and_told(records, write, tmp_path, make_record):
    one = write("one", records[:3], shard=[1, 2])
    other = write("two", [make_record("c1", 99), *records[3:]], shard=[2, 2])
    done = merge_stores(tmp_path / "merged", [one, other])
    _same(write("whole", records), tmp_path / "merged")
    assert [(d.part, d.name, d.first) for d in done.duplicates] == [(1, "c1", 0)]


def test_splits_that_need_all_chains_are_made_by_the_merge(records, write, tmp_path):
    arguments = {"method": "cluster", "seed": 3, "search": "kmer", "fractions": None}
    made = assign_splits(records, **arguments)
    with StoreWriter(tmp_path / "whole") as writer:
        writer.provenance = {"source": "x", "make_splits": arguments}
        for record in records:
            writer.add(record)
        writer.assign(made)
    shards = [
        write("one", records[:4], make_splits=arguments, shard=[1, 2]),
        write("two", records[4:], make_splits=arguments, shard=[2, 2]),
    ]
    done = merge_stores(tmp_path / "merged", shards)
    _same(tmp_path / "whole", tmp_path / "merged")
    assert done.notes == made.notes


def test_accounts_of_the_parts_are_joined_by_whoever_knows_them(records, write, tmp_path):
    with StoreWriter(tmp_path / "one") as writer:
        writer.provenance = {"shard": [1, 1]}
        writer.add(records[0])
        writer.attach("report.json", '{"kept": 1}')
    merge_stores(tmp_path / "plain", [tmp_path / "one"])
    assert json.loads((tmp_path / "plain" / "report.json").read_text()) == {
        "merged": [{"store": "one", "report": {"kept": 1}}]
    }
    merge_stores(
        tmp_path / "joined",
        [tmp_path / "one"],
        join=lambda parts, *_: {"sum": parts[0].attached["report.json"]},
    )
    assert (tmp_path / "joined" / "sum").read_text() == '{"kept": 1}'


@pytest.mark.parametrize(
    ("shards", "told"),
    [
        ([[1, 3], [3, 3]], "shard 2 of 3 is missing"),
        ([[1, 2], [1, 2]], "are both shard 1/2"),
        ([[1, 2], [2, 3]], "is shard 1/2, others are of 3"),
        ([[1, 2], None], "is no shard, others are"),
    ],
)
def test_a_set_of_shards_that_is_not_whole_is_refused(records, write, tmp_path, shards, told):
    paths = [write(f"s{i}", [records[i]], **({"shard": s} if s else {})) for i, s in enumerate(shards)]
    with pytest.raises(StoreError, match=told):
        merge_stores(tmp_path / "merged", paths)
    assert not (tmp_path / "merged").exists()


def test_shards_of_other_settings_are_refused(records, write, tmp_path):
    paths = [write(f"s{k}", [records[k]], shard=[k, 2], min_length=k) for k in (1, 2)]
    with pytest.raises(StoreError, match="prepared from other sources or with other settings"):
        merge_stores(tmp_path / "merged", paths)


@pytest.mark.parametrize("known", [(), (1,), (2,)])
def test_a_shard_that_does_not_say_what_it_is_a_shard_of_is_refused(records, write, tmp_path, known):
    same = {"shard_of": {"files": 1, "bytes": 9, "sha256": "0"}, "settings": {}}
    paths = [
        write(f"s{k}", [records[k]], shard=[k, 2], **(same if k in known else {"settings": {}}))
        for k in (1, 2)
    ]
    with pytest.raises(StoreError, match="does not say which files it is a shard of"):
        merge_stores(tmp_path / "merged", paths)


def test_stores_of_different_sources_are_put_together_and_names_must_differ(records, write, tmp_path):
    one, other = write("one", records[:3]), write("two", records[3:])
    merge_stores(tmp_path / "merged", [one, other])
    store = ChainStore.open(tmp_path / "merged")
    assert store.names == tuple(r.name for r in records)
    assert store.provenance == {"merged": [{"source": "x"}, {"source": "x"}]}
    with pytest.raises(StoreError, match="both have a chain named 'c0'"):
        merge_stores(tmp_path / "again", [one, tmp_path / "merged"])
    with pytest.raises(StoreError, match="--overwrite"):
        merge_stores(tmp_path / "merged", [one])
    with pytest.raises(StoreError, match="no store to merge"):
        merge_stores(tmp_path / "none", [])


def test_a_store_of_the_earlier_format_is_converted(old_store, tmp_path):
    merge_stores(tmp_path / "new", [old_store])
    store = ChainStore.open(tmp_path / "new")
    assert store.provenance == {"x": 1}
    assert (tmp_path / "new" / "report.json").read_text() == "{}"
    record = store[0]
    assert (record.name, record.sequence, record.breaks, record.cluster) == ("a", "ACDX", (1,), "c")
    merge_stores(old_store, [old_store], overwrite=True)
    assert ChainStore.open(old_store).names == ("a",)


def test_a_damaged_part_is_refused(records, write, tmp_path):
    path = write("one", records) / "chains-00000.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="chain 'c0'"):
        merge_stores(tmp_path / "merged", [path.parent])


def test_a_shard_without_a_sound_chain_is_a_shard_all_the_same(records, tmp_path, write):
    with pytest.raises(StoreError, match="no chain was found"), StoreWriter(tmp_path / "empty"):
        pass
    with StoreWriter(tmp_path / "empty", may_be_empty=True) as writer:
        writer.provenance = {"source": "x", "shard": [2, 2]}
        writer.attach(REPORT, "{}")
    store = ChainStore.open(tmp_path / "empty")
    store.verify()
    assert (len(store), store.names, store.architectures, store.indices("all").tolist()) == (0, (), (), [])
    merge_stores(tmp_path / "merged", [write("one", records, shard=[1, 2]), store.path])
    assert len(ChainStore.open(tmp_path / "merged")) == 11
    with pytest.raises(KeyError):
        store.find("c0")


@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_the_ranges_of_all_shards_are_everything_once(count):
    for total in (1, 3, 8):
        ranges = [shard_range(count, k, total) for k in range(1, total + 1)]
        assert [i for r in ranges for i in r] == list(range(count))
        assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "1/2/3", "-1/2", "1/0"])
def test_a_shard_that_cannot_be_is_refused(text):
    with pytest.raises(ValueError, match="give K/N"):
        parse_shard(text)
    assert parse_shard("2/8") == (2, 8)
