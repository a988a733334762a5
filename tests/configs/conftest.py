"""Every version of the lineage at a width that a test can train."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

REDUCED = runpy.run_path(str(Path(__file__).with_name("reduced.py")))["reduced"]


@pytest.fixture
def reduced_config(tmp_path: Path) -> Callable[[str], Path]:
    """Write a config that is a shipped version at reduced width; returns its path."""

    def write(name: str) -> Path:
        path = tmp_path / f"{name}_reduced.yaml"
        path.write_text(yaml.safe_dump(REDUCED(name)))
        return path

    return write
