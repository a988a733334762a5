"""Small chains with known geometry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minifold_pl.constants import AMINO_ACIDS
from minifold_pl.data.records import ChainRecord
from minifold_pl.data.store import ChainStore, write_store


def backbone(length: int) -> np.ndarray:
    """A straight run of residues 3.8 Å apart whose C and next N are 1.33 Å apart; [l, 4, 3]."""
    offsets = np.array([[-1.2, 0, 0], [0, 0, 0], [1.27, 0, 0], [1.27, 1.23, 0]])
    return (np.arange(length)[:, None, None] * [3.8, 0, 0] + offsets).astype(np.float32)


@pytest.fixture(scope="session")
def make_record() -> Callable[..., ChainRecord]:
    """A sound chain: ``make_record("a", 20, split="train", …)``."""

    def make(name: str, length: int = 12, **fields: Any) -> ChainRecord:
        letters = np.random.default_rng(len(name) + length).integers(20, size=length)
        sequence = "".join(AMINO_ACIDS[i] for i in letters)
        defaults: dict[str, Any] = {"sequence": sequence, "coords": backbone(length), "split": "train"}
        return ChainRecord(name=name, **{**defaults, **fields})

    return make


@pytest.fixture(scope="session")
def make_line() -> Callable[..., str]:
    """A line of a chain set; fields replace or, when None, remove the usual ones."""

    def make(name: str = "1abc.A", length: int = 12, **fields: Any) -> str:
        coords = backbone(length).astype(float).round(3)
        record = {
            "name": name,
            "seq": "ACDEFGHIKLMNPQRSTVWY"[:length] if length <= 20 else "A" * length,
            "coords": {atom: coords[:, i].tolist() for i, atom in enumerate(("N", "CA", "C", "O"))},
            "num_chains": 1,
            "CATH": ["1.10.530"],
        }
        return json.dumps({k: v for k, v in {**record, **fields}.items() if v is not None})

    return make


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., ChainStore]:
    """A store of the given records."""

    def make(*records: ChainRecord, name: str = "store") -> ChainStore:
        write_store(tmp_path / name, records)
        return ChainStore.open(tmp_path / name)

    return make


@pytest.fixture
def old_store(tmp_path: Path) -> Path:
    """A store of the earlier format, byte for byte as the program then wrote it: one chain of four residues."""
    folder = tmp_path / "old"
    folder.mkdir()
    index = {
        "names": ["a"], "lengths": [4], "splits": ["test"], "cath": [["1.10.8"]], "clusters": ["c"],
        "representative": [True], "breaks": [[1]],
    }  # fmt: skip
    files = {
        "index.json": json.dumps(index, separators=(",", ":")).encode(),
        "coords.f32": np.arange(48, dtype="<f4").tobytes(),
        "tokens.u8": bytes([4, 5, 6, 24]),
        "bonded.u8": bytes([1, 0, 1, 0]),
        "report.json": b"{}",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    sums = {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in files.items()}
    header = {
        "format": "minifold-pl chain store",
        "version": 1,
        "chains": 1,
        "residues": 4,
        "provenance": {"x": 1},
    }
    (folder / "store.json").write_text(json.dumps({**header, "files": sums}))
    return folder
