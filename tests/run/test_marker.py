"""The state of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from minifold_pl.run.events import append_event
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


@pytest.mark.parametrize(
    "content", [None, b"", b'{"state": "halt', b'{"state": "nonsense"}', b"\xff\x00", b"[]"]
)
def test_a_marker_that_is_lost_or_damaged_is_taken_from_the_events(
    tmp_path: Path, content: bytes | None
) -> None:
    path, events = tmp_path / "state.json", tmp_path / "events.jsonl"
    if content is not None:
        path.write_bytes(content)
    append_event(events, "settings")
    assert read_marker(path) is None
    for number, (event, state, reason) in enumerate(
        [
            ("started", RunState.RUNNING, ""),
            ("done", RunState.DONE, "finished"),
            ("resumed", RunState.RUNNING, ""),
            ("halted", RunState.HALTED, "NaN"),
        ],
        start=1,
    ):
        append_event(
            events, event, attempt=number, epoch=number, step=7, **({"reason": reason} if reason else {})
        )
        # What ends no run: a marker of a halted run would have stayed, too.
        for other in ("settings", "after_halt", "after_stop", "saved", "failed", "retry", "interrupted"):
            append_event(events, other, attempt=9, step=8, reason="another")
        assert read_marker(path) == Marker(state=state, reason=reason, epoch=number, step=7, attempt=number)
    with events.open("a") as stream:
        stream.write('{"event": "resu')
    assert read_marker(path) == Marker(state=RunState.HALTED, reason="NaN", epoch=4, step=7, attempt=4)
