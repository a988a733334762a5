from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest

from minifold_pl.cli.main import main
from minifold_pl.cli.score import add_parser
from minifold_pl.constants import AMINO_ACIDS, BACKBONE_ATOMS, ONE_TO_THREE
from minifold_pl.data.residue_match import WAYS

SCORES = {
    "tm_score", "tm_kabsch", "rmsd", "gdt_ts", "gdt_ha", "lddt_ca", "rg_ratio", "ca_bond_share", "clashes",
    "coverage",
}  # fmt: skip
DRAW = np.random.default_rng(5)
LENGTH = 80
SEQUENCE = "".join(DRAW.choice(list(AMINO_ACIDS), LENGTH))
OTHER_SEQUENCE = "".join(DRAW.choice(list(AMINO_ACIDS), LENGTH))


def folded(seed: int, length: int = LENGTH) -> np.ndarray:
    """Cα of helices that turn at random: bonds of 3.83 Å, a hand, no symmetry; [l, 3]."""
    draw = np.random.default_rng(seed)
    angle = np.radians(100) * np.arange(12)
    piece = np.stack([2.3 * np.cos(angle), 2.3 * np.sin(angle), 1.5 * np.arange(12)], -1)
    chain = np.zeros((1, 3))
    while len(chain) < length:
        turned = (piece - piece[0]) @ turn(draw)
        chain = np.concatenate([chain, chain[-1] + turned[1:]])
    return chain[:length]


def turn(draw: np.random.Generator) -> np.ndarray:
    q = np.linalg.qr(draw.normal(size=(3, 3)))[0]
    return q * np.linalg.det(q)


def moved(ca: np.ndarray) -> np.ndarray:
    return ca @ turn(np.random.default_rng(9)) + [12.0, -7.0, 30.0]


CA = folded(1)

Chain = tuple[str, str, np.ndarray, Sequence[str]]
"""Name, sequence, coordinates [l, 3] (Cα) or [l, 4, 3], residue numbers."""


def chain(
    ca: np.ndarray = CA, sequence: str = SEQUENCE, ids: Sequence[str] | None = None, name: str = "A"
) -> Chain:
    return name, sequence, ca, ids or [str(i + 1) for i in range(len(ca))]


def model_of(chains: Sequence[Chain], number: int) -> gemmi.Model:
    model = gemmi.Model(number)
    for name, sequence, coords, ids in chains:
        polymer = gemmi.Chain(name)
        atoms = ("CA",) if coords.ndim == 2 else BACKBONE_ATOMS
        for letter, positions, seqid in zip(sequence, coords.reshape(len(coords), -1, 3), ids, strict=True):
            residue = gemmi.Residue()
            residue.name = ONE_TO_THREE[letter]
            residue.seqid = gemmi.SeqId(seqid)
            for atom_name, position in zip(atoms, positions.tolist(), strict=True):
                if position[0] == position[0]:
                    atom = gemmi.Atom()
                    atom.name, atom.element, atom.pos = (
                        atom_name,
                        gemmi.Element(atom_name[0]),
                        gemmi.Position(*position),
                    )
                    residue.add_atom(atom)
            if len(residue):
                polymer.add_residue(residue)
        model.add_chain(polymer)
    return model


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write chains (each model a list of them) by a name whose endings choose the format."""

    def put(name: str, *models: Chain | list[Chain]) -> Path:
        structure = gemmi.Structure()
        for number, chains in enumerate(models or (chain(),), start=1):
            structure.add_model(model_of([chains] if isinstance(chains, tuple) else chains, number))
        structure.setup_entities()
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cif = ".cif" in name
        text = structure.make_mmcif_document().as_string() if cif else structure.make_pdb_string()
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return put


@pytest.fixture
def score(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run ``score … --json``, which must exit as said, and give its document."""

    def run(*args: Any, exits: int = 0) -> dict[str, Any]:
        assert main(["score", *map(str, args), "--json"]) == exits
        out = capsys.readouterr()
        assert "Traceback" not in out.err
        return {
            **json.loads(out.out, parse_constant=lambda c: pytest.fail(f"{c} is no JSON")),
            "stderr": out.err,
        }

    return run


def only(document: dict[str, Any]) -> dict[str, Any]:
    (pair,) = document["pairs"]
    return pair


# --- scores ---------------------------------------------------------------------------------------


def test_a_moved_copy_is_perfect_and_the_baselines_are_not(write, score):
    pair = only(score(write("a.pdb", chain(moved(CA))), write("b.pdb")))
    perfect = {
        "tm_score": 1,
        "tm_kabsch": 1,
        "rmsd": 0,
        "gdt_ts": 1,
        "gdt_ha": 1,
        "lddt_ca": 1,
        "rg_ratio": 1,
    }
    assert pair["scores"] == pytest.approx(
        {**perfect, "ca_bond_share": 1, "clashes": pair["scores"]["clashes"], "coverage": 1}, abs=1e-3
    )
    assert set(pair["baselines"]) == {"centroid", "ideal helix", "mirrored reference"}
    assert all(row["tm_score"] < 0.8 for row in pair["baselines"].values())
    assert pair["matched_by"] == "number" and pair["matched"] == LENGTH and pair["identity"] == 1


def test_a_mirrored_copy_keeps_its_lddt_and_loses_its_fold(write, score):
    scores = only(score(write("a.pdb", chain(CA * [-1, 1, 1])), write("b.pdb")))["scores"]
    assert scores["lddt_ca"] == pytest.approx(1, abs=1e-3)
    assert scores["tm_score"] < 0.8 and scores["rmsd"] > 1


def test_what_is_not_predicted_counts_against_tm_gdt_and_lddt_but_not_rmsd(write, score):
    scores = only(score(write("a.pdb", chain(CA[:60], SEQUENCE[:60])), write("b.pdb")))["scores"]
    assert scores["coverage"] == 0.75 and scores["rmsd"] == pytest.approx(0, abs=1e-2)
    for name in ("tm_score", "tm_kabsch", "gdt_ts", "gdt_ha"):
        assert scores[name] == pytest.approx(0.75, abs=1e-4)
    # By a loop over all pairs of the reference: those of residues 61 to 80 are lost.
    true = CA.round(3)
    near = [(i, j) for i in range(LENGTH) for j in range(i) if np.linalg.norm(true[i] - true[j]) < 15]
    assert scores["lddt_ca"] == pytest.approx(sum(i < 60 for i, _ in near) / len(near), abs=1e-5)


def test_what_the_reference_lacks_counts_for_nothing(write, score):
    pair = only(
        score(write("a.pdb"), write("b.pdb", chain(CA[10:], SEQUENCE[10:], [str(i) for i in range(11, 81)])))
    )
    assert pair["matched"] == pair["reference"]["residues"] == 70 and pair["prediction"]["residues"] == 80
    assert pair["scores"]["tm_score"] == pytest.approx(1, abs=1e-3) and pair["scores"]["coverage"] == 1


def test_bonds_and_clashes_are_those_of_the_whole_prediction_and_a_torn_bond_counts(write, score):
    torn = CA.copy()
    torn[40:] += [30.0, 0, 0]
    pair = only(score(write("a.pdb", chain(torn)), write("b.pdb", chain(CA[:20], SEQUENCE[:20]))))
    assert pair["scores"]["ca_bond_share"] == pytest.approx(78 / 79, abs=1e-6)
    folded_up = CA.copy()
    folded_up[60] = folded_up[10] + [1.0, 0, 0]
    before = only(score(write("a.pdb"), write("b.pdb", chain(CA[:20], SEQUENCE[:20]))))["scores"]["clashes"]
    after = only(score(write("c.pdb", chain(folded_up)), write("b.pdb", chain(CA[:20], SEQUENCE[:20]))))
    assert after["scores"]["clashes"] > before


def test_a_gap_in_the_numbers_is_no_bond(write, score):
    ids = [str(i + 1 + 10 * (i >= 40)) for i in range(LENGTH)]
    apart = CA.copy()
    apart[40:] += [30.0, 0, 0]
    pair = only(score(write("a.pdb", chain(apart, ids=ids)), write("b.pdb")))
    assert pair["scores"]["ca_bond_share"] == 1


def test_tm_rmsd_and_length_agree_with_tmtools_and_gemmi(write, score):
    """Noise, and a prediction without 12 residues: TM over the whole reference, as TM-align's second chain."""
    tmtools = pytest.importorskip("tmtools")
    draw = np.random.default_rng(2)
    kept = np.r_[0:30, 42:LENGTH]
    noised = (CA + draw.normal(size=CA.shape) * 1.5).round(3)
    pred = noised[kept]
    sequence = "".join(SEQUENCE[i] for i in kept)
    ids = [str(i + 1) for i in kept]
    scores = only(score(write("a.pdb", chain(pred, sequence, ids)), write("b.pdb")))["scores"]

    gapped = "".join(SEQUENCE[i] if i in kept else "-" for i in range(LENGTH))
    theirs = tmtools.tm_align(pred, CA.round(3), sequence, SEQUENCE, [gapped, SEQUENCE])
    assert scores["tm_score"] == pytest.approx(theirs.tm_norm_chain2, abs=0.002)
    positions = [[gemmi.Position(*p) for p in points.tolist()] for points in (CA.round(3)[kept], pred)]
    assert scores["rmsd"] == pytest.approx(gemmi.superpose_positions(*positions).rmsd, abs=1e-4)


# --- matching -------------------------------------------------------------------------------------


def test_a_renumbered_copy_is_aligned_and_scores_the_same(write, score):
    document = score(write("a.pdb", chain(ids=[str(i + 200) for i in range(LENGTH)])), write("b.pdb"))
    pair = only(document)
    assert pair["matched_by"] == "alignment" and pair["scores"]["tm_score"] == pytest.approx(1, abs=1e-3)
    forced = only(score(write("a.pdb"), write("b.pdb"), "--match", "alignment"))
    assert forced["matched_by"] == "alignment" and forced["matched"] == LENGTH


def test_a_deletion_and_a_count_from_one_are_aligned(write, score):
    pred, sequence = np.delete(CA, range(30, 38), 0), SEQUENCE[:30] + SEQUENCE[38:]
    pair = only(score(write("a.pdb", chain(pred, sequence)), write("b.pdb")))
    assert pair["matched_by"] == "alignment" and pair["matched"] == 72
    assert pair["scores"]["rmsd"] == pytest.approx(0, abs=1e-2)


def test_insertion_codes_are_part_of_a_number(write, score):
    ids = [*(str(i) for i in range(1, 41)), "40A", "40B", *(str(i) for i in range(41, 79))]
    kept = [i for i in range(LENGTH) if i != 40]
    pred = chain(CA[kept], "".join(SEQUENCE[i] for i in kept), [ids[i] for i in kept])
    for ending in ("pdb", "cif"):
        pair = only(score(write(f"a.{ending}", pred), write("b.pdb", chain(ids=ids))))
        assert pair["matched_by"] == "number" and pair["matched"] == 79
        assert pair["scores"]["rmsd"] == pytest.approx(0, abs=1e-2)


def test_another_sequence_under_the_same_numbers_is_scored_and_called_doubtful(write, score):
    document = score(write("a.pdb", chain(sequence="A" * LENGTH)), write("b.pdb"))
    assert only(document)["matched_by"] == "number"
    assert only(document)["scores"]["tm_score"] == pytest.approx(1, abs=1e-3)
    assert re.search(r"matched by number, though only \d+% of the amino acids agree", document["stderr"])
    assert only(document)["notes"] and only(score(write("c.pdb"), write("b.pdb")))["notes"] == []


def test_formats_packing_and_ca_only_files_give_the_same_scores(write, score):
    draw = np.random.default_rng(3)
    pred = (CA + draw.normal(size=CA.shape)).round(3)
    backbone = pred[:, None] + np.array([[-1.2, 0.4, 0], [0, 0, 0], [1.2, 0.4, 0.2], [1.3, 1.6, 0]]).round(3)
    first = only(score(write("a.pdb", chain(pred)), write("b.pdb")))["scores"]
    for name, coords in (("a.cif", pred), ("a.pdb.gz", pred), ("a.cif.gz", backbone), ("a.ent", backbone)):
        again = only(score(write(name, chain(coords)), write("b.cif.gz")))["scores"]
        assert again == pytest.approx(first, abs=1e-5)


# --- chains and models ----------------------------------------------------------------------------


def test_of_several_chains_the_two_of_one_sequence_are_scored_and_named(write, score):
    pred = write("a.pdb", [chain(folded(2), OTHER_SEQUENCE, name="A"), chain(name="B")])
    ref = write("b.pdb", [chain(name="X"), chain(folded(2), OTHER_SEQUENCE, name="Y")])
    document = score(pred, ref, "--pred-chain", "B")
    assert only(document)["reference"]["chain"] == "X"
    assert "of the reference's chains X, Y the best match is X (--ref-chain)" in document["stderr"]
    best = only(score(pred, ref))
    assert (best["prediction"]["chain"], best["reference"]["chain"]) == ("A", "Y")
    assert best["scores"]["tm_score"] == pytest.approx(1, abs=1e-3)
    assert only(score(pred, ref, "--pred-chain", "A", "--ref-chain", "X"))["scores"]["tm_score"] < 0.5


def test_of_equal_chains_those_of_one_name_are_scored(write, score):
    dimer = [chain(name="A"), chain(moved(CA), name="B")]
    assert only(score(write("a.pdb", chain(name="B")), write("b.pdb", dimer)))["reference"]["chain"] == "B"


def test_one_chain_can_be_asked_for_in_both_files(write, score, told):
    two = [chain(name="A"), chain(folded(2), OTHER_SEQUENCE, name="B")]
    pair = only(score(write("a.pdb", two), write("b.pdb", two), "--chain", "B"))
    assert (pair["prediction"]["chain"], pair["reference"]["chain"]) == ("B", "B")
    assert main(["score", str(write("a.pdb", two)), str(write("c.pdb")), "--chain", "B"]) == 1
    assert "c.pdb: has no chain B; protein chains: A" in told()


def test_the_first_model_is_scored_and_the_others_on_request(write, score, told):
    noised = CA + np.random.default_rng(4).normal(size=CA.shape) * 2
    ensemble, ref = write("a.pdb", chain(noised), chain(), chain(moved(noised))), write("b.pdb")
    first = score(ensemble, ref)
    assert "the prediction has 3 models, model 1 is scored (--model N, --model all)" in first["stderr"]
    assert only(score(ensemble, ref, "--model", 2))["scores"]["rmsd"] == pytest.approx(0, abs=1e-2)
    every = score(ensemble, ref, "--model", "all")
    assert [pair["prediction"]["model"] for pair in every["pairs"]] == [1, 2, 3]
    rmsds = [pair["scores"]["rmsd"] for pair in every["pairs"]]
    assert rmsds[0] == pytest.approx(only(first)["scores"]["rmsd"])
    assert rmsds == pytest.approx([rmsds[0], 0, rmsds[0]], abs=1e-2)
    reversed_roles = score(ref, ensemble, "--ref-model", 3)
    assert only(reversed_roles)["reference"]["model"] == 3 and "model" not in reversed_roles["stderr"]
    assert "the reference has 3 models, model 1 is used" in score(ref, ensemble)["stderr"]
    assert main(["score", str(ensemble), str(ref), "--model", "9"]) == 1
    message = told()
    assert "a.pdb" in message and "model" in message and re.search(r"\b9\b", message)


# --- folders --------------------------------------------------------------------------------------


@pytest.fixture
def folders(write) -> tuple[Path, Path]:
    """Three pairs in all formats, one prediction and two references without a partner, and files of other kinds."""
    draw = np.random.default_rng(6)
    for k, (pred, ref) in enumerate((("pdb", "cif"), ("cif.gz", "pdb"), ("pdb.gz", "ent"))):
        ca = folded(20 + k, 50 + 10 * k)
        sequence = "".join(draw.choice(list(AMINO_ACIDS), len(ca)))
        noised = ca + draw.normal(size=ca.shape) * (k + 0.5)
        write(f"preds/t{k}.A.{pred}", chain(noised, sequence))
        write(f"refs/t{k}.A.{ref}", chain(ca, sequence))
    write("preds/extra.pdb")
    write("refs/missed.pdb")
    folder = write("refs/missed too.pdb").parent
    (folder.parent / "preds" / "manifest.json").write_text("{}")
    (folder / ".t9.A.pdb").write_text("hidden")
    return folder.parent / "preds", folder


def test_folders_are_matched_by_name_and_what_has_no_partner_is_told(folders, score):
    document = score(*folders, exits=1)
    assert [pair["name"] for pair in document["pairs"]] == ["t0.A", "t1.A", "t2.A"]
    assert document["unmatched"] == {
        "predictions": ["extra.pdb"],
        "references": ["missed.pdb", "missed too.pdb"],
    }
    assert "error: 1 prediction without a reference: extra.pdb" in document["stderr"]
    assert "error: 2 references without a prediction: missed.pdb, missed too.pdb" in document["stderr"]
    assert document["failed"] == []


def test_a_folder_scores_each_pair_as_two_files_do(folders, score):
    together = score(*folders, exits=1)
    for pair in together["pairs"]:
        alone = score(pair["prediction"]["file"], pair["reference"]["file"])
        assert only(alone)["scores"] == pytest.approx(pair["scores"], abs=1e-5)


def test_means_are_over_the_pairs_with_their_intervals(folders, score):
    document = score(*folders, exits=1)
    values = [pair["scores"]["tm_score"] for pair in document["pairs"]]
    mean = document["means"]["prediction"]["tm_score"]
    assert mean["mean"] == pytest.approx(np.mean(values)) and mean["n"] == 3
    assert min(values) - 1e-9 <= mean["low"] < mean["mean"] < mean["high"] <= max(values) + 1e-9
    assert set(document["means"]) == {"prediction"}


def test_a_folder_has_other_references_among_its_baselines(folders, score):
    document = score(*folders, "--baselines", exits=1)
    rows = {"another reference", "centroid", "ideal helix", "mirrored reference"}
    for pair in document["pairs"]:
        assert set(pair["baselines"]) == rows
        assert pair["baselines"]["mirrored reference"]["lddt_ca"] == pytest.approx(1, abs=1e-5)
        assert pair["baselines"]["another reference"]["tm_score"] < 0.6
    assert set(document["means"]) == {"prediction", *rows} and document["sees_answer"] == [
        "mirrored reference"
    ]
    assert score(*folders, "--baselines", exits=1)["means"] == document["means"]


def test_a_broken_file_fails_alone_and_says_why(folders, score):
    preds, refs = folders
    (preds / "t1.A.cif.gz").write_bytes(b"")
    (preds / "t2.A.pdb.gz").write_bytes(b"not gzip, no structure")
    document = score(preds, refs, exits=1)
    assert [pair["name"] for pair in document["pairs"]] == ["t0.A"]
    assert [failure["name"] for failure in document["failed"]] == ["t1.A", "t2.A"]
    assert "is empty" in document["failed"][0]["reason"]
    assert document["stderr"].count("error: t") == 2


def test_a_folder_of_models_of_one_reference(folders, score, write):
    preds, _ = folders
    for path in preds.iterdir():
        path.unlink()
    for k in range(3):
        write(f"preds/decoy_{k}.pdb", chain(CA + np.random.default_rng(k).normal(size=CA.shape) * k))
    document = score(preds, write("target.pdb"))
    assert [pair["name"] for pair in document["pairs"]] == ["decoy_0", "decoy_1", "decoy_2"]
    rmsds = [pair["scores"]["rmsd"] for pair in document["pairs"]]
    assert rmsds == sorted(rmsds) and rmsds[0] < 0.01
    assert (
        "another reference" not in score(preds, write("target.pdb"), "--baselines")["pairs"][0]["baselines"]
    )


def test_an_ending_of_the_predictions_names_can_be_left_out(folders, score):
    preds, refs = folders
    for path in list(preds.iterdir()):
        name, _, endings = path.name.partition(".A.")
        path.rename(preds / (f"{name}.A_best.{endings}" if endings else path.name))
    (refs / "missed.pdb").unlink()
    (refs / "missed too.pdb").unlink()
    document = score(preds, refs, "--suffix", "_best")
    assert [pair["name"] for pair in document["pairs"]] == ["t0.A", "t1.A", "t2.A"]


def test_of_a_name_in_two_formats_mmcif_is_scored(folders, score, write):
    preds, refs = folders
    write("preds/t0.A.cif", chain(folded(20, 50), SEQUENCE[:50]))
    document = score(preds, refs, exits=1)
    assert document["pairs"][0]["prediction"]["file"].endswith("t0.A.cif")
    assert (
        "1 name with several files, of each the first is scored, as in t0.A.cif, t0.A.pdb"
        in document["stderr"]
    )


def test_pdb_codes_match_in_any_case_and_with_the_archives_prefix(write, score):
    write("preds/1ABC.pdb")
    write("refs/pdb1abc.ent.gz")
    assert only(score(write("preds/1ABC.pdb").parent, write("refs/pdb1abc.ent.gz").parent))["name"] == "1abc"


# --- what is said ---------------------------------------------------------------------------------


def test_the_schema_of_the_json_is_this(folders, score):
    document = score(*folders, "--baselines", exits=1)
    assert set(document) - {"stderr"} == {
        "format", "command", "versions", "predictions", "references", "settings", "note", "interval", "sees_answer",
        "pairs", "failed", "unmatched", "means",
    }  # fmt: skip
    assert document["format"] == 1 and document["command"] == "score"
    assert set(document["settings"]) == {
        "match", "chain", "pred_chain", "ref_chain", "model", "ref_model", "suffix", "baselines", "seed",
    }  # fmt: skip
    for pair in document["pairs"]:
        assert set(pair) == {
            "name", "prediction", "reference", "matched", "matched_by", "identity", "notes", "scores", "baselines",
        }  # fmt: skip
        assert set(pair["prediction"]) == set(pair["reference"]) == {"file", "model", "chain", "residues"}
        for row in (pair["scores"], *pair["baselines"].values()):
            assert set(row) == SCORES
    for row in document["means"].values():
        assert set(row) == SCORES and all(set(v) == {"mean", "low", "high", "n"} for v in row.values())


def test_the_table_of_two_files_shows_every_score_beside_chance(write, capsys):
    assert main(["score", str(write("a.pdb")), str(write("b.pdb"))]) == 0
    out = capsys.readouterr().out
    assert set(out.split()) >= SCORES and "mirrored reference" in out and "ideal helix" in out
    assert "80 of 80 residues matched by number, 100% identical" in out
    main(["score", str(write("a.pdb")), str(write("b.pdb")), "--no-baselines"])
    assert "ideal helix" not in capsys.readouterr().out


def test_the_table_of_folders_has_a_line_a_pair_and_the_means(folders, capsys):
    assert main(["score", *map(str, folders)]) == 1
    out = capsys.readouterr().out
    for name, residues in (("t0.A", 50), ("t1.A", 60), ("t2.A", 70)):
        assert re.search(rf"{re.escape(name)} .*{residues}/{residues} .*number", out)
    assert "mean of 3 pairs" in out and "…" in out and "Unrelated real chains" in out


def test_the_csv_has_a_line_a_pair_and_row(folders, tmp_path):
    out = tmp_path / "scores.csv"
    assert main(["score", *map(str, folders), "--baselines", "--csv", str(out)]) == 1
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert len(rows) == 3 * 5 and set(rows[0]) >= SCORES | {"name", "row", "matched_by", "matched"}
    first = rows[0]
    assert (first["name"], first["row"], first["matched"]) == ("t0.A", "prediction", "50")
    assert 0 < float(first["tm_score"]) <= 1


def test_an_undefined_score_is_null_and_an_empty_cell(write, score, tmp_path):
    """Three residues apart in number have no bond, and none of their pairs is near."""
    far = np.array([[0, 0, 0], [20.0, 0, 0], [0, 30.0, 0]])
    path = write("a.pdb", chain(far, "ACD", ["1", "20", "40"]))
    document = score(path, path, "--csv", tmp_path / "s.csv")
    assert only(document)["scores"]["lddt_ca"] is None and only(document)["scores"]["ca_bond_share"] is None
    row = next(csv.DictReader(io.StringIO((tmp_path / "s.csv").read_text())))
    assert row["lddt_ca"] == "" and float(row["tm_score"]) == pytest.approx(1)


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("rubbish\n" * 40, "is neither PDB nor mmCIF"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-LFS pointer"),
        ("data_x\n_entry.id x\n", "holds no atoms"),
    ],
)
def test_a_file_without_a_structure_is_told_in_one_line(write, tmp_path, told, content, said):
    (tmp_path / "bad.pdb").write_text(content)
    for pair in ([tmp_path / "bad.pdb", write("b.pdb")], [write("b.pdb"), tmp_path / "bad.pdb"]):
        assert main(["score", *map(str, pair)]) == 1
        message = told()
        assert "bad.pdb" in message and said in message and len(message.splitlines()) == 1


def test_nucleic_acids_alone_are_refused_by_name(write, tmp_path, told):
    line = "ATOM  {:5d}  P    DA A{:4d}    {:8.3f}{:8.3f}{:8.3f}  1.00  0.00           P\n"
    (tmp_path / "dna.pdb").write_text(
        "".join(line.format(i, i, 6.0 * i, 0, 0) for i in range(1, 9)) + "END\n"
    )
    assert main(["score", str(tmp_path / "dna.pdb"), str(write("b.pdb"))]) == 1
    message = told()
    assert "dna.pdb holds no protein chain (chain A: nucleic acid)" in message


def test_chains_with_nothing_in_common_are_refused(write, told):
    far = chain(ids=[str(i + 500) for i in range(LENGTH)], sequence=OTHER_SEQUENCE)
    assert main(["score", str(write("a.pdb", far)), str(write("b.pdb"))]) == 1
    assert "only 0 residues of chain A of a.pdb are in chain A of b.pdb; at least 3 are needed" in told()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nowhere", "b.pdb"], "nowhere does not exist"),
        (["b.pdb", "nowhere"], "nowhere does not exist"),
        (["b.pdb", "."], "give two files, two folders, or a folder and its reference"),
        (["empty", "."], "holds no structure files (.cif, .mmcif, .pdb, .ent, .gz)"),
        (["other", "."], "no file of other has the name of one of . "),
        (["b.pdb", "b.pdb", "--model", "0"], "must be at least 1"),
        (["b.pdb", "b.pdb", "--model", "some"], "'some' is no whole number"),
        (["b.pdb", "b.pdb", "--match", "luck"], "invalid choice: 'luck'"),
        (["b.pdb"], "REF"),
    ],
)
def test_wrong_use_is_told_with_exit_code_2(write, tmp_path, monkeypatch, capsys, args, said):
    write("b.pdb")
    write("other/c.pdb")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["score", *args]) == 2
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err


def test_a_csv_that_cannot_be_written_is_told(write, tmp_path, told):
    (tmp_path / "file").write_text("")
    pair = [str(write("a.pdb")), str(write("b.pdb"))]
    for folder, why in (("file", "is no folder"), ("new", "does not exist")):
        assert main(["score", *pair, "--csv", str(tmp_path / folder / "s.csv")]) == 2
        assert f"{tmp_path / folder} {why}" in told()
    assert not (tmp_path / "new").exists()
    assert main(["score", *pair, "--csv", str(tmp_path)]) == 2
    assert "is a folder" in told()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_a_full_disk_behind_the_output_is_told_in_one_line(write, extra):
    call = "import sys; from minifold_pl.cli.main import main; sys.exit(main(sys.argv[1:]))"
    pair = [str(write("a.pdb")), str(write("b.pdb"))]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", call, "score", *pair, *extra],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == "error: cannot write to standard output: No space left on device\n"


def test_the_parser_offers_the_ways_there_are():
    parser = add_parser(argparse.ArgumentParser().add_subparsers())
    (match,) = (action for action in parser._actions if action.dest == "match")
    assert tuple(match.choices) == WAYS


# --- real chains ----------------------------------------------------------------------------------


def test_the_two_files_of_an_entry_are_the_same_structure(real_data: Path, score):
    raw = real_data / "raw_cases"
    for entry, ending in (("103l", "pdb.gz"), ("1l2y", "pdb")):
        pair = only(score(raw / f"{entry}.{ending}", raw / f"{entry}.cif"))
        assert pair["scores"]["tm_score"] == pytest.approx(1, abs=1e-3) and pair["matched_by"] == "number"


def test_the_chains_of_a_dimer_score_as_gemmi_and_tmtools_say(real_data: Path, score):
    """2q2k: chains A (45 residues) and B (44) of one sequence."""
    tmtools = pytest.importorskip("tmtools")
    path = real_data / "raw_cases" / "2q2k.cif"
    pair = only(score(path, path, "--pred-chain", "B", "--ref-chain", "A"))
    structure = gemmi.read_structure(str(path))
    trace = {
        name: {str(r.seqid): r["CA"][0].pos for r in structure[0][name].get_polymer() if "CA" in r}
        for name in "AB"
    }
    common = [number for number in trace["A"] if number in trace["B"]]
    assert pair["matched"] == len(common) and pair["reference"]["residues"] == len(trace["A"])
    ref, pred = ([trace[name][number] for number in common] for name in "AB")
    assert pair["scores"]["rmsd"] == pytest.approx(gemmi.superpose_positions(ref, pred).rmsd, abs=1e-4)

    whole = "".join("A" for _ in trace["A"])
    gapped = "".join("A" if number in trace["B"] else "-" for number in trace["A"])
    coords = [np.array([p.tolist() for p in trace[name].values()]) for name in "BA"]
    theirs = tmtools.tm_align(*coords, gapped.replace("-", ""), whole, [gapped, whole])
    assert pair["scores"]["tm_score"] == pytest.approx(theirs.tm_norm_chain2, abs=0.002)


def test_an_ensemble_scores_every_model_against_its_first(real_data: Path, score):
    raw = real_data / "raw_cases"
    document = score(raw / "1l2y.pdb", raw / "1l2y.cif", "--model", "all")
    assert len(document["pairs"]) == 38
    assert document["pairs"][0]["scores"]["rmsd"] == pytest.approx(0, abs=1e-3)
    assert 0.1 < document["means"]["prediction"]["rmsd"]["mean"] < 2
