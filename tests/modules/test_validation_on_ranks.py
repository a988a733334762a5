"""A validation by two processes is that of one: every chain counts once, in every mean."""

from __future__ import annotations

import os
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import torch.multiprocessing as mp
from tests.ports import free_port

from minifold_pl.data.datamodule import ProteinDataModule, write_synthetic
from minifold_pl.data.synthetic import SyntheticConfig

COUNTS = (9, 3)
"""Validation chains, in batches of 4: three batches for two ranks, and one, so that a rank has none of its own."""
STAGES = ("contact", "diffusion")


class _Seen(pl.Callback):
    """What callbacks see at the end of a validation: there the best checkpoint and the patience look."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.values = {name: float(value) for name, value in trainer.callback_metrics.items()}


def _measured(folder: Path, world: int) -> dict[str, dict[str, float]]:
    found = {}
    for stage in STAGES:
        for count in COUNTS:
            seen = _Seen()
            trainer = pl.Trainer(
                accelerator="cpu", devices=world, strategy="ddp" if world > 1 else "auto", logger=False,
                use_distributed_sampler=False, callbacks=[seen], enable_progress_bar=False,
                enable_model_summary=False, enable_checkpointing=False, default_root_dir=folder,
            )  # fmt: skip
            module = torch.load(folder / f"{stage}.pt", weights_only=False)
            data = ProteinDataModule(str(folder / "store"), batch_size=4, limit_validation=count)
            trainer.validate(module, data, verbose=False)
            found[f"{stage} {count}"] = seen.values
            trainer.test(module, data, verbose=False)
            found[f"{stage} {count} test"] = {name: float(v) for name, v in trainer.callback_metrics.items()}
    return found


def _one_rank(rank: int, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", NODE_RANK="0", LOCAL_RANK=str(rank),
        GLOO_SOCKET_IFNAME="lo",
    )  # fmt: skip
    torch.save(_measured(folder, 2), folder / f"rank{rank}.pt")


def test_two_processes_measure_what_one_measures(tmp_path, contact, diffusion) -> None:
    write_synthetic(tmp_path / "store", SyntheticConfig(n=90, folds=30, min_length=24, max_length=40))
    for stage, module in zip(STAGES, (contact, diffusion), strict=True):
        torch.save(module, tmp_path / f"{stage}.pt")
    port = free_port()
    mp.spawn(_one_rank, args=(tmp_path, port), nprocs=2)
    alone = _measured(tmp_path, 1)
    assert {"val/total", "val/score", "val_weighted/fape", "val_band/low/fape"} <= alone["diffusion 9"].keys()
    assert {"val/total", "val/contact_recall", "val/precision_medium_L5"} <= alone["contact 9"].keys()
    assert {"test/total", "test/contact_recall"} <= alone["contact 9 test"].keys()
    # Other chains, other values: else equality would say nothing.
    assert alone["contact 9"]["val/total"] != pytest.approx(alone["contact 3"]["val/total"], rel=1e-4)
    for rank in range(2):
        together = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for what, values in alone.items():
            assert together[what] == pytest.approx(values, rel=1e-5, abs=1e-6, nan_ok=True), what
