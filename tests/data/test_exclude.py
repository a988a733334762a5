"""What is related to held-out chains is left out of what is trained on, counted and told."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from minifold_pl.data.exclude import SAME_TOPOLOGY, SIMILAR, Candidate, Exclusion, relatives
from minifold_pl.data.prepare import PrepareSettings, prepare
from minifold_pl.data.records import ChainRecord
from minifold_pl.data.store import ChainStore, StoreError, write_store

LETTERS = list("ACDEFGHIKLMNPQRSTVWY")


def sequence(key: int, length: int = 80) -> str:
    return "".join(np.random.default_rng(key).choice(LETTERS, length))


def mutated(text: str, share: float, key: int = 0) -> str:
    """With this share of its residues replaced by others."""
    draw = np.random.default_rng(key)
    letters = list(text)
    for place in draw.permutation(len(text))[: round(share * len(text))]:
        letters[place] = draw.choice([letter for letter in LETTERS if letter != letters[place]])
    return "".join(letters)


def held_out(path: Path, chains: Sequence[tuple[str, str, str, tuple[str, ...]]]) -> Path:
    records = [
        ChainRecord(
            name=name, sequence=text, cath=cath, split=split,
            coords=np.full((len(text), 4, 3), np.nan, dtype=np.float32),
        )
        for name, split, text, cath in chains
    ]  # fmt: skip
    write_store(path, records)
    return path


@pytest.fixture
def structures(tmp_path: Path) -> Path:
    return held_out(
        tmp_path / "structures",
        [
            ("train.A", "train", sequence(1), ("3.40.50",)), ("val.A", "validation", sequence(2), ("1.20.5",)),
            ("test.A", "test", sequence(3, 160), ("3.40.50.10", "2.60.40.1")), ("bare.A", "test", sequence(4), ()),
        ],
    )  # fmt: skip


def quiet(description: str, total: int):
    return contextlib.nullcontext(lambda count: None)


def found(structures: Path, candidates: list[Candidate], **how) -> dict[str, str]:
    exclusion = Exclusion(stores=(structures,), **how)
    problems, _ = relatives(candidates, exclusion, search="kmer", progress=quiet)
    return {candidates[place].name: problem.reason for place, problem in problems.items()}


def test_a_topology_of_a_validation_or_test_chain_is_left_out_and_one_of_training_alone_is_not(
    structures,
) -> None:
    candidates = [
        Candidate("v", sequence(10), ("1.20.5.99",)), Candidate("t", sequence(11), ("2.60.40",)),
        Candidate("both", sequence(12), ("9.9.9", "3.40.50.7")), Candidate("new", sequence(13), ("4.10.5",)),
        Candidate("short code", sequence(14), ("1.20",)), Candidate("none", sequence(15), ()),
    ]  # fmt: skip
    assert found(structures, candidates) == dict.fromkeys(("v", "t", "both"), SAME_TOPOLOGY)
    assert found(structures, candidates, topology="unseen") == dict.fromkeys(("v", "t"), SAME_TOPOLOGY)
    assert found(structures, candidates, topology="none") == {}


def test_similar_sequences_are_left_out_from_the_identity_that_is_asked_for(structures) -> None:
    piece = sequence(3, 160)[40:120]
    candidates = [
        Candidate("same", sequence(2), ()), Candidate("near", mutated(sequence(2), 0.3), ()),
        Candidate("far", mutated(sequence(2), 0.75), ()), Candidate("domain", piece, ()),
        Candidate("unlabelled", mutated(sequence(4), 0.2), ()), Candidate("like training", sequence(1), ()),
        Candidate("other", sequence(20), ()),
    ]  # fmt: skip
    assert found(structures, candidates) == dict.fromkeys(("same", "near", "domain", "unlabelled"), SIMILAR)
    assert set(found(structures, candidates, identity=0.9)) == {"same", "domain"}


def test_every_chain_of_one_sequence_is_left_out(structures) -> None:
    near = mutated(sequence(2), 0.2)
    candidates = [
        Candidate("one", near, ()),
        Candidate("two", near, ()),
        Candidate("three", sequence(30), ()),
    ]
    assert set(found(structures, candidates)) == {"one", "two"}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [
        ("v", "train", "1.20.5.1", sequence(40)), ("near", "train", "4.10.5", mutated(sequence(2), 0.3)),
        ("fine", "train", "4.10.5", sequence(41)), ("kept", "validation", "1.20.5", sequence(42)),
        ("loose", "-", "2.60.40", sequence(43)), ("alone", "-", "-", sequence(44)),
    ]  # fmt: skip
    path = tmp_path / "table.tsv"
    lines = ["name\tsplit\tCATH\tseq", *("\t".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_prepare_leaves_them_out_counts_and_tells_them(table, structures, tmp_path) -> None:
    settings = PrepareSettings(exclude=Exclusion(stores=(structures,)), processes=1)
    report = prepare(table, tmp_path / "out", settings)
    store = ChainStore.open(tmp_path / "out")
    # What is validated on stays: it is not learned from.
    assert store.names == ("fine", "kept", "alone")
    assert report.reasons("dropped") == {SAME_TOPOLOGY: 2, SIMILAR: 1}
    assert report.kept == 3
    assert (
        "3 sequences held out, 3 topologies: 2 chains left out for their topology, 1 of the others"
        in report.table()
    )
    assert "1 held-out chains have no topology" in report.table()
    told = json.loads((tmp_path / "out" / "report.json").read_text())["problems"]
    assert any("'near'" in line and "of val.A (validation)" in line for line in told)
    assert not store.has_coords.any()


def test_with_splits_made_here_nothing_related_is_in_any_of_them(table, structures, tmp_path) -> None:
    settings = PrepareSettings(exclude=Exclusion(stores=(structures,)), split_by="cluster", processes=1)
    prepare(table, tmp_path / "out", settings)
    assert "kept" not in ChainStore.open(tmp_path / "out").names


def test_another_exclusion_makes_another_store(table, structures, tmp_path) -> None:
    exclusion = Exclusion(stores=(structures,))
    prepare(table, tmp_path / "out", PrepareSettings(exclude=exclusion, processes=1))
    again = prepare(table, tmp_path / "out", PrepareSettings(exclude=exclusion, processes=1))
    assert again.already_there
    assert again.reasons("dropped") == {SAME_TOPOLOGY: 2, SIMILAR: 1}
    with pytest.raises(StoreError, match="holds a store already"):
        prepare(table, tmp_path / "out", PrepareSettings(processes=1))


def test_a_store_that_is_none_is_told_before_anything_is_written(table, tmp_path) -> None:
    settings = PrepareSettings(exclude=Exclusion(stores=(tmp_path / "absent",)), processes=1)
    with pytest.raises(StoreError, match="absent does not exist"):
        prepare(table, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("how", "told"),
    [({"identity": 0.0}, "identity"), ({"identity": 1.5}, "identity"), ({"topology": "some"}, "some")],
)
def test_settings_that_cannot_be_are_named(how, told) -> None:
    with pytest.raises(ValueError, match=told):
        Exclusion(stores=(), **how)


def test_a_shard_of_a_source_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="give exclude or shard"):
        PrepareSettings(exclude=Exclusion(stores=(tmp_path,)), shard=(1, 2))
