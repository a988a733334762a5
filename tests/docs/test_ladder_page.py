"""The ladder's section of docs/results.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.ladder_page import BEGIN, END, PAGE, main, section

INTERVAL = {"mean": 0.61234, "low": 0.6, "high": 0.625, "n": 9}
RUNG = {
    "rung": 5, "title": "generalises", "met": False, "seconds": 1200.0, "config": "x.yaml", "set": ["a=1"],
    "threads": 2, "cores": 4, "load": 2.25, "torch": "2.13", "seed": 0, "scale": 0.5, "note": "",
    "training": {"steps": 4000, "distinct_chains": 2016, "seconds": 1080.0},
    "goals": [{"name": "mean TM", "value": 0.59, "target": 0.6, "at_least": True, "met": False}],
    "rows": {"model": {"tm_score": INTERVAL, "steps": 12}, "other": {"tm_score": {**INTERVAL, "mean": 0.2}}},
}  # fmt: skip


def test_what_stands_between_the_marks_is_replaced_and_says_what_was_missed(tmp_path: Path) -> None:
    page, result = tmp_path / "page.md", tmp_path / "ladder.json"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter")
    result.write_text(json.dumps({"5": RUNG}))
    assert main([str(result), "--page", str(page)]) == 0
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}") and text.endswith(f"{END}\nafter") and "old" not in text
    assert "**Rung 5, generalises**: **failed**, 20.0 min." in text
    assert "`--set a=1`" in text and "0.5 of the training time that counts" in text
    assert "| mean TM | 0.59 | ≥ 0.6 | **missed** |" in text
    assert "| model | 0.612 [0.600–0.625] | 12 |" in text and "| other | 0.200 [0.600–0.625] |  |" in text


@pytest.mark.parametrize(
    "content",
    ["no JSON", "[]", "[1]", '{"5": {"rung": 5}}', '{"5": []}', '{"5": {"rung": 5, "goals": null}}'],
)
def test_what_is_no_result_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "x.json")])
    assert ended.value.code == 2


def test_a_page_that_is_not_there_is_told(tmp_path: Path, capsys) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"5": RUNG}))
    with pytest.raises(SystemExit):
        main([str(tmp_path / "x.json"), "--page", str(tmp_path / "none.md")])
    assert "none.md" in capsys.readouterr().err


def test_what_a_choice_is_worth_has_a_sign_and_counts_are_whole() -> None:
    rows = {
        "Muon": {
            "seen_tm": INTERVAL,
            "seen_worth": 0.1,
            "unseen_worth": -0.02,
            "steps": 1010,
            "parameters": None,
        }
    }
    text = section({"7": {**RUNG, "rung": 7, "goals": [], "training": None, "rows": rows}})
    assert "| Muon | 0.612 [0.600–0.625] | +0.100 | -0.020 | 1,010 |  |" in text
    assert "figures" in text


def test_the_page_has_both_marks() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.index(BEGIN) < text.index(END)
