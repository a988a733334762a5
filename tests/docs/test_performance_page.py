"""The figures of docs/performance.md are written by a program, from what the benchmarks found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import page

CPU = {"cpu": "Some CPU", "torch": "2.13.0", "threads": 1, "cores": 4, "load_at_start": 0.5}


def results(path: Path, machine: dict, **benchmarks: dict) -> str:
    path.write_text(json.dumps({"machine": machine, "benchmarks": benchmarks}))
    return str(path)


def found(value: float | None, met: bool | None, rows: int = 1) -> dict:
    goal = {
        "name": "twice as fast", "value": value, "target": 2.0, "at_least": True, "unit": "×", "note": "", "met": met,
    }  # fmt: skip
    cell = {
        "alternative": "fast | compiled",
        "median": 12.5,
        "iqr": 0.5,
        "unit": "ms",
        "peak_mb": None,
        "note": "",
    }
    return {
        "rows": [{**cell, "cell": {"L": 125 if i == 3 else 64}} for i in range(rows)],
        "goals": [goal],
        "notes": ["one note"],
    }


@pytest.fixture
def target(tmp_path) -> Path:
    path = tmp_path / "performance.md"
    path.write_text(f"# Before\n\n{page.BEGIN}\nold figures\n{page.END}\n\nafter\n")
    return path


def test_only_what_stands_between_the_marks_is_replaced_and_twice_is_once(target, tmp_path) -> None:
    one = results(tmp_path / "one.json", CPU, step=found(2.5, True), many=found(1.5, False, rows=60))
    two = results(tmp_path / "two.json", {**CPU, "gpu": "Some GPU", "cuda": "13"}, step=found(None, None))
    for _ in range(2):
        assert page.main([one, two, "--page", str(target)]) == 0
    text = target.read_text()
    assert text.startswith("# Before\n")
    assert text.endswith("\n\nafter\n")
    assert "old figures" not in text
    assert "| step: twice as fast | 2.5× | ≥ 2× | met |" in text
    assert "| many: twice as fast | 1.5× | ≥ 2× | **missed** |" in text
    assert "| step: twice as fast | – | ≥ 2× | not measured |" in text
    assert text.count("### Some CPU") == text.count("### Some GPU") == 1
    assert "1 of 60 cells." in text  # those at 125 residues
    assert r"fast \| compiled" in text  # no cell of a table is broken


def test_a_later_file_renews_its_benchmarks_alone(target, tmp_path) -> None:
    first = results(tmp_path / "one.json", CPU, step=found(2.5, True), loader=found(3.5, True))
    second = results(tmp_path / "two.json", CPU, step=found(2.75, True))
    page.main([first, second, "--page", str(target)])
    text = target.read_text()
    assert "2.75×" in text
    assert "2.5×" not in text
    assert "3.5×" in text


def test_a_page_without_marks_is_left_alone(tmp_path) -> None:
    empty = tmp_path / "page.md"
    empty.write_text("nothing here\n")
    with pytest.raises(SystemExit) as ended:
        page.main([results(tmp_path / "one.json", CPU, step=found(1, True)), "--page", str(empty)])
    assert ended.value.code == 2
    assert empty.read_text() == "nothing here\n"


def test_the_shipped_page_has_the_marks() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert 0 < text.index(page.BEGIN) < text.index(page.END)
