from __future__ import annotations

import dataclasses

import gemmi
import numpy as np
import pytest

from minifold_pl.constants import AMINO_ACIDS, BACKBONE_ATOMS
from minifold_pl.export.structure import PredictedChain, mmcif_text, pdb_text


def _chain(length: int = 40, atoms: int = 1, name: str = "1abc.A") -> PredictedChain:
    draw = np.random.default_rng(0)
    sequence = "".join((AMINO_ACIDS + "X")[i % 21] for i in range(length))
    return PredictedChain(
        name=name,
        sequence=sequence,
        coords=draw.normal(size=(length, atoms, 3)).astype(np.float32) * 30,
        confidence=np.linspace(0, 100, length),
        title=f"{name}: predicted 'trace' with a \"title\" that is too long for one line of the PDB's columns",
        remarks=["N, C and O were RECONSTRUCTED from the CA trace; the model predicts CA only.", "Seed 3."],
    )


def _read(chain: PredictedChain, form: str) -> gemmi.Structure:
    if form == "pdb":
        return gemmi.read_pdb_string(pdb_text(chain))
    return gemmi.make_structure_from_block(gemmi.cif.read_string(mmcif_text(chain)).sole_block())


@pytest.mark.parametrize("form", ["pdb", "mmcif"])
@pytest.mark.parametrize("atoms", [1, 4])
def test_what_is_written_is_read_back(form: str, atoms: int) -> None:
    chain = _chain(atoms=atoms)
    structure = _read(chain, form)
    assert len(structure) == 1
    (polymer,) = structure[0]
    assert polymer.name == "A"
    assert gemmi.one_letter_code([r.name for r in polymer]) == chain.sequence
    assert [r.seqid.num for r in polymer] == list(range(1, 41))
    names = list(BACKBONE_ATOMS) if atoms == 4 else ["CA"]
    for residue, positions, b_factor in zip(polymer, chain.coords, chain.confidence, strict=True):
        assert [a.name for a in residue] == names
        assert [a.element.name for a in residue] == [n[0] for n in names]
        assert residue.het_flag in ("A", "\0")
        for atom, position in zip(residue, positions, strict=True):
            np.testing.assert_allclose(atom.pos.tolist(), position, atol=6e-4)
            assert atom.b_iso == pytest.approx(b_factor, abs=6e-3)
            assert atom.occ == 1


@pytest.mark.parametrize("form", ["pdb", "mmcif"])
def test_the_whole_sequence_is_declared(form: str) -> None:
    chain = _chain()
    structure = _read(chain, form)
    structure.setup_entities()
    (entity,) = structure.entities
    assert gemmi.one_letter_code(entity.full_sequence) == chain.sequence
    assert entity.polymer_type == gemmi.PolymerType.PeptideL


def test_every_line_of_a_pdb_file_fits_its_columns() -> None:
    lines = pdb_text(_chain(atoms=4)).splitlines()
    assert {len(line) for line in lines} <= {80}
    assert all(line.isascii() for line in lines)
    assert sum(line.startswith("SEQRES") for line in lines) == 4
    assert lines[-1].strip() == "END"


def test_the_reconstruction_is_labelled_in_both_formats() -> None:
    chain = _chain(atoms=4)
    assert "RECONSTRUCTED" in pdb_text(chain)
    block = gemmi.cif.read_string(mmcif_text(chain)).sole_block()
    assert "RECONSTRUCTED" in gemmi.cif.as_string(block.find_value("_struct.pdbx_descriptor"))
    assert gemmi.cif.as_string(block.find_value("_struct.title")) == chain.title


@pytest.mark.parametrize("name", ["a b", "it's", "x" * 300, "", "名", "data_#", "?", "_x"])
def test_any_name_gives_a_readable_file(name: str) -> None:
    for form in ("pdb", "mmcif"):
        assert len(_read(_chain(name=name), form)[0]["A"]) == 40


def test_long_chains_and_far_atoms_are_written_or_refused_with_a_way_out() -> None:
    long = dataclasses.replace(_chain(length=2000), remarks=())
    assert len(_read(long, "pdb")[0]["A"]) == 2000
    far = _chain()
    far.coords[3, 0, 1] = -2000.0
    with pytest.raises(ValueError, match=r"2000 Å.*mmCIF"):
        pdb_text(far)
    assert _read(far, "mmcif")[0]["A"][3][0].pos.y == pytest.approx(-2000.0)


def test_what_cannot_be_a_chain_is_refused() -> None:
    good = _chain()
    bad = good.coords.copy()
    bad[5] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        dataclasses.replace(good, coords=bad)
    with pytest.raises(ValueError, match=r"shape \(40, 2, 3\)"):
        dataclasses.replace(good, coords=np.zeros((40, 2, 3)))
    with pytest.raises(ValueError, match="confidences"):
        dataclasses.replace(good, confidence=np.zeros(39))
    with pytest.raises(ValueError, match="between 0 and 100"):
        dataclasses.replace(good, confidence=np.full(40, 101.0))
    with pytest.raises(ValueError, match="J"):
        dataclasses.replace(good, sequence="J" * 40)
