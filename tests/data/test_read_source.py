"""Files that are read many at once give what each gives alone."""

import numpy as np
import pytest
from tests.data.mutations import mutated

from minifold_pl.data.outcome import Outcome
from minifold_pl.data.read_source import SAME, read_file, read_files
from minifold_pl.data.structure_content import StructureFileError
from minifold_pl.data.structure_file import StructureReader, read_together
from minifold_pl.export.observed import ObservedChain, observed_mmcif_text, observed_pdb_text

ASKED = (4, 0.9, (), False, "")


@pytest.fixture
def texts(make_record):
    """PDB and mmCIF texts of chains with gaps, insertion codes, Cα alone, atoms far off, and unknown residues."""
    texts = []
    for k in range(6):
        record = make_record("1abc", 24 + k, sequence=("ACDEFGHIKLMNPQRSTVWYX" * 2)[: 24 + k])
        coords = record.coords.copy()
        coords[5:7] = np.nan
        ids = tuple(f"{n}{'A' if n == 9 else ''}" for n in range(1, 25 + k))
        if k == 1:
            coords[:, [0, 2, 3]] = np.nan
        if k == 2:
            coords[10, 0] += 60.0
        if k == 3:
            coords[:] = 0.0
        chain = ObservedChain(name="1abc", sequence=record.sequence, coords=coords, residue_ids=ids)
        texts += [observed_pdb_text(chain).encode(), observed_mmcif_text(chain).encode()]
    return texts


def test_damaged_files_read_at_once_give_what_each_gives_alone(texts, tmp_path):
    paths = []
    for k in range(240):
        content = texts[k % len(texts)]
        paths.append(tmp_path / f"{k:03d}.pdb")
        paths[-1].write_bytes(mutated(content, np.random.default_rng([k, 3]))[1] if k % 3 else content)
    paths.append(tmp_path / "absent.pdb")
    alone = [read_file(str(path), *ASKED) for path in paths]
    kinds = {bool(entry.chain) for answer in alone for entry in Outcome.decoded(answer).entries}
    assert kinds == {True, False}
    for size in (2, 16, len(paths)):
        together = []
        for start in range(0, len(paths), size):
            together += read_files([(str(path), *ASKED) for path in paths[start : start + size]])
        assert together == alone


def test_a_file_that_is_known_is_not_read_and_each_is_told_of_as_it_is_taken_up(texts, tmp_path):
    paths = [tmp_path / f"{k}.pdb" for k in range(3)]
    for path, text in zip(paths, texts, strict=False):
        path.write_bytes(text)
    digest = Outcome.decoded(read_file(str(paths[1]), *ASKED)).sha256
    told = []
    calls = [(str(path), *ASKED[:-1], digest if k == 1 else "") for k, path in enumerate(paths)]
    answers = read_files(calls, told.append)
    assert told == [0, 1, 2, None]
    assert [answer == SAME for answer in answers] == [False, True, False]
    assert read_files([]) == []


def test_a_model_that_is_not_there_costs_no_other(texts):
    readers = [StructureReader(text, "x") for text in texts[:3]]
    one, none, other = read_together([(readers[0], 1), (readers[1], 2), (readers[2], 1)])
    assert isinstance(none, StructureFileError)
    assert str(none) == "has no such model: 2 of 1"
    for found, reader in ((one, readers[0]), (other, readers[2])):
        (alone,) = read_together([(reader, 1)])
        assert [chain.sequence for chain in found.chains] == [chain.sequence for chain in alone.chains]
        np.testing.assert_array_equal(found.chains[0].coords, alone.chains[0].coords)
