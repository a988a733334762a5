"""Which code a run is trained by."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

import minifold_pl
from minifold_pl.run.code_version import code_version


def _git(folder: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(folder), *settings, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package in a checkout."""
    folder = tmp_path / "checkout" / "src" / "pack"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    _git(folder, "init", "-q", str(tmp_path / "checkout"))
    _git(folder, "add", ".")
    _git(folder, "commit", "-q", "-m", "first")
    return folder


def test_a_clean_checkout_is_named_by_its_commit(package: Path) -> None:
    code = code_version(package)
    assert code.commit == _git(package, "rev-parse", "HEAD")
    assert code.changed == ""
    assert code.package == minifold_pl.__version__
    assert torch.__version__.startswith(code.libraries["torch"].split("+")[0])
    assert code.libraries["lightning"]
    assert code.commit[:10] in str(code)


def test_changed_and_new_files_have_a_digest_of_their_own(package: Path) -> None:
    (package / "__init__.py").write_text("x = 1\n")
    first = code_version(package).changed
    (package / "__init__.py").write_text("x = 2\n")
    second = code_version(package).changed
    (package / "new.py").write_text("y = 1\n")
    third = code_version(package).changed
    (package.parent / "elsewhere.txt").write_text("no part of the package\n")
    assert code_version(package).changed == third
    assert len({first, second, third, ""}) == 4


def test_a_package_that_is_only_installed_below_a_checkout_has_no_commit(package: Path) -> None:
    installed = package.parents[1] / "venv" / "pack"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert code_version(installed).commit == ""


def test_without_git_there_is_no_commit_and_no_error(package: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    code = code_version(package)
    assert (code.commit, code.changed) == ("", "")
    assert str(code).startswith("minifold-pl ")
