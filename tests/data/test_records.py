import numpy as np
import pytest

from minifold_pl.data.records import peptide_bonds, split_residue_id


def test_residues_of_a_whole_chain_are_joined_and_the_last_one_is_not(make_record):
    assert peptide_bonds(make_record("a", 5).coords).tolist() == [True] * 4 + [False]


def test_a_long_peptide_bond_breaks_the_chain(make_record):
    coords = make_record("a", 5).coords.copy()
    coords[3:, :, 1] += 2.0  # C–N is now 2.4 Å, Cα–Cα 4.3 Å
    assert peptide_bonds(coords).tolist() == [True, True, False, True, False]


def test_where_c_or_n_is_missing_the_ca_distance_decides(make_record):
    coords = make_record("a", 5).coords.copy()
    coords[:, [0, 2, 3]] = np.nan
    coords[3:, :, 1] += 3.0  # Cα–Cα 4.8 Å
    assert peptide_bonds(coords).tolist() == [True, True, False, True, False]


def test_a_residue_without_ca_is_joined_to_neither_neighbour(make_record):
    coords = make_record("a", 5).coords.copy()
    coords[2, 1] = np.nan
    assert peptide_bonds(coords).tolist() == [True, False, False, True, False]


def test_breaks_of_the_source_are_kept_where_the_geometry_sees_none(make_record):
    assert peptide_bonds(make_record("a", 5).coords, (1,)).tolist() == [True, False, True, True, False]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sequence": "AC"}, "coords have shape"),
        ({"coords": np.zeros((12, 4, 3))}, "float64"),
        ({"breaks": (11,)}, "breaks"),
        ({"split": "dev"}, "split 'dev' is none of train"),
    ],
)
def test_an_impossible_record_is_refused_by_name(make_record, fields, message):
    with pytest.raises(ValueError, match=f"1abc.A: .*{message}"):
        make_record("1abc.A", 12, **fields)


def test_ca_distances_of_cis_and_trans_bonds_count_as_joined():
    # 2.95 Å cis, 3.80 Å trans, Cα alone
    coords = np.full((3, 4, 3), np.nan, dtype=np.float32)
    coords[:, 1] = [[0, 0, 0], [2.95, 0, 0], [6.75, 0, 0]]
    assert peptide_bonds(coords).tolist() == [True, True, False]


def test_residue_numbers_are_as_many_as_residues_and_of_one_form(make_record):
    record = make_record("a", 3, residue_ids=("-3", "12", "12A"))
    assert [split_residue_id(i) for i in record.residue_ids] == [(-3, ""), (12, ""), (12, "A")]
    with pytest.raises(ValueError, match="2 residue numbers for 3 residues"):
        make_record("a", 3, residue_ids=("1", "2"))
    for bad in ("", "A", "1AB", "1.5", " 1", "1\n", "٣", "007", "-0"):
        with pytest.raises(ValueError, match="is not an integer with at most one letter"):
            make_record("a", 1, residue_ids=(bad,))
        with pytest.raises(ValueError, match="is not an integer with at most one letter"):
            split_residue_id(bad)


def test_a_chain_without_any_atom_is_a_sequence_only(make_record):
    coords = np.full((5, 4, 3), np.nan, dtype=np.float32)
    assert make_record("a", 5, coords=coords).sequence_only
    coords[2, 0] = [1, 2, np.nan]
    assert make_record("a", 5, coords=coords).sequence_only
    coords[2, 1] = 1.0
    assert not make_record("a", 5, coords=coords).sequence_only
