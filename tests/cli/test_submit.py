"""``minifold-pl submit``: what it refuses before anything is submitted, and the script that it shows."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from minifold_pl.cli import submit as room
from minifold_pl.cli.main import main


@pytest.fixture
def dry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Submits without submitting; the exit code and what it said. The settings were judged elsewhere."""
    monkeypatch.setattr(room, "settle", lambda wish: " ".join(wish.arguments))

    def _dry(*words: str, folder: Path | None = None) -> tuple[int, str]:
        place = tmp_path / "run" if folder is None else folder
        code = main(["submit", "--config", "quickstart.yaml", "--run.dir", str(place), *words, "--dry-run"])
        said = capsys.readouterr()
        return code, said.out + said.err

    return _dry


@pytest.mark.parametrize("name", ["with%j", "back\\slash", "line\nbreak"])
def test_a_folder_whose_name_slurm_would_read_as_something_else_is_refused(
    dry, tmp_path: Path, name: str
) -> None:
    code, said = dry(folder=tmp_path / name)
    assert code == 2 and "choose another name" in said
    assert dry("--cluster", "local", folder=tmp_path / name)[0] == 0
    assert dry(folder=tmp_path / "a b's ü$HOME;[1]")[0] == 0


def test_an_option_of_sbatch_without_a_value_takes_no_other_option_for_it(dry) -> None:
    code, said = dry("--slurm.exclusive", "--slurm.reservation", "course", "--slurm.hold")
    assert code == 0
    assert {"#SBATCH --exclusive", "#SBATCH --reservation=course", "#SBATCH --hold"} <= set(said.splitlines())


@pytest.mark.parametrize(
    "words",
    [
        ("--lead", "nan"), ("--lead", "-5"), ("--lead", "0"), ("--lead", "70000"), ("--backoff", "nan"),
        ("--max-gpu-hours", "-1"), ("--max-gpu-hours", "nan"), ("--max-restarts", "-1"), ("--parallel", "0"),
    ],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused_by_name(dry, words: tuple[str, str]) -> None:
    code, said = dry(*words)
    assert code == 2 and words[0].removeprefix("--").replace("-", "_") in said.replace("-", "_")


def test_the_command_of_a_local_run_can_be_pasted(dry, tmp_path: Path) -> None:
    code, said = dry("--cluster", "local", folder=tmp_path / "a b's")
    assert code == 0 and str(tmp_path / "a b's" / "jobs" / "config.yaml") in shlex.split(said)
