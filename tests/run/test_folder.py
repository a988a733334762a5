"""Where a run lies, and what makes a folder one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from minifold_pl.run.folder import RunFolder, fresh_folder


def test_a_fresh_folder_never_exists_before(tmp_path: Path) -> None:
    made = [fresh_folder(tmp_path / "runs" / "x") for _ in range(3)]
    assert [p.name for p in made] == ["x", "x-2", "x-3"]
    assert all(p.is_dir() for p in made)


def test_a_folder_exists_as_a_run_once_it_has_a_config_or_checkpoints(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert not folder.exists()
    folder.config.write_text("{}")
    assert folder.exists()


def test_run_never_imports_torch() -> None:
    code = "import sys, minifold_pl.run.lease, minifold_pl.run.begin, minifold_pl.run.events, minifold_pl.run.folder;"
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True)


def test_everything_of_a_run_lies_in_its_folder_under_different_names(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    places = [getattr(folder, name) for name, value in vars(RunFolder).items() if isinstance(value, property)]
    assert len(places) == len(set(places)) == 13
    assert all(tmp_path in place.parents for place in places)
