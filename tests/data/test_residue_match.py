from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minifold_pl.constants import AMINO_ACIDS
from minifold_pl.data.residue_match import match_residues

PROTEIN = "MKVLITGASSGIGRATALELAKRGYHVVLNDINEEAAEALAQELGAKVLPVDVTDRDAVRALIEEVRPDVVVHLAG"


def numbers(sequence: str, first: int = 1) -> list[str]:
    return [str(first + i) for i in range(len(sequence))]


def pairs(match) -> list[tuple[int, int]]:
    return list(zip(match.pred.tolist(), match.ref.tolist(), strict=True))


def offset(count: int, pred: int, ref: int) -> list[tuple[int, int]]:
    return [(pred + i, ref + i) for i in range(count)]


def test_equal_numbers_pair_equal_residues():
    match = match_residues(PROTEIN, numbers(PROTEIN, 27), PROTEIN, numbers(PROTEIN, 27))
    assert match.way == "number" and pairs(match) == offset(len(PROTEIN), 0, 0)
    assert match.identity == 1 and not match.doubtful


def test_missing_residues_are_left_out_where_numbers_agree():
    ids = numbers(PROTEIN)
    pred, pred_ids = PROTEIN[:20] + PROTEIN[31:], ids[:20] + ids[31:]
    match = match_residues(pred, pred_ids, PROTEIN, ids)
    assert match.way == "number"
    assert pairs(match) == offset(20, 0, 0) + offset(len(PROTEIN) - 31, 20, 31)


def test_a_renumbered_chain_is_aligned():
    match = match_residues(PROTEIN, [], PROTEIN, numbers(PROTEIN, 27))
    assert match.way == "alignment" and pairs(match) == offset(len(PROTEIN), 0, 0)


def test_a_chain_renumbered_behind_a_gap_is_aligned_though_most_numbers_agree():
    """Ten residues are missing and the numbers go on as if they were not: 53 of 66 would still be right."""
    pred = PROTEIN[:53] + PROTEIN[63:]
    match = match_residues(pred, numbers(pred), PROTEIN, numbers(PROTEIN))
    assert match.way == "alignment"
    assert pairs(match) == offset(53, 0, 0) + offset(len(PROTEIN) - 63, 53, 63)


def test_insertion_codes_tell_residues_of_one_number_apart():
    ref_ids = [*numbers(PROTEIN)[:30], "30A", "30B", *numbers(PROTEIN)[30:-2]]
    pred = PROTEIN[:31] + PROTEIN[32:]
    match = match_residues(pred, ref_ids[:31] + ref_ids[32:], PROTEIN, ref_ids)
    assert match.way == "number"
    assert pairs(match) == offset(31, 0, 0) + offset(len(PROTEIN) - 32, 31, 32)


def test_numbers_below_one_and_out_of_order_are_only_names():
    ids = ["-3", "-2", "-1", "0", *numbers(PROTEIN)[: len(PROTEIN) - 4]]
    order = [*range(10, len(PROTEIN)), *range(10)]
    match = match_residues("".join(PROTEIN[i] for i in order), [ids[i] for i in order], PROTEIN, ids)
    assert match.way == "number" and sorted(match.ref.tolist()) == list(range(len(PROTEIN)))
    assert all(order[p] == r for p, r in pairs(match))


def test_point_mutations_keep_the_numbers():
    mutant = "".join("W" if i % 12 == 5 else letter for i, letter in enumerate(PROTEIN))
    match = match_residues(mutant, numbers(mutant), PROTEIN, numbers(PROTEIN))
    assert match.way == "number" and len(match) == len(PROTEIN)


@pytest.mark.parametrize("letter", ["A", "G", "X"])
def test_a_model_of_one_kind_of_residue_keeps_its_numbers_and_is_called_doubtful(letter: str):
    match = match_residues(letter * len(PROTEIN), [], PROTEIN, numbers(PROTEIN))
    assert match.way == "number" and len(match) == len(PROTEIN) and match.doubtful


def test_unknown_residues_count_neither_for_nor_against_identity():
    half = "".join("X" if i % 2 else letter for i, letter in enumerate(PROTEIN))
    match = match_residues(half, numbers(half), PROTEIN, numbers(PROTEIN))
    assert match.identity == 1 and match.comparable == len(PROTEIN) // 2 + len(PROTEIN) % 2


def test_a_fragment_finds_its_place_and_a_longer_chain_keeps_its_ends_to_itself():
    for pred, ref in [(PROTEIN[25:60], PROTEIN), (PROTEIN, PROTEIN[25:60])]:
        match = match_residues(pred, [], ref, [])
        assert match.way == "alignment" and match.identity == 1 and len(match) == 35


def test_two_pieces_that_share_a_stretch_are_laid_on_it():
    match = match_residues(PROTEIN[:50], [], PROTEIN[25:], [])
    assert match.way == "alignment" and pairs(match) == offset(25, 25, 0)


def test_a_torn_off_end_residue_comes_back():
    """The aligner lays the K before the shared stretch on the K that the reference begins with."""
    pred, ref = "KETAAAKFERQHMDSSTSAASKDRCKPVNTFVHESLADVQA", "KDRCKPVNTFVHESLADVQAVCSQKNVACKNGQTNCY"
    assert pairs(match_residues(pred, [], ref, [], way="alignment")) == offset(20, 21, 0)
    pred, ref = "FSRAYPTPLRSKKTMLVQKNVTSESTKS", "FSRAYPTPLRSKKTMLVQKNVTSESTKSYNRVTVMGGFKVKS"
    assert pairs(match_residues(pred, [], ref, [], way="alignment")) == offset(28, 0, 0)


def test_the_way_can_be_chosen():
    shifted = numbers(PROTEIN, 5)
    assert match_residues(PROTEIN, [], PROTEIN, shifted, way="number").doubtful
    assert not match_residues(PROTEIN, numbers(PROTEIN), PROTEIN, shifted, way="alignment").doubtful
    with pytest.raises(ValueError, match="'order'; there are auto, number, alignment"):
        match_residues(PROTEIN, [], PROTEIN, [], way="order")


def test_residues_without_a_number_match_nothing_by_number():
    ids = ["" if i % 2 else str(i) for i in range(len(PROTEIN))]
    assert match_residues(PROTEIN, ids, PROTEIN, ids, way="number").pred.tolist() == list(
        range(0, len(PROTEIN), 2)
    )


def test_a_number_that_occurs_twice_is_used_once():
    match = match_residues("ACD", ["1", "1", "2"], "ACD", ["1", "1", "2"], way="number")
    assert pairs(match) == [(0, 0), (2, 2)]


def test_one_number_per_residue_is_needed():
    with pytest.raises(ValueError, match="2 residue numbers for 3 residues"):
        match_residues("ACD", ["1", "2"], "ACD", [])


def test_an_empty_chain_matches_nothing():
    assert len(match_residues("", [], PROTEIN, [])) == 0
    assert len(match_residues(PROTEIN, [], "", [], way="alignment")) == 0


@settings(max_examples=60, deadline=None)
@given(st.text(AMINO_ACIDS, min_size=25, max_size=80), st.data())
def test_a_deletion_behind_a_shifted_count_is_found(sequence: str, data):
    """Whatever the sequence, the letters laid on each other are the same and their order is kept."""
    start = data.draw(st.integers(5, len(sequence) - 10))
    stop = data.draw(st.integers(start + 1, len(sequence) - 6))
    pred = sequence[:start] + sequence[stop:]
    match = match_residues(pred, [], sequence, numbers(sequence, 1000))
    if 5 * len(pred) > 2 * len(sequence):  # else too little is left to call the two one protein
        assert match.way == "alignment" and match.identity == 1 and len(match) >= len(pred) - 2
    assert (np.diff(match.pred) > 0).all() and (np.diff(match.ref) > 0).all()


def test_unrelated_real_chains_are_never_aligned(real_data: Path):
    """An alignment of unrelated chains would find a quarter of the residues identical and mean nothing."""
    with gzip.open(real_data / "ci_small.jsonl.gz", "rt") as lines:
        sequences = [json.loads(line)["seq"] for line in lines]
    draw = np.random.default_rng(0)
    for _ in range(300):
        first, second = draw.choice(len(sequences), 2, replace=False)
        match = match_residues(sequences[first], [], sequences[second], [])
        assert match.way == "number" and match.doubtful


def test_halves_of_real_chains_find_where_they_overlap(real_data: Path):
    with gzip.open(real_data / "ci_small.jsonl.gz", "rt") as lines:
        sequences = [json.loads(line)["seq"] for line in lines]
    for sequence in sequences:
        length = len(sequence)
        stop, start = length // 2 + 15, length // 2 - 15
        if start < 1:
            continue
        match = match_residues(sequence[:stop], [], sequence[start:], [])
        assert pairs(match) == offset(30, start, 0)
