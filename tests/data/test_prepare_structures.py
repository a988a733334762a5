import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
import pytest
from tests.data.kill_prepare import content, kill_and_go_on

from minifold_pl.data import source_work
from minifold_pl.data.chain_set import SourceError, read_chain_set
from minifold_pl.data.folder_lock import FolderBusyError
from minifold_pl.data.journal import Journal
from minifold_pl.data.prepare import PrepareSettings, prepare
from minifold_pl.data.prepare_report import join_shards
from minifold_pl.data.records import ChainRecord
from minifold_pl.data.shards import merge_stores
from minifold_pl.data.source_work import StructureFiles
from minifold_pl.data.store import ChainStore, StoreError
from minifold_pl.export.observed import ObservedChain, observed_mmcif_text, observed_pdb_text

TWO = PrepareSettings(processes=2)


@pytest.fixture
def write(tmp_path, make_record):
    """Writes a chain as a structure file: ``write("1abc.pdb")``, by ending as PDB or mmCIF, plain or gzipped."""

    def write(name, length=12, *, folder="in", change=None, **fields):
        record = make_record(name, length)
        coords = record.coords.copy()
        if change is not None:
            change(coords)
        chain = ObservedChain(**{"name": name, "sequence": record.sequence, "coords": coords, **fields})
        text = (observed_mmcif_text if ".cif" in name else observed_pdb_text)(chain).encode()
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text, mtime=0) if name.endswith(".gz") else text)
        return path

    return write


class Seen:
    """A progress bar that remembers how many files there were to read."""

    def __init__(self):
        self.total = None

    @contextmanager
    def __call__(self, description, total):
        self.total = total
        done = []
        yield done.append
        assert sum(done) == total


def test_files_of_any_kind_are_found_below_a_folder_and_named_by_entry_and_chain(write, tmp_path):
    write("1ABC.pdb")
    write("b/pdb2xyz.ent.gz", 13, chain="B")
    write("b/c/my model.cif", 14, chain="AA")
    write(".hidden/3abc.pdb", 15)
    report = prepare(tmp_path / "in", tmp_path / "store", TWO)
    store = ChainStore.open(tmp_path / "store")
    assert store.names == ("1abc.A", "my model.AA", "2xyz.B")
    assert list(store.lengths) == [12, 14, 13]
    assert (report.kept, report.files, report.files_refused) == (3, 3, {})
    store.verify()


def test_raw_cases_are_kept_or_told_of_file_by_file(real_data, tmp_path):
    report = prepare(real_data / "raw_cases", tmp_path / "store", TWO)
    store = ChainStore.open(tmp_path / "store")
    assert dict(zip(store.names, store.lengths.tolist(), strict=True)) == {
        "103l.A": 165,
        "1ACB_l_b.I": 63,
        "1l2y.A": 20,
        "1ts9.A": 98,
        "1y3v.A": 223,
        "2q2k.A": 45,
        "2q2k.B": 44,
        "4zey.A": 84,
        "5ejw.A": 80,
        "5ugo.A": 326,
        "7w06.A": 207,
        "ca_only_model.A": 226,
    }
    assert set(report.files_refused) == {
        "1aki.bcif",
        "README.md",
        "crafted_truncated.cif",
        "crafted_truncated.pdb",
    }
    assert report.reasons("dropped")["nucleic acid"] == 6
    assert report.reasons("dropped")["duplicate name"] == 2  # the PDB files of 103l and 1l2y
    assert store[store.find("103l.A")].residue_ids[40:43] == ("40A", "40B", "40C")
    saved = json.loads((tmp_path / "store" / "report.json").read_text())
    assert saved["files_refused"]["1aki.bcif"].startswith("is BinaryCIF")
    assert saved["problems"] == [str(problem) for problem in report.problems]


def _blank(*rows):
    def change(coords):
        coords[list(rows)] = np.nan

    return change


def _pile(coords):
    coords[:] = 0.0


def _stray(coords):
    coords[4, 0] += 50.0


DROPPED = {
    "too short": {"length": 3},
    "under 95 % complete": {"length": 20, "change": _blank(5, 6)},
    "residues in one place": {"change": _pile},
}


@pytest.mark.parametrize("reason", DROPPED)
def test_a_chain_that_is_not_sound_is_dropped_with_its_reason(write, tmp_path, reason):
    write("good.pdb")
    write("bad.pdb", **DROPPED[reason])
    report = prepare(tmp_path / "in", tmp_path / "store", TWO)
    assert ChainStore.open(tmp_path / "store").names == ("good.A",)
    assert report.reasons("dropped") == {reason: 1}
    assert str(report.problems[0]).startswith(f"bad.pdb ('bad.A'): {reason}: ")
    assert report.files_without_a_chain == 1


def test_an_atom_far_from_its_residue_is_left_out_and_told(write, tmp_path):
    write("1abc.pdb", 30, change=_stray)
    report = prepare(tmp_path / "in", tmp_path / "store", TWO)
    assert report.reasons("repaired") == {"atoms far from their Cα left out": 1}
    missing = np.isnan(ChainStore.open(tmp_path / "store").coords(0)).any(-1)
    assert missing[4, 0]
    assert missing.sum() == 1


def test_how_complete_a_chain_must_be_is_the_callers_choice(write, tmp_path):
    write("1abc.pdb", 20, change=_blank(5, 6))
    settings = PrepareSettings(min_complete=0.9, processes=1)
    prepare(tmp_path / "in", tmp_path / "store", settings)
    assert np.isnan(ChainStore.open(tmp_path / "store").coords(0)).any((1, 2)).sum() == 2


def test_nothing_sound_makes_no_store_and_leaves_nothing(write, tmp_path):
    write("1abc.pdb", 3)
    with pytest.raises(
        SourceError, match=r"no sound chain of 1 files; first: 1abc\.pdb \('1abc\.A'\): too short"
    ):
        prepare(tmp_path / "in", tmp_path / "store", TWO)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_new_files_are_added_and_the_old_ones_are_not_read_again(write, tmp_path):
    for k in range(5):
        write(f"{k}abc.pdb", 12 + k)
    prepare(tmp_path / "in", tmp_path / "store", TWO)
    before = content(tmp_path / "store")
    again = Seen()
    prepare(tmp_path / "in", tmp_path / "store", TWO, progress=again)
    assert not again.total
    assert content(tmp_path / "store") == before

    write("2xyz.cif.gz", 40)
    write("broken.pdb").write_text("ATOM  gibberish\n")
    added = Seen()
    prepare(tmp_path / "in", tmp_path / "store", TWO, progress=added)
    assert added.total == 2
    prepare(tmp_path / "in", tmp_path / "fresh", TWO)
    assert content(tmp_path / "store") == content(tmp_path / "fresh")
    assert "2xyz.A" in ChainStore.open(tmp_path / "store").names


def test_a_file_that_changed_is_read_again_and_one_that_was_only_touched_keeps_its_chains(write, tmp_path):
    write("1abc.pdb", 12)
    write("2abc.pdb", 13)
    prepare(tmp_path / "in", tmp_path / "store", TWO)
    os.utime(write("1abc.pdb", 12), (1, 1))
    os.utime(write("2abc.pdb", 20), (2, 2))
    seen = Seen()
    prepare(tmp_path / "in", tmp_path / "store", TWO, progress=seen)
    assert seen.total == 2
    assert list(ChainStore.open(tmp_path / "store").lengths) == [12, 20]
    prepare(tmp_path / "in", tmp_path / "fresh", TWO)
    assert content(tmp_path / "store") == content(tmp_path / "fresh")


def test_files_that_are_not_named_again_keep_their_chains(write, tmp_path):
    first = write("1abc.pdb", 12)
    prepare(first, tmp_path / "store", TWO)
    first.unlink()
    prepare(write("2abc.pdb", 13), tmp_path / "store", TWO)
    assert ChainStore.open(tmp_path / "store").names == ("1abc.A", "2abc.A")


def test_a_chain_whose_name_was_taken_comes_in_when_the_taker_is_gone(write, tmp_path):
    write("a/1abc.pdb", 12)
    write("b/1abc.pdb", 20)
    report = prepare(tmp_path / "in", tmp_path / "store", TWO)
    assert report.reasons("dropped") == {"duplicate name": 1}
    os.utime(write("a/1abc.pdb", 3), (1, 1))  # too short now
    prepare(tmp_path / "in", tmp_path / "store", TWO)
    assert list(ChainStore.open(tmp_path / "store").lengths) == [20]


def test_files_with_a_name_that_is_taken_are_not_read_again_for_it(write, tmp_path):
    write("a/1abc.pdb", 12)
    write("b/1abc.pdb", 20)
    prepare(tmp_path / "in", tmp_path / "store", TWO)
    write("2abc.pdb", 14)
    seen = Seen()
    report = prepare(tmp_path / "in", tmp_path / "store", TWO, progress=seen)
    assert seen.total == 1
    assert report.reasons("dropped") == {"duplicate name": 1}
    prepare(tmp_path / "in", tmp_path / "fresh", TWO)
    assert content(tmp_path / "store") == content(tmp_path / "fresh")


def test_a_chain_whose_taker_and_file_are_gone_is_missing_and_the_rest_is_kept(write, tmp_path):
    write("a/1abc.pdb", 12)
    gone = write("b/1abc.pdb", 20)
    write("2abc.pdb", 14)
    prepare(tmp_path / "in", tmp_path / "store", TWO)
    os.utime(write("a/1abc.pdb", 3), (1, 1))  # too short now
    gone.unlink()
    report = prepare(tmp_path / "in", tmp_path / "store", TWO)
    assert ChainStore.open(tmp_path / "store").names == ("2abc.A",)
    assert report.reasons("dropped") == {"too short": 1}


@pytest.mark.parametrize("asked", [True, False])
def test_chains_stay_in_the_splits_made_for_them_when_files_are_added(write, tmp_path, asked):
    for k in range(9):
        write(f"{k}abc.pdb", 20 + k)
    settings = PrepareSettings(
        processes=1, split_by="topology", cath_domains=(tmp_path / "cath.txt",), seed=3
    )
    lines = [f"{k}{x}A00 v4_3_0 1.{k}.8.10 1-20:A" for k in range(9) for x in ("abc", "xyz")]
    (tmp_path / "cath.txt").write_text("\n".join(lines) + "\n")
    prepare(tmp_path / "in", tmp_path / "store", settings)
    store = ChainStore.open(tmp_path / "store")
    before = dict(zip(store.names, store.splits, strict=True))
    for k in range(9):
        write(f"{k}xyz.pdb", 30 + k)
    prepare(
        tmp_path / "in", tmp_path / "store", settings if asked else replace(settings, split_by=None, seed=0)
    )
    store = ChainStore.open(tmp_path / "store")
    after = dict(zip(store.names, store.splits, strict=True))
    assert len(after) == 18
    assert after == before | {f"{k}xyz.A": before[f"{k}abc.A"] for k in range(9)}
    assert store.provenance["make_splits"]["seed"] == 3


def test_files_are_not_added_without_the_splits_file_that_the_store_was_made_with(write, tmp_path):
    write("1abc.pdb")
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["1abc.A", "2abc.A"]}))
    settings = PrepareSettings(processes=1, splits=tmp_path / "splits.json")
    prepare(tmp_path / "in", tmp_path / "store", settings)
    write("2abc.pdb")
    with pytest.raises(StoreError, match="made with a splits file; give it"):
        prepare(tmp_path / "in", tmp_path / "store", TWO)
    prepare(tmp_path / "in", tmp_path / "store", settings)
    assert ChainStore.open(tmp_path / "store").splits == ("train", "train")


def test_a_store_of_other_settings_or_sources_is_not_added_to(write, tmp_path, make_line):
    write("1abc.pdb")
    prepare(tmp_path / "in", tmp_path / "store", TWO)
    with pytest.raises(StoreError, match="other settings; --overwrite replaces it"):
        prepare(tmp_path / "in", tmp_path / "store", PrepareSettings(min_length=9))
    (tmp_path / "chain_set.jsonl").write_text(make_line("a"))
    with pytest.raises(StoreError, match="--overwrite replaces it"):
        prepare(tmp_path / "chain_set.jsonl", tmp_path / "store")
    prepare(tmp_path / "chain_set.jsonl", tmp_path / "store", PrepareSettings(overwrite=True))
    with pytest.raises(StoreError, match="made of other things"):
        prepare(tmp_path / "in", tmp_path / "store")


def test_labels_and_domains_come_from_caths_lists(write, tmp_path):
    write("1abc.pdb", 30, residue_ids=tuple(map(str, range(5, 35))))
    write("2abc.pdb", 20)
    lists = tmp_path / "cath-b.txt"
    lists.write_text("1abcA01 v4_3_0 1.10.8.10 5-14:A\n1abcA02 v4_3_0 3.40.50.300 15-34:A\n")
    labelled = PrepareSettings(processes=1, cath_domains=(lists,))
    prepare(tmp_path / "in", tmp_path / "chains", labelled)
    store = ChainStore.open(tmp_path / "chains")
    assert store.names == ("1abc.A", "2abc.A")
    assert store.cath == (("1.10.8.10", "3.40.50.300"), ())

    cut = PrepareSettings(processes=1, cath_domains=(lists,), domains=True)
    report = prepare(tmp_path / "in", tmp_path / "domains", cut)
    store = ChainStore.open(tmp_path / "domains")
    assert store.names == ("1abcA01", "1abcA02")
    assert list(store.lengths) == [10, 20]
    assert store.cath == (("1.10.8.10",), ("3.40.50.300",))
    assert report.reasons("dropped") == {"no CATH domain": 1}
    before = content(tmp_path / "domains")
    prepare(tmp_path / "in", tmp_path / "domains", cut)
    assert content(tmp_path / "domains") == before


def test_a_domain_is_in_its_chains_split(write, tmp_path):
    write("1abc.pdb", 30)
    write("2abc.pdb", 20)
    (tmp_path / "cath.txt").write_text("1abcA01 v4_3_0 1.10.8.10 5-14:A\n2abcA01 v4_3_0 1.10.8.10 1-9:A\n")
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["1abc.A"], "test": ["9xyz.A"]}))
    settings = PrepareSettings(
        processes=1, cath_domains=(tmp_path / "cath.txt",), domains=True, splits=tmp_path / "splits.json"
    )
    report = prepare(tmp_path / "in", tmp_path / "store", settings)
    assert ChainStore.open(tmp_path / "store").splits == ("train", "none")
    assert report.absent_from_source == 1


@pytest.mark.parametrize("method", ["cluster", "topology"])
def test_splits_are_made_here(write, tmp_path, method):
    for k in range(9):
        write(f"{k}abc.pdb", 20 + k)
    (tmp_path / "cath.txt").write_text("".join(f"{k}abcA00 v4_3_0 1.{k}.8.10 1-20:A\n" for k in range(9)))
    settings = PrepareSettings(processes=1, split_by=method, cath_domains=(tmp_path / "cath.txt",), seed=3)
    report = prepare(tmp_path / "in", tmp_path / "store", settings)
    store = ChainStore.open(tmp_path / "store")
    assert {"train", "test", "validation"} == set(store.splits)
    assert report.split_sizes == {name: store.splits.count(name) for name in report.split_sizes}
    assert report.split_notes
    assert store.provenance["make_splits"]["seed"] == 3


def test_shards_are_merged_into_the_store_of_one_run(write, tmp_path):
    for k in range(9):
        write(f"{k}abc.pdb", 20 + k)
    write("z/3abc.cif", 40)  # its name is taken, by a file of another shard
    write("0bad.pdb").write_text("ATOM  gibberish\n")
    whole = PrepareSettings(processes=1, split_by="cluster")
    prepare(tmp_path / "in", tmp_path / "whole", whole)
    parts = []
    for k in (1, 2, 3):
        parts.append(tmp_path / f"part{k}")
        prepare(tmp_path / "in", parts[-1], PrepareSettings(processes=1, split_by="cluster", shard=(k, 3)))
    merge_stores(tmp_path / "merged", parts[::-1], join=join_shards)
    assert content(tmp_path / "merged") == content(tmp_path / "whole")


def test_shards_without_a_sound_chain_or_without_a_file_are_merged_all_the_same(write, tmp_path):
    write("0bad.pdb").write_text("ATOM  gibberish\n")
    write("1abc.pdb", 20)
    prepare(tmp_path / "in", tmp_path / "whole", TWO)
    parts = [tmp_path / f"part{k}" for k in (1, 2, 3, 4)]
    for k, part in enumerate(parts, 1):
        report = prepare(tmp_path / "in", part, PrepareSettings(processes=1, shard=(k, 4)))
        assert report.kept == len(ChainStore.open(part)) == (k == 4)
    merge_stores(tmp_path / "merged", parts, join=join_shards)
    assert content(tmp_path / "merged") == content(tmp_path / "whole")
    (tmp_path / "in" / "1abc.pdb").write_text("ATOM  gibberish\n")
    for k in (1, 2):
        prepare(tmp_path / "in", tmp_path / f"bad{k}", PrepareSettings(processes=1, shard=(k, 2)))
    with pytest.raises(StoreError, match="no chain was found"):
        merge_stores(tmp_path / "bad", [tmp_path / "bad1", tmp_path / "bad2"], join=join_shards)


@pytest.mark.parametrize("ending", ["\n", ""])
def test_lines_of_a_chain_set_that_are_too_long_are_told_in_their_places(
    tmp_path, make_line, monkeypatch, ending
):
    monkeypatch.setattr("minifold_pl.data.chain_set.LONGEST_LINE", 2000, raising=False)
    lines = [make_line(f"c{k}") for k in range(12)]
    for k in (0, 4, 5, 11):
        lines[k] += " " * 2000
    lines[7] = "{"
    path = tmp_path / "chain_set.jsonl.gz"
    path.write_bytes(gzip.compress(("\n".join(lines) + ending).encode()))
    report = prepare(path, tmp_path / "whole")
    assert ChainStore.open(tmp_path / "whole").names == tuple(f"c{k}" for k in (1, 2, 3, 6, 8, 9, 10))
    told = [str(problem).split(":")[:2] for problem in report.problems]
    long = " line too long"
    assert told == [
        ["line 1", long],
        ["line 5", long],
        ["line 6", long],
        ["line 8", " not JSON"],
        ["line 12", long],
    ]
    parts = [tmp_path / f"part{k}" for k in range(1, 8)]
    for k, part in enumerate(parts, 1):
        prepare(path, part, PrepareSettings(shard=(k, 7)))
    merge_stores(tmp_path / "merged", parts, join=join_shards)
    assert content(tmp_path / "merged") == content(tmp_path / "whole")


def test_shards_of_a_damaged_chain_set_are_merged_into_the_store_of_one_run(tmp_path, make_line):
    lines = [make_line(f"c{k}", 40 + k) for k in range(20)]
    path = tmp_path / "chain_set.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode())[:-300])
    assert prepare(path, tmp_path / "whole").reasons("dropped") == {"damaged gzip": 1}
    for total in (3, 40):
        parts = [tmp_path / f"part{k}-{total}" for k in range(1, total + 1)]
        for k, part in enumerate(parts, 1):
            prepare(path, part, PrepareSettings(shard=(k, total)))
        merge_stores(tmp_path / f"merged{total}", parts, join=join_shards)
        assert content(tmp_path / f"merged{total}") == content(tmp_path / "whole")


def _half(source, k, out):
    prepare(source, out, PrepareSettings(processes=1, shard=(k, 2)))
    return out


def test_shards_of_a_folder_that_changed_between_them_are_refused_by_how_they_differ(write, tmp_path):
    for k in range(6):
        write(f"{k}abc.pdb", 12 + k)
    one = _half(tmp_path / "in", 1, tmp_path / "one")
    write("2abc.pdb", 14).unlink()  # the chain of 3abc.pdb would now be in neither of them
    two = _half(tmp_path / "in", 2, tmp_path / "two")
    with pytest.raises(
        StoreError, match=r"one and .*two are shards of sources that differ: 6 files of .* 5 files"
    ):
        merge_stores(tmp_path / "merged", [one, two], join=join_shards)
    assert not (tmp_path / "merged").exists()
    merge_stores(tmp_path / "merged", [_half(tmp_path / "in", 1, one), two], join=join_shards)
    assert len(ChainStore.open(tmp_path / "merged")) == 5


@pytest.mark.parametrize("how", ["name", "size"])
def test_shards_of_folders_of_one_name_are_told_apart_by_their_files(write, tmp_path, how):
    write("1abc.pdb", folder="a/x")
    write("2abc.pdb", folder="a/x")
    write("1abc.pdb", folder="b/x")
    write("3abc.pdb" if how == "name" else "2abc.pdb", 12 if how == "name" else 13, folder="b/x")
    one = _half(tmp_path / "a" / "x", 1, tmp_path / "one")
    two = _half(tmp_path / "b" / "x", 2, tmp_path / "two")
    with pytest.raises(
        StoreError, match=r"are shards of sources that differ: 2 files of .*, and 2 files of "
    ):
        merge_stores(tmp_path / "merged", [one, two], join=join_shards)


@pytest.mark.parametrize("name", ["chain_set.jsonl", "table.fasta"])
def test_shards_of_a_file_whose_lines_changed_places_are_refused(tmp_path, make_line, name):
    path = tmp_path / name
    lines = [make_line(f"c{k}") if "json" in name else f">c{k}\nACDEFGHIKLMN" for k in range(8)]
    path.write_text("\n".join(lines) + "\n")
    one = _half(path, 1, tmp_path / "one")
    path.write_text("\n".join(lines[::-1]) + "\n")
    two = _half(path, 2, tmp_path / "two")
    with pytest.raises(StoreError, match="are shards of sources that differ: 1 file of "):
        merge_stores(tmp_path / "merged", [one, two], join=join_shards)


def test_shards_of_a_chain_set_are_merged_into_the_store_of_one_run(tmp_path, make_line):
    lines = [make_line(f"c{k}", 12, split="train") for k in range(20)]
    lines[7] = "{"
    lines[15] = make_line("c2", 12)
    (tmp_path / "chain_set.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "chain_set_splits.json").write_text(json.dumps({"test": ["c3", "c18", "gone"]}))
    prepare(tmp_path / "chain_set.jsonl", tmp_path / "whole")
    parts = [tmp_path / f"part{k}" for k in (1, 2, 3, 4)]
    for k, part in enumerate(parts, 1):
        prepare(tmp_path / "chain_set.jsonl", part, PrepareSettings(shard=(k, 4)))
    merge_stores(tmp_path / "merged", parts, join=join_shards)
    assert content(tmp_path / "merged") == content(tmp_path / "whole")


def test_a_file_that_kills_or_stops_its_reader_is_told_and_the_others_are_kept(write, tmp_path, monkeypatch):
    """Processes of the pool import ``sitecustomize`` from the path, and with it a parser that is not to be trusted."""
    (tmp_path / "site" / "sitecustomize.py").parent.mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        """
import os, signal, time
import gemmi
read = gemmi.read_pdb_string
def read_pdb_string(text, **options):
    if b"SEGFAULT" in text:
        os.kill(os.getpid(), signal.SIGSEGV)
    if b"FOREVER" in text:
        time.sleep(1000)
    return read(text, **options)
gemmi.read_pdb_string = read_pdb_string
"""
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for k in range(20):
        write(f"{k:02d}.pdb", 12)
    for name, word in (("05.pdb", "SEGFAULT"), ("11.pdb", "FOREVER"), ("19.pdb", "SEGFAULT")):
        path = tmp_path / "in" / name
        path.write_bytes(b"REMARK 999 " + word.encode() + b"\n" + path.read_bytes())
    report = prepare(tmp_path / "in", tmp_path / "store", PrepareSettings(processes=2, timeout=1.0))
    assert report.kept == 17
    assert report.files_refused == {
        "05.pdb": "the process that read it died: signal SIGSEGV",
        "11.pdb": "took too long: more than 1 s",
        "19.pdb": "the process that read it died: signal SIGSEGV",
    }
    (tmp_path / "site" / "sitecustomize.py").unlink()
    seen = Seen()
    report = prepare(tmp_path / "in", tmp_path / "store", TWO, progress=seen)
    assert (report.kept, report.files_refused, seen.total) == (20, {}, 3)


def test_pipes_dead_links_and_loops_are_told_or_passed(write, tmp_path):
    write("1abc.pdb")
    os.mkfifo(tmp_path / "in" / "pipe.pdb")
    (tmp_path / "in" / "dead.pdb").symlink_to("nowhere")
    (tmp_path / "in" / "loop").symlink_to(".")
    report = prepare(tmp_path / "in", tmp_path / "store", TWO)
    assert report.kept == 1
    assert report.files_refused == {"dead.pdb": "does not exist", "pipe.pdb": "is no regular file"}


def test_a_file_without_atoms_is_told_of_by_its_name(write, tmp_path):
    text = write("1abc.pdb").read_text()
    (tmp_path / "in" / "head.pdb").write_text("HEADER    HYDROLASE\nREMARK 465\n" * 20)
    (tmp_path / "in" / "models.pdb").write_text(f"MODEL        1\nENDMDL\nMODEL        2\n{text}ENDMDL\n")
    report = prepare(tmp_path / "in", tmp_path / "store", TWO)
    assert report.kept == 1
    assert report.files_refused == {
        "head.pdb": "holds no atoms",
        "models.pdb": "holds no atoms: in its first model",
    }


def test_a_store_beside_its_sources_is_not_read_as_one_of_them(write, tmp_path):
    write("1abc.pdb")
    for _ in range(2):
        write("2abc.pdb")
        report = prepare(tmp_path / "in", tmp_path / "in" / "store", TWO)
        assert (report.files, report.kept, report.files_refused) == (2, 2, {})


def test_files_may_have_any_name(write, tmp_path):
    content = write("1abc.pdb").read_bytes()
    for k, name in enumerate([b"\xff\xfe.pdb", b"two\nlines.pdb", b" .pdb", "日本.pdb".encode()]):
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(content if k else b"broken")
    report = prepare(tmp_path / "in", tmp_path / "store", TWO)
    names = {" .A", "1abc.A", "two\ufffdlines.A", "日本.A"}
    assert set(ChainStore.open(tmp_path / "store").names) == names
    assert report.files_refused == {"\ufffd\ufffd.pdb": "is neither PDB nor mmCIF"}
    assert all(str(problem).isprintable() for problem in report.problems)
    write("2abc.pdb")
    report = prepare(tmp_path / "in", tmp_path / "store", TWO)
    assert set(ChainStore.open(tmp_path / "store").names) == names | {"2abc.A"}


def test_two_runs_do_not_work_on_the_same_store(write, tmp_path):
    write("1abc.pdb")
    with (
        Journal(tmp_path / ".store.prepare", {}),
        pytest.raises(ValueError, match="another process works on it"),
    ):
        prepare(tmp_path / "in", tmp_path / "store", TWO)
    prepare(tmp_path / "in", tmp_path / "store", TWO)


def test_what_another_run_adds_meanwhile_is_not_undone(write, tmp_path, monkeypatch):
    for name in ("1abc", "2abc", "3abc"):
        write(f"{name}.pdb", folder=name)
    store = tmp_path / "store"
    prepare(tmp_path / "1abc", store, TWO)
    expected = {"1abc.A", "2abc.A"}
    remember = StructureFiles._remember

    def remember_while_another_adds(work, out):
        remember(work, out)
        monkeypatch.undo()
        with suppress(FolderBusyError):
            prepare(tmp_path / "3abc", store, TWO)
            expected.add("3abc.A")

    monkeypatch.setattr(StructureFiles, "_remember", remember_while_another_adds)
    prepare(tmp_path / "2abc", store, TWO)
    assert set(ChainStore.open(store).names) == expected
    prepare(tmp_path / "3abc", store, TWO)
    assert set(ChainStore.open(store).names) == {"1abc.A", "2abc.A", "3abc.A"}


def _killed(module, name):
    """A child process in which ``prepare`` adds to the store and dies as it calls ``module.name``."""
    code = (
        "import os, sys, importlib\n"
        "from minifold_pl.data.prepare import PrepareSettings, prepare\n"
        f"module = importlib.import_module({module!r})\n"
        f"module.{name} = lambda *_, **__: os._exit(9)\n"
        "prepare(sys.argv[1], sys.argv[2], PrepareSettings(processes=1))\n"
    )

    def run(source, out):
        done = subprocess.run(
            [sys.executable, "-c", code, str(source), str(out)],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
                "OMP_NUM_THREADS": "1",
            },
            check=False,
        )
        assert done.returncode == 9

    return run


def test_the_old_store_that_a_kill_left_beside_the_new_one_is_removed_by_the_same_command(write, tmp_path):
    write("1abc.pdb")
    store = tmp_path / "store"
    prepare(tmp_path / "in", store, TWO)
    write("2abc.pdb")
    _killed("minifold_pl.data.store_writer", "StoreWriter._discard")(tmp_path / "in", store)
    assert ChainStore.open(store).names == ("1abc.A", "2abc.A")
    assert list(tmp_path.glob(".store.partial-*"))
    assert prepare(tmp_path / "in", store, TWO).already_there
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "store"]


def test_a_store_that_a_kill_left_aside_is_put_back_before_it_is_added_to(write, tmp_path):
    first = write("1abc.pdb")
    store = tmp_path / "store"
    prepare(first, store, TWO)
    dead = subprocess.Popen(["true"])
    dead.wait()
    store.rename(tmp_path / f".store.replaced-{socket.gethostname()}-{dead.pid}")
    prepare(write("2abc.pdb"), store, TWO)
    assert ChainStore.open(store).names == ("1abc.A", "2abc.A")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "store"]


@pytest.mark.parametrize("name", ["sources.jsonl", "report.json"])
def test_an_account_that_has_changed_is_noticed_where_it_is_used(write, tmp_path, name):
    write("1abc.pdb")
    store = tmp_path / "store"
    prepare(tmp_path / "in", store, TWO)
    text = (store / name).read_text()
    changed = text.replace('"1abc.A"', '"1abd.A"') if name == "sources.jsonl" else text.replace(": 1", ": 7")
    assert len(changed) == len(text)
    assert changed != text
    (store / name).write_text(changed)
    with pytest.raises(StoreError, match=f"store is damaged: {name} has changed"):
        prepare(tmp_path / "in", store, TWO)
    with pytest.raises(StoreError, match=f"store is damaged: {name} has changed"):
        merge_stores(tmp_path / "merged", [store], join=join_shards)
    write("2abc.pdb", folder="more")
    if name == "sources.jsonl":  # the other one is made anew of it
        with pytest.raises(StoreError, match=f"store is damaged: {name} has changed"):
            prepare(tmp_path / "more", store, TWO)
    prepare(tmp_path / "in", store, replace(TWO, overwrite=True))
    prepare(tmp_path / "more", store, TWO)
    assert ChainStore.open(store).names == ("1abc.A", "2abc.A")
    ChainStore.open(store).verify()


def test_a_mistyped_command_leaves_the_journal_of_a_killed_run_and_nothing_of_its_own(write, tmp_path):
    write("1abc.pdb")
    journal = tmp_path / ".store.prepare"
    with Journal(journal, {}) as begun:
        begun.add("done", b"x")
    before = (journal / "journal").read_bytes()
    with pytest.raises(SourceError, match="does not exist"):
        prepare(tmp_path / "no", tmp_path / "store", TWO)
    assert (journal / "journal").read_bytes() == before
    with pytest.raises(SourceError, match="does not exist"):
        prepare(tmp_path / "no", tmp_path / "new" / "folder" / "store", TWO)
    assert not (tmp_path / "new").exists()


class _StoppedError(BaseException):
    """What a signal is to a run."""


@pytest.fixture
def stopped(monkeypatch):
    """Runs ``prepare`` until so many pieces are done, and some more that were done with them; returns their keys."""

    def run(source, out, settings, count):
        done = []

        @contextmanager
        def progress(description, total):
            def advance(number):
                if len(done) >= count:
                    raise _StoppedError

            yield advance

        with monkeypatch.context() as patch, pytest.raises(_StoppedError):
            add = Journal.add
            patch.setattr(Journal, "add", lambda self, key, data: (add(self, key, data), done.append(key)))
            prepare(source, out, settings, progress=progress)
        return done

    return run


def _spoiled(path):
    """Nothing of the file is left but its size and time: whoever reads it again gets no chain."""
    status = path.stat()
    path.write_bytes(b"\n" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("processes", [1, 2])
def test_files_that_were_read_before_a_run_was_stopped_are_not_read_again(
    write, tmp_path, stopped, processes
):
    settings = PrepareSettings(processes=processes)
    paths = [write(f"{k}abc.pdb", 12 + k) for k in range(9)]
    prepare(tmp_path / "in", tmp_path / "whole", settings)
    keys = stopped(tmp_path / "in", tmp_path / "store", settings, 4)
    done = [path for path in paths if any(key.startswith(f"{path}\0") for key in keys)]
    assert 4 <= len(done) < 9
    for path in done:
        _spoiled(path)
    seen = Seen()
    prepare(tmp_path / "in", tmp_path / "store", settings, progress=seen)
    assert seen.total == 9 - len(done)
    assert content(tmp_path / "store") == content(tmp_path / "whole")


@pytest.mark.parametrize("processes", [1, 2])
def test_lines_that_were_read_before_a_run_was_stopped_are_not_read_again(
    tmp_path, make_line, monkeypatch, stopped, processes
):
    monkeypatch.setattr(source_work, "_BLOCK_BYTES", 1)  # each line is a piece of its own
    monkeypatch.setattr(source_work, "_IN_PROCESS_BYTES", 0)
    settings = PrepareSettings(processes=processes)
    path = tmp_path / "chain_set.jsonl"
    lines = [make_line(f"c{k}", 12 + k) for k in range(9)]
    path.write_text("\n".join(lines) + "\n")
    done = {int(key) - 1 for key in stopped(path, tmp_path / "store", settings, 4)}
    assert 4 <= len(done) < 9
    status = path.stat()
    path.write_text("\n".join(" " * len(t) if k in done else t for k, t in enumerate(lines)) + "\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    report = prepare(path, tmp_path / "store", settings)
    assert not report.problems
    store = ChainStore.open(tmp_path / "store")
    assert store.names == tuple(f"c{k}" for k in range(9))
    assert store.lengths.tolist() == list(range(12, 21))


@pytest.fixture
def real_folder(real_data, tmp_path):
    """Makes a folder of real chains as structure files, with some that are damaged."""

    def make(count):
        rng = np.random.default_rng(0)
        folder = tmp_path / "files"
        folder.mkdir()
        records = (r for r in read_chain_set(real_data / "chain_set.jsonl.gz") if isinstance(r, ChainRecord))
        for k, record in zip(range(count), records, strict=False):
            chain = ObservedChain(name=record.name, sequence=record.sequence, coords=record.coords, chain="A")
            text = (observed_pdb_text if k % 3 else observed_mmcif_text)(chain).encode()
            if k % 10 == 9:
                text = text[: rng.integers(len(text))]
            name = f"{record.name.split('.')[0]}.{'pdb' if k % 3 else 'cif'}"
            (folder / name).write_bytes(text)
        return folder

    return make


def test_a_run_that_is_killed_goes_on_to_the_store_of_an_undisturbed_one(real_folder, tmp_path):
    expected, seen = kill_and_go_on(real_folder(60), tmp_path, kills=4, seed=0)
    assert "chains-00000.bin" in expected
    assert seen["killed"] == 4


@pytest.mark.slow
def test_thirty_kills_at_random_moments_change_nothing(real_folder, tmp_path):
    _, seen = kill_and_go_on(real_folder(600), tmp_path, kills=30, seed=1)
    assert seen["with a journal"] >= 10


@pytest.mark.slow
def test_a_chain_set_that_is_killed_goes_on_to_the_same_store(real_data, tmp_path):
    _, seen = kill_and_go_on(real_data / "chain_set.jsonl.gz", tmp_path, kills=6, seed=2)
    assert seen["with a journal"] >= 2


def test_an_interrupted_run_says_so_and_leaves_no_process(real_folder, tmp_path):
    folder = real_folder(60)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "minifold_pl.cli.main",
            "data",
            "prepare",
            str(folder),
            "--out",
            str(tmp_path / "s"),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode in (130, 0)
    assert b"Traceback" not in err
