"""docs/lessons.md: none of the seventeen is missing, and every test it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "lessons.md").read_text(encoding="utf-8")
ROWS = {int(row[1]): row[0] for row in re.finditer(r"^\| (\d+) \|.*$", PAGE, re.MULTILINE)}


def test_the_page_has_all_seventeen() -> None:
    assert list(ROWS) == list(range(1, 18))


@pytest.mark.parametrize("number", range(1, 18))
def test_a_lesson_has_a_test_by_its_number_in_the_file_that_the_page_names(number: int) -> None:
    (name,) = re.findall(r"`(test_\w+\.py)` \|", ROWS[number])
    assert f"def test_lesson_{number:02d}_" in (ROOT / "tests" / "lessons" / name).read_text(encoding="utf-8")


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)
    assert len(named) > 17
    for path, function in named:
        assert f"def {function}" in (ROOT / path).read_text(encoding="utf-8"), (path, function)


def test_every_lesson_is_checked_with_its_mistake_put_back() -> None:
    found = 0
    for path in sorted((ROOT / "tests" / "lessons").glob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        for body in re.split(r"\n(?=def test_)", text)[1:]:
            if body.startswith("def test_lesson_"):
                assert "with holds()" in body, body.splitlines()[0]
                found += 1
    assert found >= 17
