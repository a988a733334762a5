from __future__ import annotations

from pathlib import Path

import pytest

from minifold_pl.launch.resources import (
    ProfileError,
    Resources,
    find_profile,
    profile_folder,
    read_profile,
    seconds,
)


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("10", 600),
        ("10:30", 630),
        ("1:00:00", 3600),
        ("2-0", 172800),
        ("1-02:30", 95400),
        ("1-00:00:01", 86401),
    ],
)
def test_time_limits_read_as_sbatch_reads_them(time: str, expected: int) -> None:
    assert seconds(time) == expected


@pytest.mark.parametrize("time", ["", "soon", "0", "1:2:3:4", "-5"])
def test_what_is_no_time_limit_is_refused(time: str) -> None:
    with pytest.raises(ProfileError, match="time"):
        seconds(time)


@pytest.mark.parametrize("path", sorted(profile_folder().glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_profiles_are_resources_and_are_found_by_name(path: Path) -> None:
    assert read_profile(path).processes >= 1
    assert find_profile(path.stem) == path


@pytest.mark.parametrize(
    ("text", "told"),
    [("gpu: 1", "did you mean gpus"), ("nodes: 0", "at least 1"), ("time: 1.5", "time must be"),
     ("nodes: two", "must be int"), ("- a", "mapping"), ("{", "cannot be read"), ("gpus: 3\ntasks: 2", "divide")],
)  # fmt: skip
def test_a_profile_that_makes_no_job_is_refused_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=told) as error:
        read_profile(path)
    assert str(path) in str(error.value)


def test_a_time_in_a_profile_needs_no_quotes(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for text, expected in (("1:30:00", 5400), ("90", 5400), ("1-00:00:00", 86400)):
        path.write_text(f"time: {text}\n")
        assert seconds(read_profile(path).time) == expected


def test_flags_lie_over_a_profile_and_other_options_add_up(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("gpus: 2\ntasks: 2\nextra: {reservation: course, hold: true}\n")
    now = read_profile(path).changed({"gpus": 4, "tasks": 4, "extra": {"nice": "5"}})
    assert (now.gpus, now.tasks, now.all_gpus) == (4, 4, 4)
    assert now.extra == {"reservation": "course", "hold": True, "nice": "5"}
    assert Resources().changed({}) == Resources()
