from __future__ import annotations

from pathlib import Path

import pytest

from minifold_pl.run.folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """An empty run folder."""
    made = RunFolder(tmp_path / "run")
    made.create()
    return made
