"""What saving costs at v13 width: how long training stands still, and how much longer it takes.

    python -m benchmarks.checkpoint_save [--saves 8] [--threads 2] [--out FOLDER] [--no-step] [--json]

The training state is that of v13: 35 M parameters, their average, AdamW's moments, about 560 MB. A stand-in step
(gradients from the weights themselves, AdamW, EMA) runs with no saves, with saves in the foreground and with saves in
the background, in turns; every way has the same steps. Shown are, for each way, the stall of a save as the training
thread sees it (median and worst, the very first save apart) and the time a save adds to training in all, contention
included. That is then set against the real training step of v13 (batch 4, 125 residues), once every 100 steps.

The figures depend on the disk: ``--out`` says where to write (default: a temporary folder).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import warnings
from pathlib import Path
from time import perf_counter
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from minifold_pl.callbacks.checkpoints import ResumeCheckpoint
from minifold_pl.callbacks.ema import EMA
from minifold_pl.checkpoint.io import AtomicCheckpointIO
from minifold_pl.cli.allocator import return_large_blocks
from minifold_pl.cli.lightning_cli import instantiate_model, quiet_libraries
from minifold_pl.modules.base import MinifoldModule

WAYS = ("none", "foreground", "background")
STEPS_A_SAVE = 12
"""In the stand-in training: enough for a background write to end before the next."""
INTERVAL = 100
"""Steps between saves that the overhead is told for."""


class StandIn(pl.LightningModule):
    """The weights of v13 and a step that costs little more than the optimizer's."""

    def __init__(self, model: MinifoldModule) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """Gradients for every weight."""
        norms = torch._foreach_norm(list(self.model.parameters()))
        return 1e-3 * torch.stack(norms).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """As v13's."""
        return torch.optim.AdamW(self.model.parameters(), lr=1e-5)


class Costs(pl.loggers.logger.DummyLogger):
    """Keeps what is logged about saves."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep it."""
        if "perf/save_seconds" in metrics:
            self.rows.append(dict(metrics))


class Clock(pl.Callback):
    """Times the training without start and end."""

    seconds = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start."""
        self._begun = perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """All but the last batch count: the end of training saves in any case."""
        if batch_idx == 1:
            self._begun = perf_counter()
        if batch_idx == trainer.num_training_batches - 1:
            self.seconds = perf_counter() - self._begun


def train(model: MinifoldModule, way: str, saves: int, out: Path) -> tuple[float, list[dict[str, float]]]:
    """Seconds of the stand-in training, and the costs of each of its saves."""
    # The last save has as long as the others before the end of training waits for it.
    steps = saves * STEPS_A_SAVE + STEPS_A_SAVE - 1
    clock, costs = Clock(), Costs()
    callbacks: list[pl.Callback] = [EMA(), clock]
    if way != "none":
        callbacks.append(
            ResumeCheckpoint(every_n_steps=STEPS_A_SAVE, every_n_epochs=0, background=way == "background")
        )
    with tempfile.TemporaryDirectory(dir=out) as folder:
        trainer = pl.Trainer(
            default_root_dir=folder, max_epochs=1, accelerator="cpu", logger=costs, callbacks=callbacks,
            plugins=[AtomicCheckpointIO()], enable_checkpointing=way != "none", enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(StandIn(model), DataLoader(torch.zeros(steps, 1)))
    # The last is that of the end of training, always in the foreground.
    return clock.seconds, costs.rows[:-1]


def step_seconds(model: MinifoldModule) -> float:
    """A real training step of v13: forward, backward, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    batch = model.example_batch(4, 125)
    times = []
    for _ in range(3):
        begun = perf_counter()
        total, _ = model.losses(batch)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(perf_counter() - begun)
    return statistics.median(times[1:])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--saves", type=int, default=8, help="in each turn (default 8)")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder on the file system to measure")
    parser.add_argument("--no-step", action="store_true", help="leave out the real training step")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    quiet_libraries()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    model = instantiate_model("v13.yaml")
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    first: dict[str, float] = {}
    for _ in range(args.turns):
        for way in WAYS:
            took, costs = train(model, way, args.saves, args.out)
            seconds[way].append(took)
            if costs:
                first.setdefault(way, costs[0]["perf/save_stall_seconds"])
                rows[way] += costs[1:]
    step = None if args.no_step else step_seconds(model)
    result: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": int(rows["foreground"][0]["perf/checkpoint_bytes"]),
        "threads": args.threads,
        "step_seconds": step,
    }
    for way in WAYS[1:]:
        stalls = [row["perf/save_stall_seconds"] for row in rows[way]]
        added = (statistics.median(seconds[way]) - statistics.median(seconds["none"])) / args.saves
        result[way] = {
            "stall_median": statistics.median(stalls),
            "stall_worst": max(stalls),
            "stall_of_the_first": first[way],
            "written_after": statistics.median(row["perf/save_seconds"] for row in rows[way]),
            "added_seconds_a_save": added,
            "overhead_every_100_steps": None if step is None else added / (INTERVAL * step),
        }
    if args.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{result['parameters']:,} parameters, {result['bytes'] / 1e6:,.0f} MB, {args.threads} threads")
    for way in WAYS[1:]:
        r = result[way]
        print(
            f"{way:11s} stall {r['stall_median']:.2f} s (worst {r['stall_worst']:.2f}, the first "
            f"{r['stall_of_the_first']:.2f}), on the disk after {r['written_after']:.2f} s, "
            f"training longer by {r['added_seconds_a_save']:.2f} s a save"
        )
        if step is not None:
            share = r["overhead_every_100_steps"]
            print(f"{'':11s} every {INTERVAL} steps of {step:.1f} s: {100 * share:.2f} % of training")


if __name__ == "__main__":
    return_large_blocks()
    main()
