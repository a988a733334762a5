from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifold_pl.export.names import LONGEST, safe_file_name

ODD = [
    "../../etc/passwd", "/etc/passwd", "..", ".", "", " ", "a/b", "a\\b", "C:\\x", "con", "NUL.pdb", "-rf", ".hidden",
    "x" * 300, "名前", "a\x00b", "a\nb", "~root", "$HOME", "a;b|c", "sp|P12345|NAME_HUMAN", "CON.a.b", "….…",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD, ids=repr)
def test_an_odd_name_becomes_a_file_in_the_folder(tmp_path: Path, name: str) -> None:
    safe = safe_file_name(name, set())
    (tmp_path / f"{safe}.pdb").write_text("x")
    assert os.listdir(tmp_path) == [f"{safe}.pdb"]


@given(st.text(max_size=400))
def test_a_name_never_becomes_a_path(name: str) -> None:
    safe = safe_file_name(name, set())
    assert 0 < len(safe) <= LONGEST
    assert safe.isascii()
    assert not set(safe) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    assert ".." not in safe
    assert safe[0] not in ".-_"
    assert safe[-1] not in "._-"
    assert PurePosixPath(safe).name == safe
    assert PureWindowsPath(safe).name == safe
    assert not PureWindowsPath(safe).is_reserved()


@given(st.lists(st.text(alphabet="aAbB./-_2 é", max_size=120) | st.text(max_size=5), max_size=30))
def test_names_stay_unique_where_case_is_folded(names: list[str]) -> None:
    taken: set[str] = set()
    safe = [safe_file_name(name, taken) for name in names]
    assert len({s.lower() for s in safe}) == len(names)
    assert taken == {s.lower() for s in safe}


def test_good_names_are_kept_and_duplicates_numbered() -> None:
    taken: set[str] = set()
    assert [safe_file_name(n, taken) for n in ("1abc.A", "1ABC.a", "1abc.A", "x-2", "x", "x")] == [
        "1abc.A", "1ABC.a-2", "1abc.A-3", "x-2", "x", "x-3",
    ]  # fmt: skip
