from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minifold_pl.checkpoint.io import save
from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.constants import AMINO_ACIDS, CA_ATOM
from minifold_pl.data.records import ChainRecord
from minifold_pl.data.store import write_store


def _checkpoint_of(module: Any, **extra: Any) -> dict[str, Any]:
    checkpoint = {"state_dict": module.state_dict(), "global_step": 7, "epoch": 1, "callbacks": {}, **extra}
    module.on_save_checkpoint(checkpoint)
    return checkpoint


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each stage, small and with fresh weights; the second holds averaged and raw ones."""
    folder = tmp_path_factory.mktemp("untrained")
    torch.manual_seed(0)
    contact = instantiate_model("contact_small.yaml")
    diffusion = instantiate_model("v13_small.yaml", ["--model.init_args.sampler.steps=2"])
    raw = {name: torch.zeros_like(value) for name, value in diffusion.state_dict().items()}
    save(_checkpoint_of(contact), folder / "contact.ckpt")
    save(_checkpoint_of(diffusion, current_model_state=raw, averaging_state={}), folder / "diffusion.ckpt")
    return {"contact": folder / "contact.ckpt", "diffusion": folder / "diffusion.ckpt"}


def _helix(length: int) -> np.ndarray:
    place = np.arange(length)
    angle = np.radians(100.0) * place
    ca = np.stack([2.3 * np.cos(angle), 2.3 * np.sin(angle), 1.5 * place], -1)
    coords = np.full((length, 4, 3), np.nan, dtype=np.float32)
    coords[:, CA_ATOM] = ca
    return coords


@pytest.fixture(scope="session")
def helix_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of straight Cα helices: class 1, one architecture, lengths 20 to 60; one with a missing residue."""
    draw = np.random.default_rng(0)
    records = []
    for k in range(16):
        length = 20 + (k * 7) % 41
        coords = _helix(length)
        if k == 13:
            coords[5] = np.nan
        records.append(
            ChainRecord(
                name=f"h{k}.A",
                sequence="".join(draw.choice(list(AMINO_ACIDS), length)),
                coords=coords,
                cath=("1.10.8",),
                split="train" if k < 10 else "test",
                cluster=str(k),
            )
        )
    path = tmp_path_factory.mktemp("helices") / "store"
    write_store(path, records)
    return path


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """The error lines of the last command; no traceback, two lines at most."""

    def read() -> str:
        err = capsys.readouterr().err
        assert "Traceback" not in err
        message = err[err.index("error: ") :]
        assert len(message.strip().splitlines()) <= 2
        return message

    return read
