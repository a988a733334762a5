"""What being hard to kill costs: training steps of v13 with everything that guards them, and with none of it.

    python -m benchmarks.resilience [--config v13.yaml] [--batches 12] [--rounds 2] [--threads 2] [--length 120]

Both ways train the same model on the same batches with EMA and clipping, which are part of the training; *guarded* is
``minifold-pl fit`` as users run it (lease, exact resume, signals, NaN guard, tripwire, loss spikes, hang watch,
metrics, events, checkpoints), *bare* a Lightning trainer without any of that. They take turns, each in a process of
its own. Told are, for each way, the median seconds a batch; for *guarded* also the time spent inside its callbacks,
hook by hook, which machines' noise does not hide, and how long training stands still for a save. The overhead is
those hooks and a save every 100 optimizer steps, over the bare batch's median; what runs outside the hooks (the guard
around ``training_step``, loggers, threads) is not in it and shows only in the ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import lightning.pytorch as pl
import torch
import yaml

from minifold_pl.callbacks.ema import EMA
from minifold_pl.callbacks.module_clipping import ModuleClipping
from minifold_pl.cli.allocator import return_large_blocks
from minifold_pl.cli.lightning_cli import cli, instantiate_model, quiet_libraries, resolve_config
from minifold_pl.data.datamodule import ProteinDataModule, write_synthetic
from minifold_pl.data.synthetic import SyntheticConfig
from minifold_pl.modules.diffusion import DiffusionModule

WAYS = ("bare", "guarded")
SAVE_INTERVAL = 100
"""Optimizer steps between saves that the overhead is told for."""
PART_OF_TRAINING = (EMA, ModuleClipping)
HOOKS = (
    "on_train_epoch_start", "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "on_train_batch_end",
)  # fmt: skip


class Stopwatch(pl.Callback):
    """Seconds from batch to batch, and inside the other callbacks' hooks."""

    def __init__(self) -> None:
        self.batches: list[float] = []
        self.inside: dict[str, list[float]] = defaultdict(list)
        self._last: float | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Put a clock around every hook of the other callbacks."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by Lightning's connector
            if isinstance(callback, (Stopwatch, *PART_OF_TRAINING)):
                continue
            for hook in HOOKS:
                if getattr(type(callback), hook) is not getattr(pl.Callback, hook):
                    setattr(
                        callback,
                        hook,
                        self._timed(f"{type(callback).__name__}.{hook}", getattr(callback, hook)),
                    )

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """From one to the next is a batch, data and all hooks included."""
        now = perf_counter()
        if self._last is not None:
            self.batches.append(now - self._last)
        self._last = now

    def _timed(self, name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = perf_counter()
            try:
                return hook(*args, **kwargs)
            finally:
                self.inside[name].append(perf_counter() - begun)

        return timed


def train(way: str, config: str, store: str, run: str, batches: int) -> dict[str, Any]:
    """One process's measurement."""
    watch = Stopwatch()
    if way == "bare":
        resolved = resolve_config(config, [f"--data.path={store}"])
        module = instantiate_model(config)
        data = ProteinDataModule(**resolved["data"])
        trainer = pl.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
            limit_train_batches=batches + 1, limit_val_batches=0, max_epochs=1,
            accumulate_grad_batches=resolved["trainer"]["accumulate_grad_batches"],
            callbacks=[EMA(**resolved["ema"]), ModuleClipping(**resolved["clipping"]), watch],
        )  # fmt: skip
        pl.seed_everything(0, verbose=False)
        trainer.fit(module, data)
        return {"batches": watch.batches, "inside": {}, "saves": []}
    before = DiffusionModule.on_fit_start

    def add_watch(self: DiffusionModule) -> None:
        before(self)
        self.trainer.callbacks.append(watch)  # type: ignore[attr-defined]
        watch.setup(self.trainer, self, "fit")

    DiffusionModule.on_fit_start = add_watch  # type: ignore[method-assign]
    done = cli(
        [
            "fit", "--config", config, "--data.path", store, "--run.dir", run, "--run.wandb", "disabled",
            "--trainer.accelerator", "cpu", "--trainer.limit_train_batches", str(batches + 1),
            "--trainer.limit_val_batches", "0", "--trainer.max_epochs", "1", "--ddim.every_n_epochs", "0",
            "--trainer.enable_progress_bar", "false",
        ]
    )  # fmt: skip
    saved = [
        json.loads(line)["seconds"]
        for line in done.run_folder.events.read_text().splitlines()
        if json.loads(line)["event"] == "saved"
    ]
    return {"batches": watch.batches, "inside": dict(watch.inside), "saves": saved}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--config", default="v13.yaml")
    parser.add_argument("--batches", type=int, default=12, help="a round, for each way")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--length", type=int, default=120, help="of the longest chain; the shortest has 50 fewer"
    )
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        warnings.simplefilter("ignore")
        quiet_libraries()
        return_large_blocks()
        torch.set_num_threads(args.threads)
        found = train(args.way, args.config, args.store, args.run, args.batches)
        print("RESULT " + json.dumps(found))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        chains = max(60, 8 * args.batches)
        store = str(Path(folder) / "store")
        write_synthetic(
            store, SyntheticConfig(n=chains, min_length=args.length - 50, max_length=args.length, seed=0)
        )
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for number in range(args.rounds):
            for way in WAYS:
                found[way].append(_child(args, way, store, f"{folder}/{way}-{number}"))
                print(
                    f"round {number + 1}, {way}: {_median(found[way][-1]['batches']):.2f} s a batch",
                    flush=True,
                )
    config = yaml.safe_load(yaml.safe_dump(resolve_config(args.config)))
    report(found, accumulation=int(config["trainer"]["accumulate_grad_batches"]))
    return 0


def report(found: dict[str, list[dict[str, Any]]], accumulation: int) -> None:
    """Print the figures."""
    bare, guarded = (_median([t for one in found[way] for t in one["batches"]]) for way in WAYS)
    batches = sum(len(one["batches"]) for one in found["guarded"])
    hooks: dict[str, float] = defaultdict(float)
    for one in found["guarded"]:
        for name, seconds in one["inside"].items():
            hooks[name] += sum(seconds)
    stalls = [seconds for one in found["guarded"] for seconds in one["saves"]]
    inside = sum(hooks.values()) / batches
    saving = max(stalls) / (SAVE_INTERVAL * accumulation)
    print(f"\nmedian batch: bare {bare:.3f} s, guarded {guarded:.3f} s, ratio {guarded / bare:.3f}")
    print(f"inside the guards' hooks: {1e3 * inside:.1f} ms a batch, {inside / bare:.2%}")
    for name, seconds in sorted(hooks.items(), key=lambda item: -item[1])[:8]:
        print(f"  {1e3 * seconds / batches:8.2f} ms  {name}")
    print(f"a save: {_median(stalls):.2f} s (longest {max(stalls):.2f} s)")
    print(f"  every {SAVE_INTERVAL} steps {saving / bare:.2%}")
    print(f"overhead: {(inside + saving) / bare:.2%} of a batch")
    print(
        f"  in it: all hooks (longest above), and the longest save once every {SAVE_INTERVAL} optimizer steps"
    )
    print(
        "  not in it: what runs outside those hooks (the guard around training_step, the loggers, the threads of\n"
        "  heartbeat and hang watch); that shows only in the ratio of the medians, with the machine's noise:\n"
        f"  guarded / bare {guarded / bare:.3f} (a median, so that no save is in it)"
    )


def _child(args: argparse.Namespace, way: str, store: str, run: str) -> dict[str, Any]:
    command = [
        sys.executable, "-m", "benchmarks.resilience", "--way", way, "--store", store, "--run", run, "--config",
        args.config, "--batches", str(args.batches), "--threads", str(args.threads),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{way} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


def _median(values: list[float]) -> float:
    return statistics.median(values)


if __name__ == "__main__":
    sys.exit(main())
