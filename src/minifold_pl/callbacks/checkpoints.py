"""Which checkpoints a run keeps: the latest to resume from, the best to use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint

from minifold_pl.callbacks.ddim_evaluator import awaited


class _InRunFolder(ModelCheckpoint):
    """Writes to ``checkpoints/`` of the run folder unless told otherwise."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the folder."""
        if self.dirpath is None:
            self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what is kept here, also where the folder was moved or is named in another way since.

        Lightning would forget which checkpoint is the best, and put a worse one in its place.
        """

        def here(path: str) -> str:
            return str(Path(self.dirpath or "") / Path(path).name) if path else path

        state = {**state_dict, "dirpath": self.dirpath}
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[name] = here(state_dict[name])
        state["best_k_models"] = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(state)


class ResumeCheckpoint(_InRunFolder):
    """Save the whole training state at the end of every n-th epoch; ``fit`` on the same folder goes on from it.

    Whether a metric improved plays no part: a plateau must not make the newest checkpoint old.

    .. code-block:: yaml

        checkpoints: {every_n_epochs: 1, keep: 2}

    Args:
        every_n_epochs: Epochs between saves.
        keep: How many of the latest stay; -1 keeps all.
    """

    def __init__(self, every_n_epochs: int = 1, keep: int = 2) -> None:
        super().__init__(
            filename="resume-{step:08d}",
            auto_insert_metric_name=False,
            monitor="step",
            mode="max",
            save_top_k=keep,
            every_n_epochs=every_n_epochs,
            save_on_train_epoch_end=True,
        )


class BestCheckpoint(_InRunFolder):
    """Keep the checkpoint with the best value of a logged metric as ``checkpoints/best.ckpt``.

    .. code-block:: yaml

        best: {monitor: val/total}

    Args:
        monitor: A logged validation value.
        mode: ``min`` or ``max``.
    """

    def __init__(self, monitor: str = "val/total", mode: str = "min") -> None:
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            save_top_k=1,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge this validation, unless the monitored score was not measured in it."""
        if not awaited(trainer, str(self.monitor)):
            super().on_validation_end(trainer, pl_module)
