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


def test_a_damaged_evaluation_is_told_and_the_rest_is_shown_unless_it_was_asked_for(
    tmp_path: Path, told: Callable[[], str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("seed_everything: 0\n")
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "summary.json").write_text("{")
    assert main(["report", str(tmp_path)]) == 0
    assert "summary.json is damaged" in capsys.readouterr().out
    assert "summary.json is damaged" in (tmp_path / "report.html").read_text()
    assert main(["report", str(tmp_path), "--evaluation", str(tmp_path / "evaluation")]) == 1
    assert "summary.json is damaged" in told()


def test_damaged_files_of_a_run_are_told_in_the_report_and_on_the_terminal(
    untrained: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("seed_everything: 0\n")
    rows = ["step,epoch,loss/total,val/total", "9,0,2.5,2.25", "19,1,2.\x00,2.2", "29,2,2.3", "39,3,2.2,2.1"]
    (run / "metrics.csv").write_text("\n".join(rows) + "\n")
    (run / "events.jsonl").write_text('{"event": "started", "step": 0}\n{"event": "resu\nnull\n')
    best = run / "checkpoints" / "best.ckpt"
    for suffix in ("", ".json"):  # the manifest is of the whole file
        shutil.copy(f"{untrained['contact']}{suffix}", f"{best}{suffix}")
    sha256 = json.loads((run / "checkpoints" / "best.ckpt.json").read_text())["content"]["sha256"]
    whole = best.read_bytes()
    assert main(["report", str(run), "--without-model"]) == 0
    assert sha256[:12] in (run / "report.html").read_text()
    assert "best.ckpt" not in capsys.readouterr().out
    for left in (b"", whole[: len(whole) // 2]):
        best.write_bytes(left)
        assert main(["report", str(run)]) == 0
        shown, page = capsys.readouterr().out, (run / "report.html").read_text()
        for text in (shown, page):
            assert "metrics.csv is damaged: 2 lines are left out, in whole or in part (line 3, 4)" in text
            assert "events.jsonl is damaged: 2 lines are left out" in text
            assert "The checkpoint is damaged" in text and "best.ckpt" in text
        assert sha256[:12] not in page and "best.ckpt: damaged" in page
        assert "2.1" in page  # what can be read is there


def test_the_data_of_a_run_are_found_from_any_folder_by_report_and_plot(
    untrained: dict[str, Path], helix_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative to where the run was started, and not to where one stands."""
    place, run = tmp_path / "project", tmp_path / "project" / "runs" / "one"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copytree(helix_store, place / "stores" / "helices")
    (run / "config.yaml").write_text("data: {path: stores/helices}\n")
    for suffix in ("", ".json"):
        shutil.copy(f"{untrained['contact']}{suffix}", run / "checkpoints" / f"best.ckpt{suffix}")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "stores" / "helices").mkdir(parents=True)  # another one of this name, and no store
    for folder in (place, run, elsewhere):
        monkeypatch.chdir(folder)
        out = ["--out", str(tmp_path / "e.png"), "--json", str(tmp_path / "e.json")]
        assert main(["plot", "embedding", str(run), "--split", "all", *out]) == 0
        used = json.loads((tmp_path / "e.json").read_text())["data"]["path"]
        assert Path(used).resolve() == (place / "stores" / "helices").resolve()
        assert main(["report", str(run), "--without-model", "--out", str(tmp_path / "r.html")]) == 0
        assert "16 chains" in (tmp_path / "r.html").read_text()


def test_structures_of_an_evaluation_are_shown_with_its_scores_without_the_data_set(
    untrained: dict[str, Path], helix_store: Path, tmp_path: Path
) -> None:
    model, evaluation, out = str(untrained["diffusion"]), tmp_path / "evaluation", tmp_path / "report.html"
    given = ["--ckpt", model, "--data", str(helix_store), "--out", str(evaluation), "--structures", "3"]
    assert main(["evaluate", *given, "--num-samples", "2", "--steps", "2"]) == 0
    summary = json.loads((evaluation / "summary.json").read_text())
    best = {one["chain"]: one["scores"] for one in summary["structures"] if one["rank"] == 1}
    for data in ([], ["--data", str(helix_store)]):
        assert main(["report", model, "--evaluation", str(evaluation), "--out", str(out), *data]) == 0
        chains = {chain["name"]: chain for chain in _data(out)["chains"]}
        assert set(chains) == set(best) and len(best) == 3
        for name, chain in chains.items():
            assert chain["truth"] and len(chain["samples"]) == 2
            shown = chain["samples"][-1]["scores"]
            assert {score: shown[score] for score in ("tm_score", "lddt_ca", "gdt_ts", "rmsd")} == {
                score: best[name][score] for score in ("tm_score", "lddt_ca", "gdt_ts", "rmsd")
            }
