"""What the export room writes, the reader reads: nothing of a chain is lost in a PDB or mmCIF file."""

import gzip
from itertools import islice

import numpy as np
import pytest

from minifold_pl.data.chain_set import read_chain_set
from minifold_pl.data.records import ChainRecord, peptide_bonds
from minifold_pl.data.structure_file import parse_structure
from minifold_pl.export.observed import ObservedChain, observed_mmcif_text, observed_pdb_text

WRITERS = {"pdb": observed_pdb_text, "mmcif": observed_mmcif_text}


def _numbered(length, rng):
    """Author numbers as they occur: any start, jumps, negative ones, runs of insertion codes."""
    ids, number = [], int(rng.integers(-20, 300))
    while len(ids) < length:
        ids.append(str(number))
        if rng.random() < 0.02:
            ids += [f"{number}{code}" for code in "ABCDEF"[: rng.integers(1, 6)]]
        number += int(rng.integers(2, 9)) if rng.random() < 0.02 else 1
    return tuple(ids[:length])


def _check_round_trip(record, ids, rng):
    observed = ObservedChain(
        name=record.name,
        sequence=record.sequence,
        coords=record.coords,
        residue_ids=ids,
        chain="ABCxyz09"[rng.integers(8)],
        title="a chain's copy",
    )
    for name, writer in WRITERS.items():
        text = writer(observed).encode()
        found = parse_structure(gzip.compress(text, 1) if rng.random() < 0.1 else text, record.name)
        (chain,) = found.chains
        assert found.format == name
        assert found.dropped == ()
        assert chain.name == observed.chain
        assert chain.sequence == record.sequence, (record.name, name)
        assert chain.residue_ids == (ids or tuple(map(str, range(1, len(record) + 1)))), (record.name, name)
        np.testing.assert_allclose(chain.coords, record.coords, rtol=0, atol=0.001, err_msg=record.name)
        bonded = peptide_bonds(record.coords, record.breaks)
        np.testing.assert_array_equal(peptide_bonds(chain.coords, chain.breaks), bonded, err_msg=record.name)


def _real_chains(folder, step, count):
    records = islice(read_chain_set(folder / "chain_set.jsonl.gz"), 0, None, step)
    return islice((r for r in records if isinstance(r, ChainRecord)), count)


def test_real_chains_survive_both_formats(real_data):
    rng = np.random.default_rng(0)
    for number, record in enumerate(_real_chains(real_data, 20, 100)):
        _check_round_trip(record, _numbered(len(record), rng) if number % 2 else (), rng)


@pytest.mark.slow
def test_every_second_real_chain_survives_both_formats(real_data):
    rng = np.random.default_rng(1)
    count = 0
    for record in _real_chains(real_data, 2, 2500):
        count += 1
        _check_round_trip(record, _numbered(len(record), rng) if count % 2 else (), rng)
    assert count >= 1000


def test_chains_of_ca_alone_survive_both_formats(real_data):
    rng = np.random.default_rng(2)
    records = read_chain_set(real_data / "ca_only.jsonl.gz")
    for record in islice((r for r in records if isinstance(r, ChainRecord)), 30):
        _check_round_trip(record, (), rng)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_chain_with_gaps_repeats_and_missing_atoms_is_the_same_afterwards(make_record, writer):
    """A sequence of repeats, in which a gap could be placed in many ways: the numbers decide."""
    record = make_record("1abc.A", 40, sequence="GSGSGSGSAA" * 4)
    coords = record.coords.copy()
    coords[3:9] = np.nan
    coords[20:22] = np.nan
    coords[12, 3] = coords[15, 0] = np.nan
    ids = (*map(str, range(7, 17)), "16A", "16B", *map(str, range(17, 45)))
    observed = ObservedChain(name="1abc", sequence=record.sequence, coords=coords, residue_ids=ids)
    (chain,) = parse_structure(WRITERS[writer](observed).encode(), "1abc").chains
    assert chain.sequence == record.sequence
    assert chain.residue_ids == ids
    np.testing.assert_allclose(chain.coords, coords, rtol=0, atol=0.001)


def test_unknown_residues_survive(make_record):
    record = make_record("1abc.A", 12, sequence="ACDXXFGHIXKL")
    for writer in WRITERS.values():
        text = writer(ObservedChain(name="1abc", sequence=record.sequence, coords=record.coords)).encode()
        assert parse_structure(text, "1abc").chains[0].sequence == record.sequence
