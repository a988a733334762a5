from itertools import pairwise

import gemmi
import numpy as np
import pytest

from minifold_pl.data.structure_content import read_content, unpacked
from minifold_pl.data.structure_file import StructureFileError, parse_structure, read_models, read_structure
from minifold_pl.export.observed import ObservedChain, observed_mmcif_text, observed_pdb_text

# The outcome for every file of the raw cases, as their README tells it: sequences are those of SEQRES or
# _entity_poly_seq between the first and the last residue with atoms (read off the files, with MSE as M), or of the
# atoms where a file has neither. Inside 103l six residues have no atoms.
KEPT = {
    "103l.cif": {
        "A": (
            "MNIFEMLRIDEGLRLKIYKDTEGYYTIGIGHLLTKSPSLNSLDAAKSELDKAIGRNTNGVITKDEAEKLFNQDVDAAVRGILRNAKLKPV"
            "YDSLDAVRRAALINMVFQMGETGVAGFTNSLRMLQQKRWDEAAVNLAKSRWYNQTPNRAKRVITTFRTGTWDAYK"
        ),
    },
    "103l.pdb.gz": {
        "A": (
            "MNIFEMLRIDEGLRLKIYKDTEGYYTIGIGHLLTKSPSLNSLDAAKSELDKAIGRNTNGVITKDEAEKLFNQDVDAAVRGILRNAKLKPV"
            "YDSLDAVRRAALINMVFQMGETGVAGFTNSLRMLQQKRWDEAAVNLAKSRWYNQTPNRAKRVITTFRTGTWDAYK"
        ),
    },
    "1ACB_l_b.pdb": {
        "I": "KSFPEVVGKTVDQAREYFTLHYPQYDVYFLPEGSPVTLDLRYNRVRVFYNPGTNVVNHVPHVG",
    },
    "1l2y.cif": {
        "A": "NLYIQWLKDGGPSSGRPPPS",
    },
    "1l2y.pdb": {
        "A": "NLYIQWLKDGGPSSGRPPPS",
    },
    "1ts9.pdb": {
        "A": (
            "LQGVELIARDWIGLMVEVVESPNHSEVGIKGEVVDETQNTLKIMTEKGLKVVAKRGRTFRVWYKGKIMRIKGDLINFRPEDRIKRGLMML"
            "KRAKGVWI"
        ),
    },
    "1y3v.pdb": {
        "A": (
            "IVGGYTCGANTVPYQVSLNSGYHFCGGSLINSQWVVSAAHCYKSGIQVRLGEDNINVVEGNEQFISASKSIVHPSYNSNTLNNDIMLIKL"
            "KSAASLNSRVASISLPTSCASAGTQCLISGWGNTKSSGTSYPDVLKCLKAPILSDSSCKSAYPGQITSNMFCAGYLEGGKDSCQGDSGGP"
            "VVCSGKLQGIVSWGSGCAQKNKPGVYTKVCNYVSWIKQTIASN"
        ),
    },
    "2q2k.cif": {
        "A": "KETKHLLKIKKEDYPQIFDFLENVPRGTKTAHIREALRRYIEEIG",
        "B": "KETKHLLKIKKEDYPQIFDFLENVPRGTKTAHIREALRRYIEEI",
    },
    "465d.pdb": {},
    "4zey.cif": {
        "A": "GMEGPLNLAHQQSRRADRLLAAGKYEEAISCHKKAAAYLSEAMKLTQSEQAHLSLELQRDSHMKQLLLIQERWKRAQREERLKA",
    },
    "5ejw.pdb": {
        "A": "HHSSGLVPRGSHMELSAIGEQVFAVESIRKKRVRKGKVEYLVKWKGWPPKYSTWEPEEHILDPRLVMAYEEKEERDRASG",
    },
    "5ugo.pdb": {
        "A": (
            "TLNGGITDMLTELANFEKNVSQAIHKYNAYRKAASVIAKYPHKIKSGAEAKKLPGVGTKIAEKIDEFLATGKLRKLEKIRQDDTSSSINF"
            "LTRVSGIGPSAARKFVDEGIKTLEDLRKNEDKLNHHQRIGLKYFGDFEKRIPREEMLQMQDIVLNEVKKVDSEYIATVCGSFRRGAESSG"
            "DMDVLLTHPSFTSESTKQPKLLHQVVEQLQKVHFITDTLSKGETKFMGVCQLPSKNDEKEYPHRRIDIRLIPKDQYYCGVLYFTGSDIFN"
            "KNMRAHALEKGFTINEYTIRPLGVTGVAGEPLPVDSEKDIFDYIQWKYREPKDRSE"
        ),
    },
    "7w06.cif": {
        "A": (
            "VRGELGVLRVGFTASSAFNSVVPTAIRAFRRAYPDVRLQLEEDNTTRLADGLNEGSLDVAFLRPGFAGSERFHLRMLSEEPMMIVMAENH"
            "PAASYEEISLSAFRDETFLLFPREIGLTLYDSVIESCRTAGFEPTIGQLAPQIASVINLVAAEMGVSIVPASMSQVKVIGVVYRHIADQT"
            "PTAKLALAYRRGDTSPVLRNFVLTVFP"
        ),
    },
    "altloc.cif": {
        "A": "P",
    },
    "ca_only_model.pdb": {
        "A": (
            "MINMARFDKKETIRTMTDTGLVPVFCSCDVEVAKQVIRACYNGGVRVFEFTNREEAAHEVFGAVSRWIVEACPEMILGVGSIVDAPTASL"
            "YLQSGANFVVGPLTNPDIAKVCNRRLVPYIPGCGSVSEVGYAQELGCDICKVFPGDVLGPGFVKALKAPMPWSQVMVTGGVKPKEANLKA"
            "WFDAGATCVGMGSNLFPPEAIASGNWEKITDICAQALGVIREVRKE"
        ),
    },
    "chain_break_1.pdb": {
        "A": "M",
        "B": "LP",
    },
    "has_dna_records_1.pdb": {
        "B": "PY",
    },
    "hetatm.pdb": {},
    "interspersed_chains.pdb": {
        "A": "WM",
        "B": "R",
        "C": "A",
    },
    "res_ids.cif": {
        "A": "SDQ",
    },
    "residue_with_diff_aas_in_altlocs.pdb": {
        "A": "GGT",
    },
}
SELENOMETHIONINE = {"1ts9.pdb": 5, "7w06.cif": 6, "4zey.cif": 3}
MODELS = {"1l2y.pdb": 38, "1l2y.cif": 38, "465d.pdb": 2}
DROPPED = {
    "5ugo.pdb": dict.fromkeys("TPD", "nucleic acid"),
    "2q2k.cif": {"F": "nucleic acid"},
    "465d.pdb": {"A": "nucleic acid"},
    "has_dna_records_1.pdb": {"A": "nucleic acid"},
    "hetatm.pdb": {"B": "no amino acid"},
    "res_ids.cif": dict.fromkeys("GHIJKLCE", "no amino acid"),
}
REFUSED = {
    "1aki.bcif": "is BinaryCIF; fetch the entry as mmCIF",
    "crafted_truncated.pdb": "is damaged: Problem in line 582: The line is too short to be correct",
    "crafted_truncated.cif": "is damaged: data:1265.*Wrong number of values in loop _atom_site",
    "README.md": "is neither PDB nor mmCIF",
}
NUMBERS = {  # of residues: first, last, and those with an insertion code
    "103l.pdb.gz": ("1", "162", "40A 40B 40C"),
    "103l.cif": ("1", "162", "40A 40B 40C"),
    "1y3v.pdb": ("16", "245", "184A 188A 221A"),
    "5ejw.pdb": ("-11", "68", ""),
    "4zey.cif": ("0", "86", ""),
    "res_ids.cif": ("0", "2", ""),
    "5ugo.pdb": ("10", "335", ""),
}


def test_every_raw_case_has_its_outcome_here(real_data):
    assert {p.name for p in (real_data / "raw_cases").iterdir()} == KEPT.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", KEPT)
def test_a_raw_case_gives_exactly_its_chains(real_data, name):
    found = read_structure(real_data / "raw_cases" / name)
    assert {chain.name: chain.sequence for chain in found.chains} == KEPT[name]
    assert dict(found.dropped) == DROPPED.get(name, {})
    assert found.models == MODELS.get(name, 1)
    assert found.format == ("mmcif" if name.endswith(".cif") else "pdb")
    for chain in found.chains:
        assert chain.coords.shape == (len(chain.sequence), 4, 3)
        assert chain.coords.dtype == np.float32
        assert len(chain.residue_ids) == len(chain)
        assert chain.notes == ()
        atoms = slice(1, 2) if name == "ca_only_model.pdb" else slice(None)
        missing = np.isnan(chain.coords[:, atoms]).any((1, 2))
        assert missing.sum() == (6 if name.startswith("103l") else 0)


@pytest.mark.parametrize("name", REFUSED)
def test_a_raw_case_that_is_no_sound_file_is_refused_with_its_reason(real_data, name):
    with pytest.raises(StructureFileError, match=REFUSED[name]) as caught:
        read_structure(real_data / "raw_cases" / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NUMBERS)
def test_the_authors_numbers_and_insertion_codes_are_kept_in_order(real_data, name):
    (ids,) = (chain.residue_ids for chain in read_structure(real_data / "raw_cases" / name).chains)
    first, last, inserted = NUMBERS[name]
    assert (ids[0], ids[-1]) == (first, last)
    assert " ".join(i for i in ids if i[-1].isalpha()) == inserted
    assert len(set(ids)) == len(ids)


def test_gaps_in_the_numbering_are_no_breaks_and_breaks_are_found_by_distance(real_data):
    (trypsin,) = read_structure(real_data / "raw_cases" / "1y3v.pdb").chains
    plain = [int(i) for i in trypsin.residue_ids if i.isdigit()]
    assert sum(b != a + 1 for a, b in pairwise(plain)) == 6
    assert trypsin.breaks == ()
    _, b = read_structure(real_data / "raw_cases" / "chain_break_1.pdb").chains
    assert b.breaks == (0,)


def test_residues_that_were_not_observed_are_rows_of_nan_with_the_files_own_numbers(real_data):
    for name in ("103l.cif", "103l.pdb.gz"):
        (chain,) = read_structure(real_data / "raw_cases" / name).chains
        missing = np.flatnonzero(np.isnan(chain.coords).all((1, 2))).tolist()
        assert [chain.residue_ids[i] for i in missing] == ["35", "36", "37", "38", "39", "40"]  # REMARK 465
        assert "".join(chain.sequence[i] for i in missing) == "KSPSLN"
        assert chain.breaks == ()


@pytest.mark.parametrize("name", SELENOMETHIONINE)
def test_selenomethionine_is_read_as_methionine(real_data, name):
    path = real_data / "raw_cases" / name
    structure = gemmi.read_structure(str(path))
    numbers = [str(r.seqid) for r in structure[0]["A"] if r.name == "MSE"]
    assert len(numbers) == SELENOMETHIONINE[name]
    (chain,) = read_structure(path).chains
    assert [chain.sequence[chain.residue_ids.index(number)] for number in numbers] == ["M"] * len(numbers)


def test_atoms_are_those_of_the_lines_of_the_file(real_data):
    """Read by columns, without gemmi; 1ts9 has no alternative conformations."""
    lines = (real_data / "raw_cases" / "1ts9.pdb").read_text().splitlines()
    atoms = {
        (line[22:27].strip(), line[12:16].strip()): [float(line[30 + 8 * i : 38 + 8 * i]) for i in range(3)]
        for line in lines
        if line.startswith(("ATOM", "HETATM")) and line[16] == " "
    }
    (chain,) = read_structure(real_data / "raw_cases" / "1ts9.pdb").chains
    expected = [[atoms[i, atom] for atom in ("N", "CA", "C", "O")] for i in chain.residue_ids]
    np.testing.assert_array_equal(chain.coords, np.array(expected, dtype=np.float32))


def test_of_a_place_with_two_amino_acids_the_one_of_higher_occupancy_is_taken(real_data):
    (glycine,) = read_structure(real_data / "raw_cases" / "residue_with_diff_aas_in_altlocs.pdb").chains
    assert glycine.sequence[1] == "G"  # 0.67, serine 0.33
    (proline,) = read_structure(real_data / "raw_cases" / "altloc.cif").chains
    assert proline.sequence == "P"  # 0.60, serine twice 0.20


def test_any_model_of_an_ensemble_can_be_read_and_all_are_parsed_at_once(real_data):
    path = real_data / "raw_cases" / "1l2y.pdb"
    models = read_models(path)
    assert [m.model for m in models] == list(range(1, 39))
    assert {m.chains[0].sequence for m in models} == {"NLYIQWLKDGGPSSGRPPPS"}
    for number in (1, 2, 38):
        (chain,) = read_structure(path, model=number).chains
        np.testing.assert_array_equal(chain.coords, models[number - 1].chains[0].coords)
    assert not np.array_equal(models[0].chains[0].coords, models[1].chains[0].coords)
    with pytest.raises(StructureFileError, match="has no such model: 39 of 38"):
        read_structure(path, model=39)
    with pytest.raises(StructureFileError, match="no such model: 0 of 38"):
        read_structure(path, model=0)


def test_both_formats_of_an_entry_give_the_same(real_data):
    for pdb, cif in (("1l2y.pdb", "1l2y.cif"), ("103l.pdb.gz", "103l.cif")):
        (a,), (b,) = (read_structure(real_data / "raw_cases" / n).chains for n in (pdb, cif))
        assert (a.name, a.sequence, a.residue_ids, a.breaks) == (b.name, b.sequence, b.residue_ids, b.breaks)
        np.testing.assert_array_equal(a.coords, b.coords)


@pytest.mark.parametrize("left_out", ["", "TER", "TER|HETATM", "second TER"])
def test_a_pdb_files_full_sequence_counts_with_and_without_the_ends_of_its_chains(make_record, left_out):
    record = make_record("two", 30)
    coords = record.coords.copy()
    coords[9:12] = np.nan
    texts = []
    for letter, shift in (("A", 0), ("B", 50)):
        chain = ObservedChain(name="two", sequence=record.sequence, coords=coords + shift, chain=letter)
        texts.append(observed_pdb_text(chain).splitlines())
    sequences = [line for text in texts for line in text if line.startswith("SEQRES")]
    assert sequences
    atoms = [[line for line in text if line.startswith(("ATOM", "TER"))] for text in texts]
    water = [
        f"HETATM  900  O   HOH {letter} 900      90.000  90.000  90.000  1.00 20.00           O"
        for letter in "AB"
    ]
    lines = [*sequences, *atoms[0], *atoms[1], *water, "END"]
    if left_out == "second TER":
        del lines[max(k for k, line in enumerate(lines) if line.startswith("TER"))]
    elif left_out:
        lines = [line for line in lines if not line.startswith(tuple(left_out.split("|")))]
    ends = sum(line.startswith("TER") for line in lines)
    assert ends == {"": 2, "second TER": 1}.get(left_out, 0)
    found = parse_structure("\n".join(lines).encode(), "two").chains
    assert [(c.name, c.sequence, c.notes) for c in found] == [(x, record.sequence, ()) for x in "AB"]
    for chain in found:
        assert np.flatnonzero(np.isnan(chain.coords).all((1, 2))).tolist() == [9, 10, 11]
        assert chain.residue_ids == tuple(map(str, range(1, 31)))


@pytest.mark.parametrize("ends", [True, False])
def test_a_full_sequence_that_contradicts_the_atoms_is_told(make_record, ends):
    record = make_record("one", 30)
    other = record.sequence[::-1]
    chain = ObservedChain(name="one", sequence=record.sequence, coords=record.coords)
    wrong = ObservedChain(name="one", sequence=other, coords=record.coords)
    seqres = [line for line in observed_pdb_text(wrong).splitlines() if line.startswith("SEQRES")]
    atoms = [line for line in observed_pdb_text(chain).splitlines() if line.startswith("ATOM")]
    text = "\n".join([*seqres, *atoms, *["TER"] * ends, "END"])
    (found,) = parse_structure(text.encode(), "one").chains
    assert found.sequence == record.sequence
    assert found.notes == (("full sequence left out", "it is not that of the atoms"),)


def test_raw_cases_without_the_ends_of_their_chains_give_the_same_chains(real_data):
    for name in ("103l.pdb.gz", "1y3v.pdb", "5ejw.pdb", "5ugo.pdb", "1ts9.pdb"):
        text = unpacked(read_content(real_data / "raw_cases" / name))
        without = b"\n".join(line for line in text.split(b"\n") if not line.startswith(b"TER"))
        whole, bare = parse_structure(text, name), parse_structure(without, name)
        assert [(c.name, c.sequence, c.residue_ids, c.notes) for c in bare.chains] == [
            (c.name, c.sequence, c.residue_ids, c.notes) for c in whole.chains
        ]
        assert bare.dropped == whole.dropped


def test_full_sequences_of_an_mmcif_file_count_without_its_list_of_entities(real_data):
    text = read_content(real_data / "raw_cases" / "103l.cif").decode()
    for categories in (["_entity."], ["_entity.", "_entity_poly.", "_struct_asym."]):
        document = gemmi.cif.read_string(text)
        for category in categories:
            document.sole_block().find_mmcif_category(category).erase()
        bare = document.as_string()
        assert "_entity.id" not in bare
        (chain,) = parse_structure(bare.encode(), "103l").chains
        assert chain.sequence == KEPT["103l.cif"]["A"]
        assert np.isnan(chain.coords).all((1, 2)).sum() == 6


def test_names_longer_than_seven_letters_are_no_obstacle(make_record):
    record = make_record("long", 20)
    coords = record.coords.copy()
    coords[7:9] = np.nan
    chain = ObservedChain(name="long", sequence=record.sequence, coords=coords, chain="chain-number-one")
    (found,) = parse_structure(observed_mmcif_text(chain).encode(), "long").chains
    assert (found.name, found.sequence) == ("chain-number-one", record.sequence)
    assert found.residue_ids == tuple(map(str, range(1, 21)))
