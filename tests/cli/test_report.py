"""``minifold-pl report`` on what the other commands wrote."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from minifold_pl.cli.main import main

pytest.importorskip("plotly")


def _data(path: Path) -> dict:
    found = re.search(
        r'<script id="data" type="application/json">(.*?)</script>', path.read_text(), re.DOTALL
    )
    assert found is not None
    return json.loads(found[1])


@pytest.mark.parametrize("stage", ["diffusion", "contact"])
def test_a_checkpoint_with_an_evaluation_shows_the_numbers_of_its_summary(
    stage: str,
    untrained: dict[str, Path],
    helix_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, evaluation = tmp_path / "report.html", tmp_path / "evaluation"
    given = ["--ckpt", str(untrained[stage]), "--data", str(helix_store), "--out", str(evaluation)]
    assert main(["evaluate", *given]) == 0
    arguments = ["--evaluation", str(evaluation), "--data", str(helix_store), "--out", str(out)]
    assert main(["report", str(untrained[stage]), *arguments]) == 0
    assert str(out) in capsys.readouterr().out
    summary = json.loads((evaluation / "summary.json").read_text())
    result = _data(out)["results"][0]
    assert {row["name"]: row["cells"] for row in result["rows"]} == {
        row: {
            score: [cell["mean"], cell["low"], cell["high"], cell["n"]]
            for score, cell in cells.items()
            if cell["mean"] is not None
        }
        for row, cells in summary["rows"].items()
    }
    lines = (evaluation / "per_chain.csv").read_text().splitlines()
    table = _data(out)["tables"][0]
    assert len(table["rows"]) == len(lines) - 1
    columns = [column["name"] for column in table["columns"]]
    assert set(columns) == set(lines[0].split(","))
    for line, row in zip(lines[1:], table["rows"], strict=True):
        cells = dict(zip(lines[0].split(","), line.split(","), strict=True))
        shown = dict(zip(columns, row, strict=True))
        assert shown["name"] == cells["name"]
        assert all(shown[k] == (float(v) if v else None) for k, v in cells.items() if k != "name")


def test_samples_of_a_checkpoint_stand_beside_their_truth(
    untrained: dict[str, Path], helix_store: Path, tmp_path: Path
) -> None:
    from minifold_pl.data.store import ChainStore

    record = ChainStore.open(helix_store)[12]
    drawn = ["--ckpt", str(untrained["diffusion"]), "--sequence", record.sequence, "--num-samples", "3"]
    assert main(["sample", *drawn, "--out", str(tmp_path / "drawn")]) == 0
    place = tmp_path / "samples"
    place.mkdir()
    for path in (tmp_path / "drawn").glob("*.pdb"):
        shutil.copy(path, place / path.name.replace("sequence", record.name))
    out = tmp_path / "r.html"
    given = [
        str(untrained["diffusion"]),
        "--samples",
        str(place),
        "--data",
        str(helix_store),
        "--out",
        str(out),
    ]
    assert main(["report", *given]) == 0
    (chain,) = _data(out)["chains"]
    assert chain["name"] == record.name
    assert chain["truth"]
    assert [sample["made"] for sample in chain["samples"]][-1] == "samples, best"
    assert all(0 <= sample["scores"]["tm_score"] <= 1 for sample in chain["samples"])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["nowhere"], "does not exist"),
        (["empty"], "no run folder"),
        (["empty", "--out", "missing/r.html"], "does not exist; make it first"),
        (["text.ckpt"], "text.ckpt"),
    ],
)
def test_what_is_no_run_is_told_in_a_line(
    given: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Callable[[], str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    assert main(["report", *given]) in (1, 2)
    assert says in told()
    assert not list(tmp_path.rglob("*.html"))


def test_a_damaged_evaluation_is_told_in_a_line(tmp_path: Path, told: Callable[[], str]) -> None:
    (tmp_path / "config.yaml").write_text("seed_everything: 0\n")
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "summary.json").write_text("{")
    assert main(["report", str(tmp_path)]) == 1
    assert "summary.json is damaged" in told()
