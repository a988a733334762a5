"""The page as a file: its numbers are the files', names are no markup, nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from minifold_pl.report.gather import gather
from minifold_pl.report.page import json_in_script, number, page

pytest.importorskip("plotly")


class _Elements(HTMLParser):
    """Every start tag with its attributes, and the text of scripts by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.text: list[str] = []
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._script = dict(attrs).get("id", "") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.text.append(data)
        else:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data


@pytest.fixture(scope="module")
def text(made_run) -> str:
    return page(gather(made_run.folder))


@pytest.fixture(scope="module")
def elements(text: str) -> _Elements:
    return _Elements(text)


@pytest.fixture(scope="module")
def data(elements: _Elements) -> dict[str, Any]:
    return json.loads(elements.scripts["data"])


def _unpacked(elements: _Elements, script: str) -> str:
    return gzip.decompress(base64.b64decode(elements.scripts[script])).decode()


def test_a_run_of_60_epochs_and_200_samples_stays_below_15_megabytes(text: str, data) -> None:
    assert sum(len(chain["samples"]) for chain in data["chains"]) == 200
    assert len(text.encode()) < 15e6


def test_every_number_of_the_evaluation_stands_in_the_page_untouched(made_run, data, elements) -> None:
    summary = json.loads((made_run.evaluation / "summary.json").read_text())
    shown = {row["name"]: row["cells"] for row in data["results"][0]["rows"]}
    for row, cells in summary["rows"].items():
        for score, cell in cells.items():
            assert shown[row][score] == [cell["mean"], cell["low"], cell["high"], cell["n"]]
    in_tables = [attributes for _, attributes in elements.tags if "data-score" in attributes]
    means = {(a["data-score"], float(a["data-value"] or "nan")) for a in in_tables}
    assert {(s, c["mean"]) for cells in summary["rows"].values() for s, c in cells.items()} <= means


def test_what_is_printed_is_the_number_to_three_decimals(made_run, elements) -> None:
    summary = json.loads((made_run.evaluation / "summary.json").read_text())
    words = {word.strip() for word in elements.text}
    for cells in summary["rows"].values():
        for cell in cells.values():
            assert f"{cell['mean']:.3f}" in words


def test_evaluations_while_training_follow_newest_first_and_a_cut_line_is_left_out(made_run, data) -> None:
    lines = (made_run.folder / "ddim.jsonl").read_text().splitlines()
    newest = json.loads(lines[-2])
    assert len(data["results"]) == 1 + len(lines) - 1
    shown = {row["name"]: row["cells"] for row in data["results"][1]["rows"]}
    assert shown["model"]["tm_score"][0] == newest["scores"]["model"]["tm_score"]["mean"]


def test_of_several_evaluations_in_a_run_the_newest_stands_first(made_run, tmp_path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.csv").write_text("epoch,step,val/total\n0,1,2.0\n")
    for age, name in enumerate(("b", "c", "a")):
        shutil.copytree(made_run.evaluation, run / name)
        os.utime(run / name / "summary.json", (1_700_000_000 - age, 1_700_000_000 - age))
    found = gather(run)
    assert [path.name for path in found.evaluations] == ["b", "c", "a"]


def test_the_table_of_epochs_has_every_epoch_with_its_patience(made_run, elements) -> None:
    words = [word.strip() for word in elements.text]
    lines = (made_run.folder / "metrics.csv").read_text().splitlines()
    waits = [float(line.split(",")[lines[0].split(",").index("patience/wait")]) for line in lines[1:]]
    assert words.count("NEW BEST") == waits.count(0)
    assert sum(word.startswith("pat ") for word in words) == len(waits) - waits.count(0)


def test_the_card_counts_resumes_and_faults(elements) -> None:
    told = " ".join(" ".join(elements.text).split())
    assert "Resumed 2 times 1 × killed, 1 × retry" in told
    assert "Faults survived 1 1 × batches with a NaN" in told
    assert "60 epochs of at most 100" in told
    assert "3 h 30 min of training" in told


def test_a_name_from_the_data_is_text_and_never_an_element(made_run, elements, data) -> None:
    assert all(attributes.get("src") != "x" for _, attributes in elements.tags)
    assert not any("onerror" in attributes for _, attributes in elements.tags)
    assert made_run.hostile in [chain["name"] for chain in data["chains"]]
    assert made_run.hostile in [row[0] for table in data["tables"] for row in table["rows"]]
    assert any(made_run.hostile in word for word in elements.text)


def test_nothing_is_loaded_from_elsewhere(text: str, elements: _Elements) -> None:
    for tag, attributes in elements.tags:
        for name in ("src", "href", "action", "poster", "srcset"):
            value = attributes.get(name) or ""
            assert value.startswith(("#", "data:")) or not value, f"{tag} {name}={value[:60]}"
    assert re.search(r"default-src 'none'", text)
    assert "@import" not in text
    assert not re.search(r"url\((?!data:|#)", elements.scripts[""] + text.split("</style>")[0])


def test_the_packed_files_are_the_files_themselves(made_run, elements, data) -> None:
    packed = json.loads(_unpacked(elements, "pack"))
    names = {sample["id"]: sample["file"] for chain in data["chains"] for sample in chain["samples"]}
    on_disk = sorted(path.read_text() for path in made_run.folder.glob("samples/*/*.pdb"))
    assert sorted(packed[key] for key in names) == on_disk
    assert len(set(names.values())) == len(names)
    assert "Plotly" in _unpacked(elements, "library")


def test_both_themes_of_every_figure_are_there(elements) -> None:
    packed = json.loads(_unpacked(elements, "pack"))
    dark = [attributes["data-dark"] for _, attributes in elements.tags if "data-dark" in attributes]
    assert {"losses", "gradients", "one-step"} <= set(dark)
    assert all("<svg" in packed[f"figure:{name}"] for name in dark)


def test_json_in_a_script_cannot_end_it_and_has_no_nan() -> None:
    given = {"a": "</script><!--&\u2028", "b": [float("nan"), float("inf"), 0.1]}
    text = json_in_script(given)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": given["a"], "b": [None, None, 0.1]}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.5567868, "0.557"),
        (1.0, "1"),
        (1e-5, "1e-05"),
        (12345.6, "1.235e+04"),
        (float("nan"), "–"),
        (-0.25, "-0.250"),
    ],
)
def test_a_logged_value_is_shown_as_it_is_best_read(value: float, shown: str) -> None:
    assert number(value) == shown


def test_an_empty_run_folder_is_no_error_and_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed_everything: 1\n")
    report = gather(tmp_path)
    assert "evaluate" in " ".join(report.notes)
    elements = _Elements(page(report))
    assert elements.scripts.get("library", "") == ""
    assert not any(attributes.get("id") == "structures" for _, attributes in elements.tags)
