"""Scores as they are read: what is no number, and files that are damaged."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from minifold_pl.report.gather import gather
from minifold_pl.report.page import page
from minifold_pl.report.results import read_evaluation, read_while_training


@pytest.fixture
def evaluation(made_run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_run.evaluation, tmp_path / "run" / "evaluation"))


def test_scores_of_a_model_that_diverged_are_no_numbers_and_the_others_are_untouched(
    evaluation: Path,
) -> None:
    path = evaluation / "summary.json"
    content = json.loads(path.read_text())
    content["rows"]["model"]["tm_score"]["mean"] = math.nan
    content["rows"]["model"]["rmsd"]["high"] = math.inf
    path.write_text(json.dumps(content))
    rows = read_evaluation(evaluation).rows
    assert rows["model"]["tm_score"]["mean"] is None
    assert rows["model"]["rmsd"] == {**content["rows"]["model"]["rmsd"], "high": None}
    assert rows["truth"] == content["rows"]["truth"]
    (evaluation.parent / "config.yaml").write_text("seed_everything: 1\n")
    assert "nan" not in page(gather(evaluation.parent)).split('id="data"')[1].split("</script>")[0].lower()


def test_records_without_scores_are_left_out(tmp_path: Path) -> None:
    cell = {"mean": 0.5, "low": None, "high": None, "n": 1}
    start = {"step": 9, "chains": 1}
    records = [
        {"epoch": 1, **start, "scores": {}},
        {"epoch": 2, **start, "scores": {"model": {}}},
        {"epoch": 3, **start, "scores": {"model": {"rmsd": 0.5}}},
        {"epoch": 4, **start, "scores": None},
        {"epoch": 5, **start, "scores": {"model": {"rmsd": cell}}},
    ]
    (tmp_path / "ddim.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    assert [one.title for one in read_while_training(tmp_path / "ddim.jsonl")] == ["While training: epoch 5"]


def test_chains_in_lines_that_are_damaged_are_left_out_and_told(evaluation: Path) -> None:
    path = evaluation / "per_chain.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], lines[3] + ",7,8", lines[4].split(",")[0], *lines[5:]]) + "\n")
    (evaluation.parent / "config.yaml").write_text("seed_everything: 1\n")
    report = gather(evaluation.parent)
    assert len(report.results[0].per_chain) == len(lines) - 3
    assert any("per_chain.csv is damaged: 2 of its" in note for note in report.notes)


def test_a_summary_that_lacks_something_says_what(evaluation: Path) -> None:
    path = evaluation / "summary.json"
    content = json.loads(path.read_text())
    del content["settings"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="it has no 'settings'"):
        read_evaluation(evaluation)
