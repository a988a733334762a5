"""What a confidence head adds to ``sample`` and ``evaluate``: pLDDT in files, a reliability table, a calibration."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gemmi
import numpy as np
import pytest
import torch

from minifold_pl.checkpoint.io import save
from minifold_pl.cli import evaluate_structures
from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.cli.main import main
from minifold_pl.modules.structures import SampledChain
from minifold_pl.results.calibration import CALIBRATION, read_calibration

SEQUENCE = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ"


class Evaluated(NamedTuple):
    ckpt: Path
    folder: Path
    summary: dict[str, Any]


def _save(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    options = ["sampler.steps=2", "confidence={steps: 2, bins: 10, hidden: 16}"]
    module = instantiate_model("v13_small.yaml", [f"--model.init_args.{one}" for one in options])
    torch.nn.init.normal_(module.confidence_head.bins.weight)  # an untrained head says the same everywhere
    checkpoint = {"state_dict": module.state_dict(), "global_step": 7, "epoch": 1, "callbacks": {}}
    module.on_save_checkpoint(checkpoint)
    save(checkpoint, path)
    return path


@pytest.fixture(scope="module")
def judging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("judging") / "judging.ckpt", 0)


@pytest.fixture(scope="module")
def evaluated(judging: Path, helix_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    out = tmp_path_factory.mktemp("evaluated") / "evaluation"
    given = ["--ckpt", str(judging), "--data", str(helix_store), "--out", str(out), "--num-samples", "2"]
    assert main(["evaluate", *given, "--structures", "2"]) == 0
    return Evaluated(judging, out, json.loads((out / "summary.json").read_text()))


def _factors(path: Path) -> np.ndarray:
    return np.array([residue.sole_atom("CA").b_iso for residue in gemmi.read_structure(str(path))[0][0]])


def _sample(ckpt: Path, out: Path, *more: str) -> dict[str, Any]:
    assert main(["sample", "--ckpt", str(ckpt), "--sequence", SEQUENCE, "--out", str(out), *more]) == 0
    return json.loads((out / "manifest.json").read_text())


def test_b_factors_are_the_manifests_plddt_and_the_file_says_they_are_raw(
    judging: Path, tmp_path: Path
) -> None:
    told = _sample(judging, tmp_path, "--num-samples", "3", "--format", "both", "--backbone")
    for one in told["chains"][0]["samples"]:
        for name in one["files"]:
            factors = _factors(tmp_path / name)
            assert factors.mean() == pytest.approx(one["plddt"], abs=0.01)
            assert factors.std() > 0 and factors.min() >= 0 and factors.max() <= 100
            text = " ".join((tmp_path / name).read_text().replace("REMARK  99", "").split())
            assert "pLDDT" in text and "RAW, not calibrated" in text
    assert "RAW" in told["b_factor"] and "calibration" not in told


def test_the_most_confident_sample_is_the_best_where_that_is_asked_for(judging: Path, tmp_path: Path) -> None:
    told = _sample(judging, tmp_path, "--num-samples", "4", "--rank-by", "confidence")["chains"][0]["samples"]
    assert [one["plddt"] for one in told] == sorted((one["plddt"] for one in told), reverse=True)
    plain = _sample(judging, tmp_path / "a", "--num-samples", "4")["chains"][0]["samples"]
    assert [one["agreement"] for one in plain] == sorted((one["agreement"] for one in plain), reverse=True)
    assert {one["sample"]: one["plddt"] for one in plain} == {one["sample"]: one["plddt"] for one in told}


def test_an_evaluation_holds_the_table_and_every_number_follows_from_it(evaluated: Evaluated) -> None:
    told = evaluated.summary["confidence"]
    for part in ("raw", "calibrated"):
        table = told[part]["table"]
        assert sum(one["n"] for one in table) == told["residues"] == 2 * _observed(evaluated)
        gap = sum(one["n"] * abs(one["predicted"] - one["real"]) for one in table) / told["residues"]
        assert gap == pytest.approx(told[part]["calibration_error"], abs=1e-5)
        assert all(one["low"] <= one["predicted"] <= one["high"] + 1e-9 for one in table)
    assert told["chains"] == 6
    model = evaluated.summary["rows"]["model"]
    assert 0 < model["confidence"]["mean"] < 1 and model["confidence"]["n"] == 6
    best = evaluated.summary["rows"][evaluate_structures.MOST_CONFIDENT]
    assert best["confidence"]["mean"] >= model["confidence"]["mean"]
    with (evaluated.folder / "per_chain.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert np.mean([float(row["confidence"]) for row in rows]) == pytest.approx(
        model["confidence"]["mean"], abs=1e-5
    )


def _observed(evaluated: Evaluated) -> int:
    with (evaluated.folder / "per_chain.csv").open() as file:
        return sum(int(row["observed"]) for row in csv.DictReader(file))


def test_the_reliability_is_that_of_what_was_drawn(
    judging: Path, helix_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The truth, drawn and called certain: no error; called worthless: all of it, and a calibration puts it right."""

    def run(confidence: float, name: str) -> dict[str, Any]:
        def answer(_: Any, batch: Any, *__: Any, **___: Any) -> list[SampledChain]:
            chains = zip(batch.ca, batch.lengths.tolist(), strict=True)
            return [SampledChain(ca[:n, None], None, torch.full((n,), confidence)) for ca, n in chains]

        monkeypatch.setattr(evaluate_structures, "draw", answer)
        given = ["--ckpt", str(judging), "--data", str(helix_store), "--out", str(tmp_path / name)]
        assert main(["evaluate", *given, "--structures", "0"]) == 0
        return json.loads((tmp_path / name / "summary.json").read_text())["confidence"]

    sure, unsure = run(1.0, "sure"), run(0.0, "unsure")
    assert sure["raw"]["calibration_error"] == 0 and unsure["raw"]["calibration_error"] == 1
    assert unsure["calibrated"]["calibration_error"] == 0 and unsure["correlation"] is None


def test_a_sample_is_calibrated_by_an_evaluation_and_the_file_says_by_which(
    evaluated: Evaluated, tmp_path: Path
) -> None:
    raw = _sample(evaluated.ckpt, tmp_path / "raw")
    told = _sample(evaluated.ckpt, tmp_path / "calibrated", "--calibration", str(evaluated.folder))
    found = read_calibration(evaluated.folder)
    file = raw["chains"][0]["best"]
    expected = 100 * found.map(_factors(tmp_path / "raw" / file) / 100)
    np.testing.assert_allclose(_factors(tmp_path / "calibrated" / file), expected, atol=0.1)
    text = (tmp_path / "calibrated" / file).read_text()
    assert "CALIBRATED on 6 chains of test" in " ".join(text.replace("REMARK  99", "").split())
    assert told["calibration"]["chains"] == 6 and told["calibration"]["split"] == "test"
    same = read_calibration(evaluated.folder / CALIBRATION)
    assert same.map == found.map


def test_a_calibration_of_another_checkpoint_is_refused(
    evaluated: Evaluated, tmp_path: Path, told: Callable[[], str]
) -> None:
    other = _save(tmp_path / "other.ckpt", 1)
    given = ["--sequence", SEQUENCE, "--out", str(tmp_path / "out"), "--calibration", str(evaluated.folder)]
    assert main(["sample", "--ckpt", str(other), *given]) == 2
    assert "other checkpoint" in told()
    assert not (tmp_path / "out").exists()


def test_a_calibration_of_other_settings_is_used_with_a_warning(
    evaluated: Evaluated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _sample(evaluated.ckpt, tmp_path, "--calibration", str(evaluated.folder), "--steps", "3")
    assert "steps 2, not 3" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["", "{", "{}", '{"map": {"predicted": [0.5, 0.1], "real": [0.1, 0.2]}}'])
def test_a_damaged_calibration_is_told_in_a_line(
    judging: Path, tmp_path: Path, told: Callable[[], str], damage: str
) -> None:
    file = tmp_path / CALIBRATION
    if damage:
        file.write_text(damage)
    given = ["--sequence", SEQUENCE, "--out", str(tmp_path / "out"), "--calibration", str(file)]
    assert main(["sample", "--ckpt", str(judging), *given]) == 2
    assert CALIBRATION in told()


@pytest.mark.parametrize("option", [("--calibration", "x"), ("--rank-by", "confidence")])
def test_a_model_without_a_head_says_how_to_get_one(
    untrained: dict[str, Path], tmp_path: Path, told: Callable[[], str], option: tuple[str, str]
) -> None:
    given = ["--ckpt", str(untrained["diffusion"]), "--sequence", SEQUENCE, "--out", str(tmp_path / "o")]
    assert main(["sample", *given, *option]) == 2
    assert "model.init_args.confidence" in told()


def test_what_an_evaluation_writes_of_its_samples_is_their_plddt(evaluated: Evaluated) -> None:
    for one in evaluated.summary["structures"]:
        factors = _factors(evaluated.folder / one["file"])
        assert factors.mean() == pytest.approx(100 * one["scores"]["confidence"], abs=2)
        assert "RAW" in (evaluated.folder / one["file"]).read_text()


def test_an_evaluation_without_a_head_leaves_no_calibration_of_another(
    evaluated: Evaluated, untrained: dict[str, Path], helix_store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    shutil.copytree(evaluated.folder, out)
    given = ["--ckpt", str(untrained["diffusion"]), "--data", str(helix_store), "--out", str(out)]
    assert main(["evaluate", *given, "--limit", "2", "--overwrite"]) == 0
    assert not (out / CALIBRATION).exists()
    assert "confidence" not in json.loads((out / "summary.json").read_text())


def test_the_figure_has_the_numbers_of_the_summary(evaluated: Evaluated, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    changed = json.loads(json.dumps(evaluated.summary))
    changed["confidence"]["raw"]["calibration_error"] = 0.24681
    (tmp_path / "summary.json").write_text(json.dumps(changed))
    out, numbers = tmp_path / "r.svg", tmp_path / "r.json"
    assert main(["plot", "reliability", str(tmp_path), "--out", str(out), "--json", str(numbers)]) == 0
    assert "as the model says it: calibration error 0.247" in out.read_text()
    assert json.loads(numbers.read_text())["confidence"]["raw"] == changed["confidence"]["raw"]


def test_a_figure_of_a_model_without_a_head_is_refused_in_a_line(
    evaluated: Evaluated, tmp_path: Path, told: Callable[[], str]
) -> None:
    pytest.importorskip("matplotlib")
    left = {name: part for name, part in evaluated.summary.items() if name != "confidence"}
    (tmp_path / "summary.json").write_text(json.dumps(left))
    assert main(["plot", "reliability", str(tmp_path), "--out", str(tmp_path / "r.png")]) == 1
    assert "no confidence head" in told()
