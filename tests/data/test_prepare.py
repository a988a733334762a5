import json
import os
import resource
import shutil
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from tests.data.kill_prepare import content

from minifold_pl.data import source_work
from minifold_pl.data.chain_set import SourceError
from minifold_pl.data.journal import Journal
from minifold_pl.data.prepare import PrepareSettings, prepare, read_splits
from minifold_pl.data.store import ChainStore, StoreError
from minifold_pl.export.observed import ObservedChain, observed_pdb_text


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


def test_a_name_of_any_length_is_kept_and_told_in_a_short_line(tmp_path, make_line):
    path = tmp_path / "chain_set.jsonl"
    path.write_text(make_line("x" * 3_000_000, split="dev"))
    report = prepare(path, tmp_path / "store")
    assert len(str(report.problems[0])) < 400
    assert ChainStore.open(tmp_path / "store").names == ("x" * 3_000_000,)


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


@pytest.fixture
def killed_at_the_end(monkeypatch):
    """Lets ``prepare`` die where the store is in its place and the journal is still there."""

    class Killed(BaseException):
        pass

    @contextmanager
    def dies():
        with monkeypatch.context() as patch, pytest.raises(Killed):

            def remove(journal):
                journal.close()
                raise Killed

            patch.setattr(Journal, "remove", remove)
            yield

    return dies


SHARDED = {"shard": (1, 2)}


@pytest.mark.parametrize("settings", [{}, SHARDED, {"split_by": "cluster"}], ids=str)
@pytest.mark.parametrize("kind", ["chain set", "sequences", "structures"])
def test_a_run_that_was_killed_after_its_last_step_is_done_when_started_again(
    source, tmp_path, killed_at_the_end, kind, settings, make_record
):
    if kind == "sequences":
        source = tmp_path / "in" / "table.tsv"
        source.write_text("name\tsequence\n" + "".join(f"{n}\tACDEFGHIKLMNPQRS\n" for n in "abc"))
    if kind == "structures":
        record = make_record("1abc", 12)
        chain = ObservedChain(name="1abc", sequence=record.sequence, coords=record.coords)
        source.unlink()
        source = source.parent
        for name in ("1abc", "2abc"):
            (source / f"{name}.pdb").write_text(observed_pdb_text(chain))
    settings = PrepareSettings(**settings, processes=1)
    undisturbed = prepare(source, tmp_path / "whole", settings)
    with killed_at_the_end():
        prepare(source, tmp_path / "store", settings)
    assert (tmp_path / "store").exists()
    assert len(list(tmp_path.glob(".store.prepare*"))) == 1
    report = prepare(source, tmp_path / "store", settings)
    assert report.already_there
    assert replace(report, already_there=False) == undisturbed
    assert not list(tmp_path.glob(".*"))
    assert content(tmp_path / "store") == content(tmp_path / "whole")


def test_a_store_of_another_source_or_other_settings_stays_refused(source, tmp_path, make_line):
    prepare(source, tmp_path / "store")
    assert prepare(source, tmp_path / "store").already_there
    assert not prepare(source, tmp_path / "store", PrepareSettings(overwrite=True)).already_there
    splits = _splits(tmp_path / "splits.json", train=["a"])
    for other in ({"min_length": 9}, {"split_by": "cluster"}, {"splits": splits}, {"shard": (1, 2)}):
        with pytest.raises(StoreError, match="--overwrite replaces it"):
            prepare(source, tmp_path / "store", PrepareSettings(**other))
    prepare(source, tmp_path / "split", PrepareSettings(splits=splits))
    assert prepare(source, tmp_path / "split", PrepareSettings(splits=splits)).already_there
    _splits(splits, train=["b"])
    with pytest.raises(StoreError, match="--overwrite replaces it"):
        prepare(source, tmp_path / "split", PrepareSettings(splits=splits))
    os.utime(source, (1, 1))
    (tmp_path / "copy").mkdir()
    shutil.copy(source, tmp_path / "copy")
    assert prepare(source, tmp_path / "store").already_there
    assert prepare(tmp_path / "copy" / source.name, tmp_path / "store").already_there
    source.write_text(source.read_text() + make_line("e") + "\n")
    with pytest.raises(StoreError, match="--overwrite replaces it"):
        prepare(source, tmp_path / "store")
    elsewhere = tmp_path / "other.jsonl"
    elsewhere.write_bytes(source.read_bytes())
    with pytest.raises(StoreError, match="--overwrite replaces it"):
        prepare(elsewhere, tmp_path / "store")


@pytest.mark.parametrize("kind", ["chain set", "sequences"])
def test_a_file_that_is_written_while_it_is_read_makes_no_store(tmp_path, make_line, monkeypatch, kind):
    if kind == "chain set":
        path, text, call = tmp_path / "in.jsonl", make_line("a") + "\n", "read_block"
        more = make_line("b") + "\n"
    else:
        path, text, call = tmp_path / "in.fasta", ">a\nACDEFGHIKLMN\n", "read_sequences"
        more = ">b\nACDEFGHIKLMN\n"
    path.write_text(text)
    read = getattr(source_work, call)

    def read_and_grow(*arguments):
        result = read(*arguments)
        path.write_text(text + more)
        return result

    monkeypatch.setattr(source_work, call, read_and_grow)
    with pytest.raises(SourceError, match="changed while it was read"):
        prepare(path, tmp_path / "store")
    assert sorted(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    assert prepare(path, tmp_path / "store").kept == 2


def test_a_damaged_store_is_not_taken_for_one_that_is_done(source, tmp_path):
    prepare(source, tmp_path / "store")
    with (tmp_path / "store" / "chains-00000.bin").open("ab") as file:
        file.write(b"0")
    with pytest.raises(StoreError, match="is damaged"):
        prepare(source, tmp_path / "store")


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
