"""Write the structures of ``predict`` and of the evaluations into the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np

from minifold_pl.checkpoint.atomic import atomic_write_text
from minifold_pl.data.tokenizer import decode
from minifold_pl.export.names import safe_file_name
from minifold_pl.export.plddt import b_factor_remark, plddt, plddt_told
from minifold_pl.export.structure import PredictedChain, closed_remark, pdb_text
from minifold_pl.modules.structures import SampledChain, final_structures
from minifold_pl.types import Denoised, ProteinBatch


class StructureFiles(pl.Callback):
    """After ``predict``: one PDB file for each chain, in ``samples/predict`` of the run folder."""

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
            write_structures(folder, batch, final_structures(outputs, batch), self._taken)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say where they are."""
        if self._taken and trainer.is_global_zero:
            folder = Path(trainer.default_root_dir) / "samples" / "predict"
            print(f"{len(self._taken)} structures in {folder}", flush=True)


def write_structures(
    folder: Path,
    batch: ProteinBatch,
    chains: Sequence[SampledChain],
    taken: set[str],
    remarks: Sequence[str] = (),
) -> list[Path]:
    """PDB files of a sampled batch, Cα or N, Cα, C and O, with the model's confidence or 0; returns their paths.

    Args:
        folder: Made where it is missing.
        batch: Names and sequences.
        chains: One for each of the batch.
        taken: File names in use; added to.
        remarks: Lines on how they were made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, tokens, sampled in zip(batch.names, batch.tokens.cpu(), chains, strict=True):
        moved, zeros = sampled.ca_moved, np.zeros(len(sampled.coords), dtype=np.float32)
        chain = PredictedChain(
            name=name,
            sequence=decode(tokens),
            coords=sampled.coords.numpy(),
            confidence=zeros if sampled.confidence is None else plddt(sampled.confidence.numpy()),
            title=f"predicted {'Ca trace' if moved is None else 'backbone'} of {name}",
            remarks=[
                *remarks,
                *([] if moved is None else [closed_remark(moved)]),
                *([] if sampled.confidence is None else [b_factor_remark(plddt_told(None))]),
            ],
        )
        path = folder / f"{safe_file_name(name, taken)}.pdb"
        atomic_write_text(path, pdb_text(chain))
        paths.append(path)
    return paths
