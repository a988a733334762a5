"""The state of a run."""

from __future__ import annotations

from pathlib import Path

from minifold_pl.run.marker import Marker, RunState, read_marker, write_marker


def test_a_marker_comes_back_and_a_broken_one_is_none(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    assert read_marker(path) is None
    marker = Marker(state=RunState.DONE, reason="finished", epoch=2, step=9)
    write_marker(path, marker)
    assert read_marker(path) == marker
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]
    path.write_text('{"state": "nonsense"}')
    assert read_marker(path) is None
    path.write_text("{")
    assert read_marker(path) is None
