"""docs/variants.md says what the shipped configs are."""

from __future__ import annotations

import re
import runpy
from itertools import pairwise
from pathlib import Path

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).with_name("renew_variants.py")))
TEXT = SCRIPT["PAGE"].read_text(encoding="utf-8")
VERSIONS = SCRIPT["versions"]()


def test_every_version_has_a_section_in_the_order_of_the_lineage() -> None:
    sections = re.findall(r"^## (v\d+[a-z]?)\b", TEXT, re.MULTILINE)
    assert sections == VERSIONS, "a new version needs its section in docs/variants.md"


def test_every_version_is_compared_with_one_before_it() -> None:
    compared = re.findall(r"<!-- settings (\S+) (\S+) -->", TEXT)
    assert [after for _, after in compared] == VERSIONS[1:]
    assert all(VERSIONS.index(before) < VERSIONS.index(after) for before, after in compared)
    assert set(pairwise(VERSIONS[:9])) <= set(compared)


def test_the_numbers_of_the_page_are_those_of_the_configs() -> None:
    """Renew them with ``python tests/docs/renew_variants.py`` and read the difference."""
    assert SCRIPT["rendered"](TEXT) == TEXT


def test_a_number_that_is_wrong_is_noticed() -> None:
    wrong = re.sub(r"\| v10 \|.*", "| v10 | 1 M |", TEXT, count=1)
    assert wrong != TEXT
    assert SCRIPT["rendered"](wrong) == TEXT


@pytest.mark.parametrize("words", ["35.01 M", "31.09 M", "14.54 M", "8.39 M"])
def test_the_page_shows_the_counts_that_were_published(words: str) -> None:
    """v13, v12 and v12b, v10, v11 and v11b."""
    assert words in TEXT
