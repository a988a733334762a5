"""Damaged records in a training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from minifold_pl.callbacks.record_quarantine import RecordQuarantine
from minifold_pl.data.datamodule import ProteinDataModule
from minifold_pl.data.store import ChainStore
from minifold_pl.run.events import read_events
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.halt import RunHalted
from minifold_pl.types import ProteinBatch


class Reader(pl.LightningModule):
    """Notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[str, ...]] = []

    def training_step(self, batch: ProteinBatch, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch.names)
        return self.weight.sum()

    def validation_step(self, batch: ProteinBatch, batch_idx: int) -> None:
        assert batch.coords.isfinite().all()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


@pytest.fixture
def damaged(store: Path, tmp_path: Path) -> Any:
    """Damages training chains of a copy of the store; returns its path and their names."""

    def damage(*places: int, split: str = "train") -> tuple[Path, set[str]]:
        path = Path(shutil.copytree(store, tmp_path / f"store-{len(list(tmp_path.iterdir()))}"))
        opened, names = ChainStore.open(path), set()
        for place in places:
            chain = int(opened.indices(split)[place])
            wanted = opened.raw(chain).tobytes()
            (file,) = [f for f in path.iterdir() if wanted in f.read_bytes()]
            content = bytearray(file.read_bytes())
            content[content.index(wanted) + 40] ^= 0x10
            file.write_bytes(bytes(content))
            names.add(opened.name(chain))
        return path, names

    return damage


def _fit(make_trainer: Any, path: Path, callback: RecordQuarantine, workers: int = 0) -> Reader:
    reader = Reader()
    data = ProteinDataModule(str(path), batch_size=4, num_workers=workers)
    make_trainer(callback, max_epochs=2, use_distributed_sampler=False).fit(reader, datamodule=data)
    return reader


def _events(tmp_path: Path) -> list[dict[str, Any]]:
    return [e for e in read_events(RunFolder(tmp_path).events) if e["event"] == "record_quarantined"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_record_is_named_once_and_training_goes_on(
    make_trainer, damaged, tmp_path, workers
) -> None:
    path, names = damaged(4)
    reader = _fit(make_trainer, path, RecordQuarantine(), workers)
    (event,) = _events(tmp_path)
    assert {event["name"]} == names
    assert event["split"] == "train"
    assert "changed" in event["reason"]
    assert not names & {n for batch in reader.seen for n in batch}


def test_the_order_of_all_other_chains_stays(make_trainer, store, damaged) -> None:
    path, names = damaged(4)
    whole = _fit(make_trainer, store, RecordQuarantine()).seen
    others = _fit(make_trainer, path, RecordQuarantine()).seen
    assert len(whole) == len(others)
    for a, b in zip(whole, others, strict=True):
        assert all(x == y or x in names for x, y in zip(a, b, strict=True))


def test_a_damaged_validation_record_is_named_too(make_trainer, damaged, tmp_path) -> None:
    path, names = damaged(1, split="validation")
    _fit(make_trainer, path, RecordQuarantine())
    (event,) = _events(tmp_path)
    assert ({event["name"]}, event["split"]) == (names, "validation")


def test_more_than_the_budget_halt_the_run_and_are_named(make_trainer, damaged, tmp_path) -> None:
    path, names = damaged(1, 4, 7)
    with pytest.raises(RunHalted, match="budget allows 2") as halt:
        _fit(make_trainer, path, RecordQuarantine(budget=0.06))
    assert all(name in halt.value.reason for name in names)
    assert {e["name"] for e in _events(tmp_path)} == names


def test_an_impossible_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="budget"):
        RecordQuarantine(budget=2)
