"""The ladder's command: what it measures, what it keeps, and when it fails."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from minifold_pl.cli import ladder, ladder_ablations, ladder_folds, ladder_rungs
from minifold_pl.cli.ladder_climb import TRUNK_SHARE, Goal, Rung
from minifold_pl.cli.main import main
from minifold_pl.data.datamodule import write_synthetic
from minifold_pl.data.synthetic import SyntheticConfig
from minifold_pl.diagnostics.short_training import ShortTraining, TrainingEnd
from minifold_pl.nn.denoiser import IPADenoiser


@pytest.fixture
def small_set(monkeypatch) -> None:
    monkeypatch.setattr(
        ladder_folds, "SYNTHETIC", SyntheticConfig(n=60, folds=5, min_length=24, max_length=34)
    )
    monkeypatch.setattr(ladder_rungs, "_LIBRARY", 6)
    monkeypatch.setattr(ladder_rungs, "_DRAWN", 2)
    monkeypatch.setattr(ladder_rungs, "_WINDOW", 24)


@pytest.fixture(autouse=True)
def threads() -> None:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def climb(out: Path, *arguments: str) -> int:
    return main(["diagnose", "ladder", "--out", str(out), "--threads", "1", *arguments])


@pytest.mark.parametrize(
    ("value", "at_least", "met"),
    [(0.6, True, True), (0.59, True, False), (0.6, False, True), (0.61, False, False), (math.nan, True, False),
     (math.nan, False, False)],
)  # fmt: skip
def test_a_goal_is_met_at_its_target_and_never_by_nan(value: float, at_least: bool, met: bool) -> None:
    assert Goal(name="x", value=value, target=0.6, at_least=at_least).met is met


def test_a_row_shows_intervals_where_there_are_any() -> None:
    one = {"mean": 0.5, "low": math.nan, "high": math.nan, "n": 1}
    assert ladder._row({"a": one, "b": {**one, "low": 0.4, "high": 0.6}, "steps": 7}) == (
        "a 0.500  b 0.500 [0.400–0.600]  steps 7"
    )


def test_one_missed_goal_fails_a_rung() -> None:
    rung = Rung(number=1, title="x", goals=[Goal(name="a", value=1.0, target=0.5)])
    assert rung.met and rung.told()["met"]
    rung.goals.append(Goal(name="b", value=0.4, target=0.5))
    assert not rung.met and not rung.told()["met"]


def test_sampler_and_equivariance_pass_for_v15_and_are_kept(small_set, tmp_path: Path, capsys) -> None:
    assert climb(tmp_path, "--rungs", "1,2") == 0
    assert "rung 2" in capsys.readouterr().out
    kept = json.loads((tmp_path / ladder.RESULTS).read_text())
    assert kept.keys() == {"1", "2"}
    assert all(goal["met"] for rung in kept.values() for goal in rung["goals"])
    wrong = [goal["value"] for goal in kept["1"]["goals"] if not goal["at_least"]]
    assert len(wrong) == 3 and max(wrong) < 0.5


def test_equivariance_fails_for_a_gated_model(small_set, tmp_path: Path) -> None:
    """v13 blends residue frames with the identity where the noise is high."""
    assert climb(tmp_path, "--rungs", "2", "--config", "v13_small.yaml") == 1


@pytest.mark.slow
def test_folds_are_scored_beside_the_baselines_and_a_model_that_hardly_trained_fails(
    small_set, tmp_path: Path
) -> None:
    assert climb(tmp_path, "--rungs", "5", "--scale", "0.001") == 1
    rung = json.loads((tmp_path / ladder.RESULTS).read_text())["5"]
    assert not rung["met"] and rung["training"]["steps"] >= 1
    for label in ("seen folds", "unseen folds"):
        rows = {
            row.split(": ")[1]: scores for row, scores in rung["rows"].items() if row.startswith(f"{label}:")
        }
        assert rows.keys() == {
            "model", "another random chain", "centroid", "ideal helix", "mirrored truth", "truth"
        }  # fmt: skip
        assert rows["truth"]["tm_score"]["mean"] == pytest.approx(1, abs=1e-6)
        assert {"tm_score", "lddt_ca", "x0_tm_t975"} <= rows["model"].keys()
    asked = [goal["name"] for goal in rung["goals"]]
    assert sum("unseen" in name for name in asked) == 6
    assert asked[-1] == "minutes, all told" and rung["goals"][-1]["target"] == 40
    assert set(rung["models"]["unseen folds"]["by_fold"]) == {"fold-004-test"}
    assert not any("truth" in name for name in asked)


@pytest.mark.parametrize(
    ("override", "settings", "changes"),
    [
        ("", (), {}),
        ("scaled_start=false", ("--model.init_args.scaled_start=false",), {}),
        ("training.trunk_share=0", (), {"trunk_share": 0}),
        ("training.muon_lr=null", (), {"muon_lr": None}),
    ],
)
def test_an_ablation_changes_the_model_or_how_it_is_trained(
    override: str, settings: tuple[str, ...], changes: dict[str, object], monkeypatch, tmp_path: Path
) -> None:
    seen: list[object] = []

    class Climb:
        def model(self, *overrides: str) -> object:
            seen.append(overrides)
            return SimpleNamespace(needs="backbone")

        def train(self, module: object, chains: object, seconds: float, **given: object) -> TrainingEnd:
            seen.append(given)
            return TrainingEnd(1, 1, seconds, 0)

    monkeypatch.setattr(ladder_folds, "synthetic_store", lambda climb: None)
    monkeypatch.setattr(ladder_folds, "ChainDataset", lambda *args, **kwargs: [])
    monkeypatch.setattr(ladder_folds, "_folds", lambda *args: {})
    monkeypatch.setattr(ladder_folds, "parameters", lambda module: 7)
    found = ladder_folds.ablation(Climb(), override, 3.0)
    assert found["override"] == override and found["training"]["seconds"] == 3.0
    assert seen == [settings, {"trunk_share": TRUNK_SHARE, **changes}]


def test_every_ablation_of_training_is_a_setting_of_it() -> None:
    known = {field.name for field in fields(ShortTraining)}
    named = {
        setting.removeprefix(ladder_folds.TRAINING).partition("=")[0]
        for setting in (*ladder_ablations.ABLATIONS.values(), *ladder_ablations.OPTIONS.values())
        if setting.startswith(ladder_folds.TRAINING)
    }
    assert named and named <= known


def told_model(seen: float, unseen: float) -> dict[str, object]:
    rows = {
        f"{label}: model": {"tm_score": {"mean": tm, "low": tm, "high": tm, "n": 1}}
        for label, tm in (("seen folds", seen), ("unseen folds", unseen))
    }
    return {"rows": rows, "training": {"steps": 5}}


def test_a_choice_is_worth_what_is_lost_without_it_and_an_option_what_it_brings() -> None:
    models = {
        "none": told_model(0.5, 0.3), "none, seed 1": told_model(0.6, 0.3), "Muon": told_model(0.4, 0.35),
        "hidden residues": told_model(0.65, 0.2),
    }  # fmt: skip
    rows, spread = ladder_ablations.compared(models)
    assert list(rows) == ["none", "none, seed 1", "Muon", "hidden residues (off in v15)"]
    assert rows["Muon"]["seen_worth"] == pytest.approx(0.15)
    assert rows["Muon"]["unseen_worth"] == pytest.approx(-0.05)
    assert rows["hidden residues (off in v15)"]["seen_worth"] == pytest.approx(0.10)
    assert rows["hidden residues (off in v15)"]["unseen_worth"] == pytest.approx(-0.10)
    assert "seen_worth" not in rows["none"] and rows["none"]["steps"] == 5
    assert spread == {"seen folds": pytest.approx(0.1 / 2**0.5), "unseen folds": 0.0}


def test_without_the_config_as_it_is_there_is_no_worth() -> None:
    rows, spread = ladder_ablations.compared({"Muon": told_model(0.4, 0.35)})
    assert rows["Muon"].keys() == {"seen_tm", "unseen_tm", "steps"} and spread == {}


@pytest.fixture
def quick_ablation(monkeypatch) -> list[dict[str, object]]:
    """Ablations that end at once, in this process; what was asked of each."""
    asked: list[dict[str, object]] = []

    def run(self: object, command: list[str], request: dict[str, object], **more: object) -> None:
        asked.append(request)
        ladder_ablations._one_ablation(request)

    monkeypatch.setattr(ladder_ablations._Children, "run", run)
    monkeypatch.setattr(
        ladder_folds, "ablation", lambda climb, override, seconds: told_model(0.5 if override else 0.6, 0.3)
    )
    monkeypatch.setattr(ladder_folds, "synthetic_store", lambda climb: None)
    return asked


def test_ablations_are_kept_and_not_trained_twice(quick_ablation: list, tmp_path: Path, monkeypatch) -> None:
    asked = ["--rungs", "7", "--minutes", "0.01", "--only", "none", "--only", "Muon", "--only", "Muon"]
    assert climb(tmp_path, *asked) == 0
    assert len(quick_ablation) == 2
    rung = json.loads((tmp_path / ladder.RESULTS).read_text())["7"]
    assert rung["models"].keys() == {"none", "Muon"}
    assert rung["rows"]["Muon"]["seen_worth"] == pytest.approx(0.1)
    assert climb(tmp_path, *asked) == 0
    assert len(quick_ablation) == 2
    monkeypatch.setitem(ladder_ablations.ABLATIONS, "Muon", "training.lr=0.001")
    assert climb(tmp_path, *asked) == 0
    assert len(quick_ablation) == 3, "what the name meant before is not what it means now"
    assert climb(tmp_path, *asked, "--set", "model.init_args.noise_draws=2") == 0
    assert len(quick_ablation) == 5, "of another config"


@pytest.mark.parametrize("damaged", ["", "[]", '{"x": 1}'])
def test_a_damaged_ablation_is_trained_again(damaged: str, quick_ablation: list, tmp_path: Path) -> None:
    asked = ["--rungs", "7", "--minutes", "0.01", "--only", "none"]
    climb(tmp_path, *asked)
    (file,) = (tmp_path / "ablations").iterdir()
    file.write_text(damaged)
    assert climb(tmp_path, *asked) == 0
    assert len(quick_ablation) == 2 and json.loads(file.read_text())["rows"]


def test_the_whole_rung_repeats_the_config_and_fails_where_a_choice_does_harm(
    quick_ablation: list, tmp_path: Path, monkeypatch
) -> None:
    seen = {"none": 0.6, "Muon": 0.5}
    monkeypatch.setattr(ladder_ablations, "ABLATIONS", {"none": "", "Muon": "training.muon_lr=null"})
    monkeypatch.setattr(
        ladder_folds, "ablation",
        lambda climb, override, seconds: told_model(
            seen["Muon"] if override else seen["none"] + 0.01 * climb.seed, 0.3
        ),
    )  # fmt: skip
    asked = ["--rungs", "7", "--minutes", "0.01"]
    assert climb(tmp_path / "a", *asked) == 0
    assert [request["seed"] for request in quick_ablation] == [0, 0, 1, 2]
    rung = json.loads((tmp_path / "a" / ladder.RESULTS).read_text())["7"]
    assert "standard deviation of 0.010 on seen folds" in rung["note"]
    seen["Muon"] = 0.7
    assert climb(tmp_path / "b", *asked) == 1
    rung = json.loads((tmp_path / "b" / ladder.RESULTS).read_text())["7"]
    assert "(Muon)" in rung["goals"][0]["name"] and rung["goals"][0]["value"] == pytest.approx(-0.09)


def test_a_setting_that_cannot_be_built_is_told_before_any_model_is_trained(tmp_path: Path, capsys) -> None:
    assert climb(tmp_path, "--rungs", "7", "--set", "model.init_args.nope=1") == 2
    err = capsys.readouterr().err
    assert "nope" in err and "Traceback" not in err and not (tmp_path / "ablations").exists()


def test_a_process_that_fails_is_told_by_name(tmp_path: Path) -> None:
    with (
        ladder_ablations._Children() as children,
        pytest.raises(ValueError, match="Muon: its process ended with code 3"),
    ):
        children.run([sys.executable, "-c", "import sys; sys.exit(3)"], {}, threads=1, name="Muon")


def test_processes_end_with_the_one_that_began_them(tmp_path: Path) -> None:
    """Killed, so that nothing of it runs any more."""
    child = (
        "import threading, time, sys, pathlib, os; from minifold_pl.cli.ladder_ablations import _end_with_the_parent;"
        "sys.stdin.readline(); threading.Thread(target=_end_with_the_parent, daemon=True).start();"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(300)"
    )
    parent = (
        "import sys; from minifold_pl.cli.ladder_ablations import _Children\n"
        f"_Children().run([sys.executable, '-c', {child!r}], {{}}, threads=1, name='x')"
    )
    with subprocess.Popen([sys.executable, "-c", parent]) as process:
        _until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        process.kill()
    pid = int((tmp_path / "pid").read_text())
    _until(lambda: not _alive(pid))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_real_chains_are_scored_on_the_way_and_at_the_end(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "store", SyntheticConfig(n=60, folds=5, min_length=24, max_length=34))
    small = [
        f"model.init_args.{name}" for name in ("denoiser.init_args.layers=1", "pair_stack.init_args.blocks=1")
    ]
    code = climb(
        tmp_path / "out", "--rungs", "6", "--data", str(tmp_path / "store"), "--minutes", "0.1", "--beside",
        "v15_ladder.yaml", *(x for s in small for x in ("--set", s)), "--beside-set", small[0],
    )  # fmt: skip
    rung = json.loads((tmp_path / "out" / ladder.RESULTS).read_text())["6"]
    assert code == (0 if rung["met"] else 1)
    rows = rung["models"]["v15_ladder.yaml"]["rows"]
    for row in ("model after 0.05 min", "model after 0.075 min", "model"):
        assert {"tm_score", "lddt_ca", "precision_long_L5"} <= rows[row].keys()
        assert rows[row]["tm_score"]["n"] == rung["models"]["v15_ladder.yaml"]["validation_chains"]
    assert rung["rows"]["v15_ladder.yaml: real sequence"].keys() == {"late_loss"}
    assert "v15_ladder.yaml, changed: real sequence" not in rung["rows"], (
        "losses of two configs are not comparable"
    )
    assert rung["models"].keys() == {"v15_ladder.yaml", "v15_ladder.yaml, changed"}
    assert [goal["name"].split(": ")[1].split()[0] for goal in rung["goals"]] == [
        "shuffled",
        "MASK",
        "another",
    ]


@pytest.mark.slow
def test_a_scaled_sampler_is_shown_beside_the_published_one(small_set, tmp_path: Path) -> None:
    scaled = ["--set", "model.init_args.sampler.step_scale=1.5"]
    climb(tmp_path, "--rungs", "5", "--scale", "0.001", *scaled)
    rows = json.loads((tmp_path / ladder.RESULTS).read_text())["5"]["rows"]
    asked, plain = rows["seen folds: model"], rows["seen folds: model, steps not scaled"]
    assert plain.keys() == {"tm_score", "lddt_ca"}
    assert plain["tm_score"]["n"] == asked["tm_score"]["n"]
    assert plain["lddt_ca"]["mean"] != asked["lddt_ca"]["mean"]


@pytest.mark.slow
def test_a_set_made_otherwise_is_no_set_of_rung_5(small_set, tmp_path: Path, monkeypatch, capsys) -> None:
    climb(tmp_path, "--rungs", "5", "--scale", "0.0001")
    monkeypatch.setattr(
        ladder_folds, "SYNTHETIC", SyntheticConfig(n=60, folds=5, min_length=24, max_length=34, seed=1)
    )
    assert climb(tmp_path, "--rungs", "5", "--scale", "0.0001") == 1
    assert "is not the synthetic set of rung 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--rungs", "8"], "1 to 7"), (["--rungs", "x"], "1 to 7"), (["--scale", "0"], "--scale"),
     (["--scale", "inf"], "--scale"),
     (["--rungs", "7", "--only", "y"], "--only y")],
)  # fmt: skip
def test_wrong_use_is_told(arguments: list[str], told: str, tmp_path: Path, capsys) -> None:
    assert climb(tmp_path, *arguments) == 2
    assert told in capsys.readouterr().err


def test_a_place_that_is_no_folder_is_told_before_anything_is_trained(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert climb(tmp_path / "file", "--rungs", "2") == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize("rungs", ["3", "4", "6", "5,6"])
def test_real_chains_are_asked_for_before_anything_is_trained(rungs: str, tmp_path: Path, capsys) -> None:
    assert climb(tmp_path, "--rungs", rungs) == 2
    assert "--data" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damaged", ["[1]", '{"5": {"rung"', ""])
def test_damaged_results_are_told_and_not_replaced(damaged: str, tmp_path: Path, capsys) -> None:
    (tmp_path / ladder.RESULTS).write_text(damaged)
    assert climb(tmp_path, "--rungs", "2") == 2
    assert ladder.RESULTS in capsys.readouterr().err
    assert (tmp_path / ladder.RESULTS).read_text() == damaged


def test_results_that_cannot_be_written_are_told_first(tmp_path: Path, capsys) -> None:
    (tmp_path / ladder.RESULTS).mkdir()
    assert climb(tmp_path, "--rungs", "2") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_config_beside_that_is_not_there_is_told_first(tmp_path: Path, capsys) -> None:
    asked = ["--rungs", "6", "--data", str(tmp_path), "--beside", "nope.yaml"]
    assert climb(tmp_path / "out", *asked) == 2
    assert "nope.yaml" in capsys.readouterr().err


def test_a_missing_encoder_is_refused(tmp_path: Path, capsys) -> None:
    """What a config begins with is read, as at the start of a run."""
    wrong = f"model.init_args.encoder_ckpt={tmp_path / 'none.ckpt'}"
    assert climb(tmp_path, "--rungs", "2", "--set", wrong) == 2
    assert "none.ckpt" in capsys.readouterr().err


def test_a_rung_must_end_in_its_time() -> None:
    rung = Rung(number=3, title="x", minutes=3)
    rung.within(170)
    assert rung.met and rung.goals[0].value == pytest.approx(170 / 60)
    rung.within(190)
    assert not rung.met


def test_equivariance_looks_at_the_pass_that_sampling_makes(tmp_path: Path, monkeypatch) -> None:
    """A fixed axis that only a previous estimate brings in is found."""
    start = IPADenoiser._start

    def planted(
        self: object, x_t: object, t: object, condition: object, previous: object, use: object
    ) -> object:
        frames, displacement = start(self, x_t, t, condition, previous, use)
        return frames, displacement if previous is None else displacement + 5 * previous.x0[..., :1]

    assert climb(tmp_path, "--rungs", "2") == 0
    monkeypatch.setattr(IPADenoiser, "_start", planted)
    assert climb(tmp_path, "--rungs", "2") == 1
    goals = json.loads((tmp_path / ladder.RESULTS).read_text())["2"]["goals"]
    assert all(goal["met"] == ("estimate" not in goal["name"]) for goal in goals)
