"""Write the structures of ``predict`` and of the evaluations into the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from torch import Tensor

from minifold_pl.checkpoint.atomic import atomic_write_text
from minifold_pl.data.tokenizer import decode
from minifold_pl.export.names import safe_file_name
from minifold_pl.export.structure import PredictedChain, pdb_text
from minifold_pl.types import Denoised, ProteinBatch


class StructureFiles(pl.Callback):
    """After ``predict``: one Cα-only PDB file for each chain, in ``samples/predict`` of the run folder."""

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with no name taken."""
        self._taken: set[str] = set()

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the batch; stage 1 predicts no structures and writes none."""
        if isinstance(outputs, Denoised) and isinstance(batch, ProteinBatch):
            folder = Path(trainer.default_root_dir) / "samples" / "predict"
            write_structures(folder, batch, outputs.x0, self._taken)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say where they are."""
        if self._taken and trainer.is_global_zero:
            folder = Path(trainer.default_root_dir) / "samples" / "predict"
            print(f"{len(self._taken)} structures in {folder}", flush=True)


def write_structures(
    folder: Path,
    batch: ProteinBatch,
    ca: Tensor,
    taken: set[str],
    remarks: Sequence[str] = (),
) -> list[Path]:
    """Cα-only PDB files of a sampled batch, confidence 0; returns their paths.

    Args:
        folder: Made where it is missing.
        batch: Names and sequences.
        ca: (b l 3) Cα positions in Å.
        taken: File names in use; added to.
        remarks: Lines on how they were made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    positions = ca.detach().float().cpu().numpy()
    for row, name in enumerate(batch.names):
        length = int(batch.lengths[row])
        chain = PredictedChain(
            name=name,
            sequence=decode(batch.tokens[row].cpu()),
            coords=positions[row, :length, None],
            confidence=np.zeros(length, dtype=np.float32),
            title=f"predicted Ca trace of {name}",
            remarks=remarks,
        )
        path = folder / f"{safe_file_name(name, taken)}.pdb"
        atomic_write_text(path, pdb_text(chain))
        paths.append(path)
    return paths
