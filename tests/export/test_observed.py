import numpy as np
import pytest

from minifold_pl.export.observed import ObservedChain, observed_mmcif_text, observed_pdb_text


@pytest.fixture
def make_chain():
    def make(length=6, **fields):
        coords = np.arange(length * 12, dtype=np.float32).reshape(length, 4, 3)
        return ObservedChain(
            **{"name": "1abc", "sequence": "ACDEFGHIKL"[:length], "coords": coords, **fields}
        )

    return make


def test_atoms_that_were_not_observed_have_no_line_and_residues_without_atoms_stand_in_the_sequence(
    make_chain,
):
    chain = make_chain(residue_ids=("5", "6", "6A", "7", "8", "9"))
    chain.coords[2] = np.nan
    chain.coords[4, 3] = np.nan
    lines = observed_pdb_text(chain).splitlines()
    atoms = [line for line in lines if line.startswith("ATOM")]
    assert len(atoms) == 6 * 4 - 4 - 1
    assert atoms[4] == "ATOM      5  N   CYS A   6      12.000  13.000  14.000  1.00  0.00           N  "
    assert [line for line in lines if line.startswith("SEQRES")] == [
        "SEQRES   1 A    6  ALA CYS ASP GLU PHE GLY                                      "
    ]
    assert [line.rstrip() for line in lines if line.startswith("REMARK 465")][
        -1
    ] == "REMARK 465     ASP A     6A"
    cif = observed_mmcif_text(chain).splitlines()
    assert "A 1 3 ASP 6 ? A A" in cif
    assert sum(line.startswith("ATOM") for line in cif) == len(atoms)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"sequence": "ACDEF"}, "expected"),
        ({"sequence": "ACDEFJ"}, "no residues are called J"),
        ({"residue_ids": ("1", "2")}, "2 residue numbers for 6 residues"),
        ({"coords": np.full((6, 4, 3), np.nan, dtype=np.float32)}, "no atom was observed"),
    ],
)
def test_a_chain_that_cannot_be_written_is_refused(make_chain, fields, told):
    with pytest.raises(ValueError, match=told):
        make_chain(**fields)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"chain": "AA"}, "not one letter: write mmCIF"),
        ({"residue_ids": ("1", "2", "3", "4", "5", "10000")}, "residue 10000 does not fit"),
        ({"coords": np.full((6, 4, 3), 12345.0, dtype=np.float32)}, "cannot hold: write mmCIF"),
    ],
)
def test_what_a_pdb_file_cannot_hold_goes_into_mmcif(make_chain, fields, told):
    with pytest.raises(ValueError, match=told):
        observed_pdb_text(make_chain(**fields))
    assert "_atom_site.Cartn_x" in observed_mmcif_text(make_chain(**fields))


def test_a_residue_number_of_another_form_is_refused(make_chain):
    with pytest.raises(ValueError, match="'x7' is not of the form"):
        observed_mmcif_text(make_chain(residue_ids=("1", "2", "3", "4", "5", "x7")))
