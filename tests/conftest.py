"""Fixtures every room may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

_BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real chains; skips where there is none."""
    folder = Path(os.environ.get("MINIFOLD_TEST_DATA", _BESIDE_THE_REPOSITORY))
    if not (folder / "chain_set.jsonl.gz").is_file():
        pytest.skip("no real chains: set MINIFOLD_TEST_DATA to the folder that holds chain_set.jsonl.gz")
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
