"""Numbers that occur twice in a chain cost no residue, and a residue that is given twice is one."""

import dataclasses

import gemmi
import numpy as np
import pytest

from minifold_pl.data.repeated_residues import SAME_RESIDUE, _Copies, with_serials
from minifold_pl.data.structure_file import (
    StructureReader,
    parse_structure,
    read_models,
    read_structure,
    read_together,
)
from minifold_pl.export.observed import ObservedChain, observed_mmcif_text, observed_pdb_text

WRITERS = {"pdb": observed_pdb_text, "mmcif": observed_mmcif_text}
KEPT = "repeated residue numbers kept"
LEFT_OUT = "backbone atoms given twice left out"


def _written(writer, record, ids=()):
    return WRITERS[writer](
        ObservedChain(name=record.name, sequence=record.sequence, coords=record.coords, residue_ids=ids)
    )


def _atoms(text):
    """The lines of a text before its atoms, those of its atoms, and the rest."""
    lines = text.splitlines(keepends=True)
    places = [i for i, line in enumerate(lines) if line.startswith(("ATOM", "HETATM"))]
    return lines[: places[0]], [lines[i] for i in places], lines[places[-1] + 1 :]


def _one(text):
    (chain,) = parse_structure(text.encode(), "x").chains
    return chain


def _repeated(length, rng):
    """Numbers that now and then stay as they are, go back or begin anew, some with insertion codes."""
    ids, number = [], 1
    for _ in range(length):
        ids.append(f"{number}{'A' if rng.random() < 0.1 else ''}")
        choice = rng.random()
        number = (
            number if choice < 0.15 else int(rng.integers(1, number + 1)) if choice < 0.25 else number + 1
        )
    return tuple(ids)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_numbers_do_every_residue_is_read_in_the_files_order(make_record, writer, seed):
    rng = np.random.default_rng(seed)
    # Two kinds of residues only, so that many of the same number have the same name, too.
    record = make_record("1abc.A", 40, sequence="".join(rng.choice(list("AG"), 40)))
    ids = _repeated(40, rng)
    chain = _one(_written(writer, record, ids))
    assert chain.sequence == record.sequence
    assert chain.residue_ids == ids
    np.testing.assert_allclose(chain.coords, record.coords, rtol=0, atol=0.001)
    named = list(zip(ids, record.sequence, strict=True))
    assert dict(chain.notes).get(KEPT) == str(len(named) - len(set(named)))
    assert LEFT_OUT not in dict(chain.notes)


@pytest.mark.parametrize("writer", WRITERS)
def test_two_molecules_under_one_letter_are_both_read(make_record, writer):
    record = make_record("1abc.A", 30, sequence="ACDEFGHIKLMNPQR" * 2)
    ids = tuple(map(str, range(1, 16))) * 2
    chain = _one(_written(writer, record, ids))
    assert (chain.sequence, chain.residue_ids) == (record.sequence, ids)
    assert dict(chain.notes)[KEPT] == "15"


def test_two_molecules_under_one_letter_with_ter_between_them_are_both_read(make_record):
    record = make_record("1abc.A", 20, sequence="ACDEFGHIKL" * 2)
    before, atoms, rest = _atoms(_written("pdb", record, tuple(map(str, range(1, 11))) * 2))
    chain = _one("".join([*before, *atoms[:40], "TER\n", *atoms[40:], *rest]))
    assert chain.sequence == record.sequence
    np.testing.assert_allclose(chain.coords, record.coords, rtol=0, atol=0.001)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("each", [1, 4, 80], ids=["atom by atom", "residue by residue", "all at the end"])
def test_a_residue_that_is_given_twice_is_one(make_record, writer, each):
    record = make_record("1abc.A", 20)
    before, atoms, rest = _atoms(_written(writer, record))
    twice = [line for i in range(0, 80, each) for line in atoms[i : i + each] * 2]
    chain = _one("".join([*before, *twice, *rest]))
    assert chain.sequence == record.sequence
    np.testing.assert_allclose(chain.coords, record.coords, rtol=0, atol=0.001)
    assert chain.notes == ((LEFT_OUT, "80"),)


def test_an_atom_that_only_the_second_copy_has_is_taken_from_it(make_record):
    record = make_record("1abc.A", 20)
    before, atoms, rest = _atoms(_written("pdb", record))
    chain = _one("".join([*before, *atoms[:23], *atoms[24:], *atoms[20:24], *rest]))
    np.testing.assert_allclose(chain.coords, record.coords, rtol=0, atol=0.001)
    assert chain.notes == ((LEFT_OUT, "3"),)


def test_conformers_that_stand_apart_are_no_residues_and_no_repeats(make_record):
    record = make_record("1abc.A", 20)
    before, atoms, rest = _atoms(_written("pdb", record))
    marked = [line[:16] + "A" + line[17:54] + "  0.60" + line[60:] for line in atoms[20:24]]
    second = [
        line[:16] + "B" + line[17:38] + "   3.000" + line[46:54] + "  0.40" + line[60:]
        for line in atoms[20:24]
    ]
    chain = _one("".join([*before, *atoms[:20], *marked, *atoms[24:], *second, *rest]))
    assert chain.sequence == record.sequence
    assert chain.notes == ()
    np.testing.assert_allclose(chain.coords, record.coords, rtol=0, atol=0.001)


def test_repeats_in_one_file_change_nothing_of_others(real_data, make_record):
    """Files are read many at once."""
    sound = real_data / "raw_cases" / "1y3v.pdb"
    record = make_record("1abc.A", 20, sequence="A" * 20)
    texts = [_written(writer, record, tuple(map(str, range(1, 11))) * 2).encode() for writer in WRITERS]
    contents = [texts[0], sound.read_bytes(), texts[1], sound.read_bytes()]
    found = read_together([(StructureReader(content, "x"), 1) for content in contents])
    lengths = [[len(chain) for chain in file.chains] for file in found]
    assert lengths == [[20], [223], [20], [223]]
    (alone,) = read_structure(sound).chains
    for file in (found[1], found[3]):
        assert file.chains[0].notes == ()
        np.testing.assert_array_equal(file.chains[0].coords, alone.coords)


def test_every_model_of_an_ensemble_is_told_apart(make_record, tmp_path):
    record = make_record("1abc.A", 20, sequence="A" * 20)
    before, atoms, _ = _atoms(_written("pdb", record, tuple(map(str, range(1, 11))) * 2))
    models = [line for n in (1, 2) for line in (f"MODEL     {n:4d}\n", *atoms, "ENDMDL\n")]
    path = tmp_path / "x.pdb"
    path.write_text("".join([*before, *models, "END\n"]))
    for model in read_models(path):
        (chain,) = model.chains
        assert len(chain) == 20
        np.testing.assert_allclose(chain.coords, record.coords, rtol=0, atol=0.001)


@pytest.mark.parametrize("writer", WRITERS)
def test_thousands_of_residues_of_one_number_are_told_apart(make_record, writer):
    """As programs write that know no numbers; each is looked for near its place, not among all others."""
    record = make_record("1abc.A", 250, sequence="A" * 250)
    coords = np.concatenate([record.coords + np.float32([0, 4.0 * i, 0]) for i in range(16)])
    many = dataclasses.replace(record, sequence="A" * 4000, coords=coords)
    chain = _one(_written(writer, many, ("1",) * 4000))
    np.testing.assert_allclose(chain.coords, coords, rtol=0, atol=0.001)
    assert dict(chain.notes)[KEPT] == "3999"


def test_residues_are_told_apart_as_by_looking_at_all_of_them():
    """Against the rule as it is told: the first with a near Cα of one conformer, or with none of these conformers."""
    rng = np.random.default_rng(5)
    for _ in range(60):
        copies, traces = _Copies(), []
        for serial in range(40):
            part = []
            for conformer in rng.permutation(3)[: rng.integers(0, 3)].tolist():
                atom = gemmi.Atom()
                atom.altloc, atom.pos = "\0AB"[conformer], gemmi.Position(*rng.uniform(0, 9, 3).tolist())
                part.append(atom)
            expected = None
            for place, own in enumerate(traces):
                distances = [a.pos.dist(b.pos) for a in part for b in own if a.altloc == b.altloc]
                if not distances or min(distances) <= SAME_RESIDUE:
                    expected = place
                    break
            found = copies.holding(part)
            assert (found.place if found else None) == expected
            if found is None:
                found = copies.new(gemmi.Residue(), serial)
                traces.append([])
            copies.add(found, part)
            traces[found.place] += part
        assert len(traces) > 1


def test_serials_are_those_that_gemmi_reads_even_beyond_what_digits_hold(make_record):
    _, atoms, _ = _atoms(_written("pdb", make_record("1abc.A", 1)))
    text = with_serials("".join(atoms * 26_000).encode())
    lines = text.splitlines(keepends=True)
    some = [0, 99_998, 99_999, 100_000, 103_999]
    for place in some:
        (atom,) = next(iter(gemmi.read_pdb_string(lines[place])[0]["A"]))
        assert atom.serial == place + 1
