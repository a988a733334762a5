from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest
import torch

from minifold_pl.checkpoint.io import save
from minifold_pl.cli import sample
from minifold_pl.cli.main import main
from minifold_pl.modules.structures import SampledChain

SEQUENCE = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ"


def _ca(path: Path) -> np.ndarray:
    chain = gemmi.read_structure(str(path))[0][0]
    return np.array([residue.sole_atom("CA").pos.tolist() for residue in chain])


def _manifest(out: Path) -> dict[str, Any]:
    return json.loads((out / "manifest.json").read_text())


def test_the_manifest_tells_every_setting_the_checkpoint_and_the_files(
    untrained: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["--ckpt", str(untrained["diffusion"]), "--sequence", SEQUENCE, "--out", str(out)]
    assert (
        main(["sample", *arguments, "--steps", "3", "--eta", "0.5", "--guidance", "1.5", "--seed", "4"]) == 0
    )
    told = _manifest(out)
    settings = told["settings"]
    assert (settings["steps"], settings["eta"], settings["guidance"], settings["seed"]) == (3, 0.5, 1.5, 4)
    assert settings["guidance_space"] == "x0"
    assert told["checkpoint"]["sha256"] == hashlib.sha256(untrained["diffusion"].read_bytes()).hexdigest()
    assert (told["checkpoint"]["step"], told["checkpoint"]["weights"]) == (7, "ema")
    assert {"python", "minifold-pl", "torch"} <= told["versions"].keys()
    assert told["complete"] is True
    (chain,) = told["chains"]
    assert chain["sequence"] == SEQUENCE
    assert chain["samples"] == [{"rank": 1, "sample": 0, "agreement": None, "files": ["sequence.pdb"]}]
    assert "one sample agrees with nothing" in told["b_factor"]
    assert sorted(os.listdir(out)) == ["manifest.json", "sequence.pdb"]
    residues = gemmi.read_structure(str(out / "sequence.pdb"))[0][0]
    assert {residue[0].b_iso for residue in residues} == {0.0}


def test_the_manifest_tells_which_sampler_drew_and_what_it_cost(
    untrained: dict[str, Path], tmp_path: Path
) -> None:
    def drawn(name: str, *given: str) -> tuple[dict[str, Any], np.ndarray]:
        arguments = [
            "--ckpt",
            str(untrained["diffusion"]),
            "--sequence",
            SEQUENCE,
            "--out",
            str(tmp_path / name),
        ]
        assert main(["sample", *arguments, "--steps", "3", *given]) == 0
        return _manifest(tmp_path / name)["settings"], _ca(tmp_path / name / "sequence.pdb")

    ddim, by_ddim = drawn("ddim")
    assert (ddim["sampler"], ddim["steps"], ddim["network_calls"], ddim["eta"]) == ("ddim", 3, 3, 0.0)
    assert "churn" not in ddim
    heun, by_heun = drawn("heun", "--sampler", "heun", "--churn", "2", "--sigma-max", "40")
    assert (heun["sampler"], heun["steps"], heun["network_calls"]) == ("heun", 3, 5)
    assert (heun["churn"], heun["sigma_max"], heun["rho"]) == (2.0, 40.0, 7.0)
    assert "eta" not in heun
    assert np.abs(by_heun - by_ddim).max() > 0.5


def test_settings_left_out_are_the_checkpoints_own(untrained: dict[str, Path], tmp_path: Path) -> None:
    main(["sample", "--ckpt", str(untrained["diffusion"]), "--sequence", SEQUENCE, "--out", str(tmp_path)])
    assert _manifest(tmp_path)["settings"]["steps"] == 2


def test_a_seed_and_a_sequence_give_the_same_structure_in_any_company(
    untrained: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "many.fasta").write_text(
        f">x\nACDEFGHIKL\n>y\n{SEQUENCE.lower()}*\n>z\n{SEQUENCE + SEQUENCE}\n"
    )
    model = ["--ckpt", str(untrained["diffusion"])]
    main(["sample", *model, "--fasta", str(tmp_path / "many.fasta"), "--out", str(tmp_path / "many")])
    main(["sample", *model, "--sequence", SEQUENCE, "--out", str(tmp_path / "alone"), "--batch-size", "1"])
    main(["sample", *model, "--sequence", SEQUENCE, "--out", str(tmp_path / "other"), "--seed", "1"])
    alone = _ca(tmp_path / "alone" / "sequence.pdb")
    np.testing.assert_allclose(_ca(tmp_path / "many" / "y.pdb"), alone, atol=5e-3)
    assert np.abs(_ca(tmp_path / "other" / "sequence.pdb") - alone).max() > 1
    assert [c["name"] for c in _manifest(tmp_path / "many")["chains"]] == ["x", "y", "z"]


def test_the_sample_that_agrees_most_is_called_best(
    untrained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    length = len(SEQUENCE)
    steps = torch.randn(length, 3)
    chain = torch.cumsum(3.8 * steps / steps.norm(dim=-1, keepdim=True), 0)
    drawn = {
        f"{SEQUENCE}/0": 3 * torch.randn(length, 3),
        f"{SEQUENCE}/1": chain + 1.0 * torch.randn(length, 3),
        f"{SEQUENCE}/2": chain,
        f"{SEQUENCE}/3": chain + 0.4 * torch.randn(length, 3),
    }
    monkeypatch.setattr(
        sample, "draw", lambda *_, keys, **__: [SampledChain(drawn[key][:, None], None) for key in keys]
    )
    arguments = ["--ckpt", str(untrained["diffusion"]), "--sequence", SEQUENCE, "--out", str(tmp_path)]
    assert main(["sample", *arguments, "--num-samples", "4", "--batch-size", "3"]) == 0
    (told,) = _manifest(tmp_path)["chains"]
    ranks = told["samples"]
    assert [r["rank"] for r in ranks] == [1, 2, 3, 4]
    assert ranks[0]["sample"] in (2, 3)
    assert ranks[-1]["sample"] == 0
    assert [r["agreement"] for r in ranks] == sorted((r["agreement"] for r in ranks), reverse=True)
    assert told["best"] == "sequence_best.pdb"
    best = drawn[f"{SEQUENCE}/{ranks[0]['sample']}"]
    np.testing.assert_allclose(_ca(tmp_path / "sequence_best.pdb"), best.numpy(), atol=1e-3)
    factors = [r[0].b_iso for r in gemmi.read_structure(str(tmp_path / "sequence_best.pdb"))[0][0]]
    assert np.mean(factors) == pytest.approx(100 * ranks[0]["agreement"], abs=0.02)


def test_a_reconstructed_backbone_is_labelled_wherever_it_is_seen(
    untrained: dict[str, Path], tmp_path: Path
) -> None:
    arguments = ["--ckpt", str(untrained["diffusion"]), "--sequence", SEQUENCE, "--out", str(tmp_path)]
    assert main(["sample", *arguments, "--backbone", "--format", "both"]) == 0
    for name in ("sequence.pdb", "sequence.cif"):
        assert "RECONSTRUCTED" in (tmp_path / name).read_text()
        chain = gemmi.read_structure(str(tmp_path / name))[0][0]
        assert [atom.name for atom in chain[3]] == ["N", "CA", "C", "O"]
        assert gemmi.one_letter_code([r.name for r in chain]) == SEQUENCE
    assert "not predicted" in _manifest(tmp_path)["atoms"]


def test_names_never_leave_the_folder_nor_meet(untrained: dict[str, Path], tmp_path: Path) -> None:
    names = ["../../up", "/abs", "A", "a", "a_best", "x" * 300, "..", "con", "a/b\\c"]
    (tmp_path / "in.fasta").write_text("".join(f">{name}\nACDEF\n" for name in names))
    out = tmp_path / "deep" / "out"
    arguments = [
        "--ckpt",
        str(untrained["diffusion"]),
        "--fasta",
        str(tmp_path / "in.fasta"),
        "--out",
        str(out),
    ]
    assert main(["sample", *arguments, "--num-samples", "2"]) == 0
    written = os.listdir(out)
    assert len({name.lower() for name in written}) == 2 * len(names) + 1
    assert sorted(os.listdir(tmp_path)) == ["deep", "in.fasta"]
    assert os.listdir(tmp_path / "deep") == ["out"]
    assert [c["name"] for c in _manifest(out)["chains"]] == names


def test_unknown_residues_are_warned_of_and_written_as_unknown(
    untrained: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--ckpt", str(untrained["diffusion"]), "--sequence", "ACBDEUF", "--out", str(tmp_path)]
    assert main(["sample", *arguments]) == 0
    assert "2 residues read as unknown (B3, U6)" in capsys.readouterr().err
    chain = gemmi.read_structure(str(tmp_path / "sequence.pdb"))[0][0]
    assert [r.name for r in chain] == ["ALA", "CYS", "UNK", "ASP", "GLU", "UNK", "PHE"]


def test_results_are_replaced_only_when_asked(
    untrained: dict[str, Path], tmp_path: Path, told: Callable[[], str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    arguments = ["sample", "--ckpt", str(untrained["diffusion"]), "--sequence", SEQUENCE, "--out", str(out)]
    assert main(arguments) == 0
    before = (out / "sequence.pdb").read_bytes()
    assert main([*arguments, "--seed", "1"]) == 2
    assert "already holds sequence.pdb and 1 more" in told()
    assert (out / "sequence.pdb").read_bytes() == before
    assert main([*arguments, "--seed", "1", "--overwrite"]) == 0
    assert (out / "sequence.pdb").read_bytes() != before
    assert (out / "notes.txt").read_text() == "mine"


def test_a_kill_while_sampling_leaves_whole_files_and_a_manifest_of_them(
    untrained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in.fasta").write_text(">one\nACDEF\n>two\nACDEFGHIKL\n>three\nACDEFGHIKLMNP\n")
    monkeypatch.setattr(sample, "_MANIFEST_SECONDS", 0.0)
    real, calls = sample.draw, iter(range(10))

    def dying(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(sample, "draw", dying)
    out = tmp_path / "out"
    arguments = [
        "--ckpt",
        str(untrained["diffusion"]),
        "--fasta",
        str(tmp_path / "in.fasta"),
        "--out",
        str(out),
    ]
    assert main(["sample", *arguments, "--batch-size", "1"]) == 130
    assert sorted(os.listdir(out)) == ["manifest.json", "one.pdb", "two.pdb"]
    told = _manifest(out)
    assert told["complete"] is False
    assert [c["name"] for c in told["chains"]] == ["one", "two"]


def test_a_chain_that_diverges_is_told_and_the_others_are_written(
    untrained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Callable[[], str]
) -> None:
    (tmp_path / "in.fasta").write_text(">bad\nACDEF\n>good\nACDEFGHIKL\n")
    real = sample.draw

    def diverging(*args: Any, **kwargs: Any) -> list[SampledChain]:
        chains = real(*args, **kwargs)
        return [c._replace(coords=c.coords * torch.nan) if len(c.coords) == 5 else c for c in chains]

    monkeypatch.setattr(sample, "draw", diverging)
    out = tmp_path / "out"
    arguments = [
        "--ckpt",
        str(untrained["diffusion"]),
        "--fasta",
        str(tmp_path / "in.fasta"),
        "--out",
        str(out),
    ]
    assert main(["sample", *arguments]) == 1
    assert "1 sequences have no structure" in told()
    assert sorted(os.listdir(out)) == ["good.pdb", "manifest.json"]
    assert "not finite" in _manifest(out)["chains"][0]["failed"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--sequence", "AC1DE"], 2, "digit '1' at position 3"),
        (["--sequence", ""], 2, "no sequence"),
        (["--sequence", "AC"], 2, "has 2 residues; at least 3"),
        (["--sequence", "A" * 2000], 2, "2000 residues; this checkpoint reads up to"),
        (["--fasta", "absent.fasta"], 2, "no FASTA file at absent.fasta"),
        (["--sequence", "ACDEF", "--eta", "2"], 2, "eta must lie in"),
        (
            ["--sequence", "ACDEF", "--sampler", "heun", "--eta", "0.5"],
            2,
            "eta is 0.5, but the sampler (kind) is heun",
        ),
        (["--sequence", "ACDEF", "--churn", "5"], 2, "churn is 5.0, but the sampler (kind) is ddim"),
        (["--sequence", "ACDEF", "--sampler", "heun", "--steps", "993"], 2, "allow 1 to 992"),
        (["--sequence", "ACDEF", "--device", "nonsense"], 2, "--device nonsense cannot be used here"),
    ],
)
def test_wrong_use_is_told_before_anything_is_written(
    untrained: dict[str, Path],
    tmp_path: Path,
    told: Callable[[], str],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    out = tmp_path / "out"
    assert main(["sample", "--ckpt", str(untrained["diffusion"]), "--out", str(out), *arguments]) == code
    assert said in told()
    assert not out.exists()


def test_a_checkpoint_that_is_missing_damaged_or_of_the_other_stage_is_told(
    untrained: dict[str, Path], tmp_path: Path, told: Callable[[], str]
) -> None:
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(untrained["diffusion"].read_bytes()[:100_000])
    for path, said in (
        (tmp_path / "absent.ckpt", "no checkpoint at"),
        (cut, "damaged checkpoint"),
        (untrained["contact"], "a diffusion checkpoint is needed"),
    ):
        arguments = ["--ckpt", str(path), "--sequence", "ACDEF", "--out", str(tmp_path / "out")]
        assert main(["sample", *arguments]) == 1
        assert said in told()


def test_raw_weights_are_used_when_asked_and_said_when_they_are_all_there_is(
    untrained: dict[str, Path], tmp_path: Path
) -> None:
    only_raw = torch.load(untrained["diffusion"], weights_only=True)
    del only_raw["current_model_state"]
    save(only_raw, tmp_path / "raw.ckpt")
    for name, ckpt, extra, weights in (
        ("ema", untrained["diffusion"], [], "ema"),
        ("raw", untrained["diffusion"], ["--weights", "raw"], "raw"),
        ("only", tmp_path / "raw.ckpt", [], "raw"),
    ):
        out = tmp_path / name
        assert main(["sample", "--ckpt", str(ckpt), "--sequence", SEQUENCE, "--out", str(out), *extra]) == 0
        assert _manifest(out)["checkpoint"]["weights"] == weights
    averaged = _ca(tmp_path / "ema" / "sequence.pdb")
    np.testing.assert_array_equal(_ca(tmp_path / "only" / "sequence.pdb"), averaged)
    assert np.abs(_ca(tmp_path / "raw" / "sequence.pdb") - averaged).max() > 0.1
