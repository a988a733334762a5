"""One row a step, whatever happens to the process and the disk."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from minifold_pl.loggers.csv_table import CsvReader, CsvTable


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_nothing_is_touched_before_the_first_flush(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    table = CsvTable(path)
    table.add(0, {"a": "1"})
    table.go_back(3)
    table.flush(durable=True)
    assert not path.exists()


def test_columns_stand_in_one_order_whenever_they_came(tmp_path: Path) -> None:
    table = CsvTable(tmp_path / "t.csv")
    for step, row in enumerate([{"loss/b": "1"}, {"epoch": "0"}, {"loss/a": "2", "z, y": "3"}]):
        table.add(step, row)
        table.flush()
    assert _lines(table.path) == [
        'step,epoch,loss/a,loss/b,"z, y"', "0,,,1,", "1,0,,,", "2,,2,,3",
    ]  # fmt: skip


def test_a_row_that_grows_is_written_over_in_place_and_an_earlier_one_by_a_new_file(tmp_path: Path) -> None:
    table = CsvTable(tmp_path / "t.csv")
    table.add(0, {"a": "1", "b": "1"})
    table.add(5, {"a": "55555"})
    table.flush()
    same_file = table.path.stat().st_ino
    table.add(5, {"a": "5", "b": "6"})
    table.add(6, {"a": "7"})
    table.flush()
    assert _lines(table.path) == ["step,a,b", "0,1,1", "5,5,6", "6,7,"]
    assert table.path.stat().st_ino == same_file
    table.add(2, {"b": "2"})
    table.flush()
    assert _lines(table.path) == ["step,a,b", "0,1,1", "2,,2", "5,5,6", "6,7,"]
    assert table.path.stat().st_ino != same_file


def test_nothing_is_left_of_a_last_row_that_becomes_shorter(tmp_path: Path) -> None:
    table = CsvTable(tmp_path / "t.csv")
    for value in ("123456", "1"):
        table.add(0, {"a": value})
        table.flush()
    assert table.path.read_text() == "step,a\n0,1\n"


@pytest.mark.parametrize("kept", range(1, 28))
def test_a_file_cut_at_any_byte_is_repaired(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "t.csv"
    whole = "step,a,b\n0,1,2\n1,3,4\n2,5,6\n"
    path.write_text(whole[:kept])
    table = CsvTable(path)
    for step in range(3):
        table.add(step, {"a": str(2 * step + 1), "b": str(2 * step + 2)})
    table.flush()
    assert path.read_text() == whole


def test_rows_of_a_left_future_are_dropped_with_their_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    first = CsvTable(path)
    first.add(0, {"a": "1"})
    first.add(1, {"a": "2", "only_here": "1"})
    first.flush()
    second = CsvTable(path)
    second.go_back(1)
    second.flush()
    assert path.read_text() == "step,a\n0,1\n"


def test_going_back_without_a_state_keeps_what_a_step_before_has_got_since(tmp_path: Path) -> None:
    table = CsvTable(tmp_path / "t.csv")
    table.add(3, {"a": "1", "late": "1"})
    table.flush()
    table.go_back(4)
    table.flush()
    assert _lines(table.path) == ["step,a,late", "3,1,1"]


def test_going_back_with_a_state_is_exact(tmp_path: Path) -> None:
    table = CsvTable(tmp_path / "t.csv")
    table.add(2, {"a": "0"})
    table.add(3, {"a": "1"})
    table.flush()
    before, state = table.path.read_bytes(), table.state()
    table.add(3, {"late": "1"})
    table.add(4, {"a": "9"})
    table.flush()
    again = CsvTable(table.path)
    again.go_back(4, state)
    again.flush()
    assert table.path.read_bytes() == before


def test_a_file_that_is_as_it_should_be_is_not_written_again(tmp_path: Path) -> None:
    table = CsvTable(tmp_path / "t.csv")
    table.add(0, {"a": "1"})
    table.flush()
    before = table.path.stat()
    again = CsvTable(table.path)
    again.go_back(1)
    again.flush()
    after = table.path.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_what_another_program_did_to_the_file_is_seen(tmp_path: Path) -> None:
    table = CsvTable(tmp_path / "t.csv")
    table.add(0, {"a": "1"})
    table.add(1, {"a": "2"})
    table.flush()
    table.path.write_text("step,a\n0,1\n")
    table.add(2, {"a": "3"})
    table.flush()
    assert _lines(table.path) == ["step,a", "0,1", "2,3"]


def test_a_write_that_fails_half_way_loses_nothing(tmp_path: Path, monkeypatch) -> None:
    from minifold_pl.loggers import csv_table

    table = CsvTable(tmp_path / "t.csv")
    for step in range(3):
        table.add(step, {"a": str(step), "b": "1"})
    table.flush()
    real = csv_table._write_at

    def full(descriptor: int, data: bytes, place: int) -> int:
        real(descriptor, data[: len(data) // 2], place)
        raise OSError(28, "No space left on device")

    table.add(2, {"a": "22"})
    table.add(3, {"a": "33", "b": "1"})
    monkeypatch.setattr(csv_table, "_write_at", full)
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            table.flush()
    assert set(table.state()) >= {2, 3}
    monkeypatch.setattr(csv_table, "_write_at", real)
    table.add(4, {"a": "44"})
    table.flush()
    assert _lines(table.path) == ["step,a,b", "0,0,1", "1,1,1", "2,22,1", "3,33,1", "4,44,"]


def _values(step: int) -> list[dict[str, str]]:
    """What a training logs for a step, in the order in which it does, always the same."""
    draw = random.Random(step)
    calls = [{"lr": f"{draw.random():.4g}", "epoch": str(step // 4)}]
    if step % 4 == 3:
        calls.append({"val": f"{draw.random():.6g}", "epoch": str(step // 4)})
        calls.append({"wait": str(draw.randrange(9))})
    if step == 9:
        calls.append({"nan/skipped": "1"})
    return calls


@pytest.mark.parametrize("seed", range(40))
def test_a_run_killed_and_resumed_at_random_ends_with_the_bytes_of_the_undisturbed_one(
    tmp_path: Path, seed: int
) -> None:
    steps, draw = 16, random.Random(seed)
    whole = CsvTable(tmp_path / "whole.csv")
    for step in range(steps):
        for values in _values(step):
            whole.add(step, values)
    whole.flush()

    path = tmp_path / "killed.csv"
    saved: tuple[int, dict] = (0, {})
    for start in range(12):
        table = CsvTable(path)
        table.go_back(saved[0], saved[1])
        table.flush()
        left = 10**9 if start == 11 else draw.randrange(20)
        for step in range(saved[0], steps):
            for values in _values(step):
                table.add(step, values)
                if draw.random() < 0.4:
                    table.flush()
                left -= 1
            if left < 0:
                break
            if draw.random() < 0.3:
                table.flush(durable=True)
                saved = (step + 1, table.state())
        if left < 0 and path.exists() and draw.random() < 0.5:
            # the kill came in the middle of the last write: only what no checkpoint counts on can be cut
            rows = path.read_bytes().splitlines(keepends=True)
            if len(rows) > 1 and int(rows[-1].split(b",")[0]) >= min(saved[1], default=0):
                path.write_bytes(b"".join(rows)[: -draw.randrange(1, len(rows[-1]) + 1)])
    table.flush()
    assert path.read_bytes() == whole.path.read_bytes()


def test_a_long_table_is_not_held_in_memory(tmp_path: Path) -> None:
    table = CsvTable(tmp_path / "t.csv")
    for step in range(2000):
        table.add(step, {"a": str(step)})
        if step % 100 == 99:
            table.flush()
    assert list(table.state()) == [1999]
    assert len(_lines(table.path)) == 2001


def test_a_reader_gives_each_row_once_and_when_it_is_whole(tmp_path: Path) -> None:
    table = CsvTable(tmp_path / "t.csv")
    reader = CsvReader(table.path)
    assert reader.new() == {}
    table.add(0, {"a": "1"})
    table.flush()
    assert reader.new() == {}
    table.add(0, {"b": "2"})
    table.add(3, {"a": "3"})
    table.flush()
    assert reader.new() == {0: {"a": "1", "b": "2"}}
    assert reader.new() == {}
    table.add(4, {"a": "4"})
    table.add(5, {"a": "5", "a new column": "1"})
    table.flush()
    assert reader.new() == {3: {"a": "3"}, 4: {"a": "4"}}
    assert reader.new(all_of_it=True) == {5: {"a": "5", "a new column": "1"}}
    assert reader.new(all_of_it=True) == {}
    assert reader.last == 5


def test_a_reader_follows_a_table_that_goes_back(tmp_path: Path) -> None:
    table = CsvTable(tmp_path / "t.csv")
    for step in range(5):
        table.add(step, {"a": str(step)})
    table.flush()
    reader = CsvReader(table.path)
    assert list(reader.new()) == [0, 1, 2, 3]
    table.go_back(2)
    table.flush()
    assert reader.new() == {}
    assert reader.last == 1
    for step in range(2, 7):
        table.add(step, {"a": f"1{step}"})
    table.flush()
    assert reader.new() == {4: {"a": "14"}, 5: {"a": "15"}}


@pytest.mark.parametrize("seed", range(10))
def test_a_reader_sees_all_rows_whatever_the_writer_does(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    table, found = CsvTable(tmp_path / "t.csv"), {}
    reader = CsvReader(table.path)
    for step in range(60):
        table.add(step, {f"column {draw.randrange(12)}": str(step)})
        if draw.random() < 0.5:
            table.flush()
        if draw.random() < 0.3:
            found |= reader.new()
        if draw.random() < 0.05:
            table.flush()
            table = CsvTable(table.path)
            table.go_back(step + 1, table.state())
    table.flush()
    found |= reader.new(all_of_it=True)
    assert list(found) == list(range(60))
    assert all(list(row.values()) == [str(step)] for step, row in found.items())
