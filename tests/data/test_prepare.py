import json
import resource
import time

import pytest

from minifold_pl.data.chain_set import SourceError
from minifold_pl.data.prepare import PrepareSettings, prepare, read_splits
from minifold_pl.data.store import ChainStore


@pytest.fixture
def source(tmp_path, make_line):
    """A chain set of a, b, c, d; a and d carry a split of their own, d has no CATH key."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "chain_set.jsonl"
    lines = [
        make_line("a", split="train"),
        make_line("b"),
        make_line("c"),
        make_line("d", split="test", CATH=None),
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def _splits(path, **content):
    path.write_text(json.dumps(content))
    return path


def test_splits_come_from_the_file_that_is_given_and_from_nothing_else(source, tmp_path):
    _splits(source.with_name("chain_set_splits.json"), train=["b"])
    given = _splits(tmp_path / "mine.json", train=["b"], validation=["a"], test=["c", "gone"], cath_nodes={})
    report = prepare(source, tmp_path / "store", PrepareSettings(splits=given))
    assert ChainStore.open(tmp_path / "store").splits == ("validation", "train", "test", "none")
    assert report.absent_from_source == 1
    assert "absent from the source" in report.table()


def test_the_splits_file_beside_the_source_is_found_and_the_records_own_key_fills_in(source, tmp_path):
    _splits(
        source.with_name("chain_set_splits.json"), train=["b"], validation=["a"], cath_nodes={"d": ["2.40.1"]}
    )
    report = prepare(source, tmp_path / "store")
    store = ChainStore.open(tmp_path / "store")
    assert store.splits == ("validation", "train", "none", "test")
    assert store.cath[3] == ("2.40.1",)
    assert report.split_sizes == {"train": 1, "validation": 1, "test": 1, "none": 1}


def test_without_a_splits_file_the_records_own_key_counts(source, tmp_path):
    report = prepare(source, tmp_path / "store")
    assert ChainStore.open(tmp_path / "store").splits == ("train", "none", "none", "test")
    assert report.splits_from == "the records' own key"


def test_a_splits_file_of_a_sister_source_is_not_reported_as_missing_chains(source, tmp_path):
    _splits(source.with_name("chain_set_splits.json"), train=["x", "y"])
    report = prepare(source, tmp_path / "store")
    assert (report.absent_from_source, report.splits_from) == (0, "the records' own key")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is no JSON"),
        ("[]", "must be an object of lists"),
        ('{"train": "a"}', "must be an object of lists"),
        ('{"training": ["a"]}', "must be an object of lists"),
        ('{"train": [1]}', "must be an object of lists"),
        ('{"train": ["a"], "test": ["a"]}', "'a' into train and test"),
    ],
)
def test_a_bad_splits_file_is_one_clear_error(tmp_path, text, told):
    path = tmp_path / "splits.json"
    path.write_text(text)
    with pytest.raises(SourceError, match=told):
        read_splits(path)
    with pytest.raises(SourceError, match="No such file"):
        read_splits(tmp_path / "absent.json")


def test_names_are_kept_verbatim_whatever_they_are(tmp_path, make_line):
    names = ["../../etc/passwd", "a" * 300, "é\n\x00", " ", "CON"]
    path = tmp_path / "chain_set.jsonl"
    path.write_text("\n".join(map(make_line, names)))
    prepare(path, tmp_path / "store")
    assert ChainStore.open(tmp_path / "store").names == tuple(names)


def test_every_record_is_accounted_for_in_the_report_and_in_the_store(tmp_path, make_line):
    path = tmp_path / "chain_set.jsonl"
    path.write_text(
        "\n".join([make_line("a"), "", make_line("a"), make_line("b", 3), make_line("c", seq="B" * 12)])
    )
    report = prepare(path, tmp_path / "store")
    assert report.kept + sum(report.reasons("dropped").values()) == 5
    assert report.reasons("dropped") == {"empty line": 1, "duplicate name": 1, "too short": 1}
    assert report.reasons("repaired") == {"unknown letters read as X": 1}
    saved = json.loads((tmp_path / "store" / "report.json").read_text())
    assert saved["problems"] == [str(p) for p in report.problems]
    ChainStore.open(tmp_path / "store").verify()


def test_a_source_without_a_sound_chain_makes_no_store_and_shows_its_first_problem(tmp_path, make_line):
    path = tmp_path / "chain_set.jsonl"
    path.write_text(make_line("a", 3) + "\n{}\n")
    with pytest.raises(SourceError, match=r"no sound chain of 2 records; first: line 1 \('a'\): too short"):
        prepare(path, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_preparing_twice_gives_the_same_bytes(source, tmp_path):
    for name in ("one", "two"):
        prepare(source, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_the_real_chains_are_prepared_whole_in_time_and_memory(real_data, tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    report = prepare(real_data / "chain_set.jsonl.gz", tmp_path / "store")
    assert time.monotonic() - started < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 * 1024**2  # kB
    # Counts of the data folder's README.
    assert report.split_sizes == {"train": 4491, "validation": 184, "test": 325, "none": 0}
    assert not report.problems
    started = time.monotonic()
    store = ChainStore.open(tmp_path / "store")
    assert time.monotonic() - started < 1
    assert len(store) == 5000
    assert int((store.lengths <= 125).sum()) == 2536
    assert sum(bool(codes) for codes in store.cath) == 3669
    store.verify()


def test_real_chains_of_ca_alone_are_kept_and_noted(real_data, tmp_path):
    report = prepare(real_data / "ca_only.jsonl.gz", tmp_path / "store")
    assert report.kept == 1122
    assert report.reasons("noted") == {"only Cα coordinates": 1122}
    assert report.split_sizes["none"] == 0
