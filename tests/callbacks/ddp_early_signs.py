"""Two processes that train together a model that cannot learn; run by ``test_early_signs.py``."""

from __future__ import annotations

import sys
from pathlib import Path

import lightning.pytorch as pl
import torch

from minifold_pl.callbacks.early_signs import EarlySigns
from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.data.datamodule import ProteinDataModule
from minifold_pl.run.halt import RunHalted


def main(folder: Path, store: Path) -> None:
    torch.manual_seed(0)
    settings = [
        "--model.init_args.optimizer.lr=1e-12",
        "--model.init_args.noise_draws=1",
        "--model.init_args.trunk_first=0",
    ]
    module = instantiate_model("v15_small.yaml", settings)
    data = ProteinDataModule(str(store), batch_size=2, limit_train=8, limit_validation=2)
    signs = EarlySigns(action="stop", first=1, every_n_steps=1, chains=4)
    # The warm-up's rate is a hundredth of the peak.
    signs._interval = lambda taken: -1 if taken == 0 else round(100 * taken)  # type: ignore[method-assign]
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp_find_unused_parameters_true", max_epochs=2, logger=False,
        callbacks=[signs], enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, use_distributed_sampler=False, limit_val_batches=0, num_sanity_val_steps=0,
    )  # fmt: skip
    try:
        trainer.fit(module, datamodule=data)
        print(f"ended rank {trainer.global_rank}: done", flush=True)
    except RunHalted as halt:
        print(f"ended rank {trainer.global_rank}: halted {halt.reason[:60]}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
