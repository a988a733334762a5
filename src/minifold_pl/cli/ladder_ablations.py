"""Rung 7 of ``minifold-pl diagnose ladder``: what each of v15's choices is worth."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from minifold_pl.cli.ladder_climb import Climb, Rung

WHOLE: Final = "none"
"""The config as it is."""
ABLATIONS: Final = {
    "none": "",
    "x0 error": "denoising_weights.x0=0",
    "weight of high noise (floor of min-SNR)": "x0_weighting.floor=0",
    "errors of frames (FAPE)": "loss_weights.fape=0.0",
    "distogram into the trunk": "trunk_losses.distogram=0",
    "all trunk losses": "trunk_losses=null",
    "encoder and pair stack first": "training.trunk_share=0",
    "window of the encoder": "encoder.init_args.window=0",
    "Muon": "training.muon_lr=null",
    "distance bias": "denoiser.init_args.distance_bias=false",
    "chain frame": "denoiser.init_args.chain_frame=false",
    "several noise draws": "noise_draws=1",
    "start without the SNR gate": "snr_gated_frames=true",
}
"""Each of v15's choices, and the setting that switches it off; ``training.`` is of the training, not of the model."""
OPTIONS: Final = {
    "smooth lDDT": "denoising_weights.lddt=5.0",
    "FAPE's clamp": "fape_clamp=10.0",
    "prediction laid on x_t": "denoiser.init_args.aligned=true",
    "scaled start": "scaled_start=true",
    "learned null condition": "null_condition=learned",
    "self-conditioning": "self_conditioning=0.5",
    "errors of distances": "loss_weights.dist=1.0",
    "angles of the backbone at full weight": "backbone_weights.phi_psi=0.5",
    "recycling, twice": "recycles=2",
    "hidden residues": "trunk_losses.hidden_residues=0.2",
}
"""What v15 leaves off, switched on: trained where they are asked for by name."""
REPEATS: Final = 2
"""The config as it is, by that many other seeds: what two trainings differ by without any reason."""
_FOLDS: Final = {"seen folds": "seen", "unseen folds": "unseen"}


def names(only: Sequence[str]) -> list[str]:
    """What is trained: every choice switched off, or those that are asked for.

    Raises:
        ValueError: There is no such ablation.
    """
    for name in only:
        if name not in ABLATIONS and name not in OPTIONS:
            raise ValueError(f"{name}: there is {', '.join([*ABLATIONS, *OPTIONS])}")
    return list(dict.fromkeys(only)) or [*ABLATIONS]


def table(climb: Climb, args: argparse.Namespace) -> Rung:
    """Train and score what is not in ``args.out`` yet, each model in a process of its own, and compare."""
    from minifold_pl.cli.ladder_climb import Goal, Rung
    from minifold_pl.cli.ladder_folds import overrides_of, synthetic_store

    wanted = [(name, args.seed) for name in names(args.only)]
    if not args.only:
        wanted += [(WHOLE, args.seed + k) for k in range(1, REPEATS + 1)]
    for name, _ in wanted:
        climb.model(*overrides_of(_setting(name)))  # one that cannot be built is told before any is trained
    synthetic_store(climb)
    folder = args.out / "ablations"
    folder.mkdir(exist_ok=True)
    with _Children() as children, ThreadPoolExecutor(args.jobs) as pool:
        found = list(pool.map(lambda pair: _trained(climb, args, folder, children, *pair), wanted))
    models = {
        name if seed == args.seed else f"{name}, seed {seed}": model
        for (name, seed), model in zip(wanted, found, strict=True)
    }
    rows, spread = compared(models)
    note = f"{args.minutes * args.scale:g} minutes a model on {args.threads} thread{'s' if args.threads > 1 else ''}"
    rung = Rung(number=7, title="what each choice is worth", rows=rows, models=models)
    if spread:
        note += "; trainings that differ by their seed alone have a standard deviation of " + ", ".join(
            f"{value:.3f} on {label}" for label, value in spread.items()
        )
        worths = {name: row["seen_worth"] for name, row in rows.items() if "seen_worth" in row}
        least = min(worths, key=lambda name: worths[name])
        rung.goals.append(
            Goal(
                name=f"no choice does harm: the least worth on seen folds ({least}); seeds differ by half the target",
                value=worths[least], target=-2 * spread["seen folds"],
            )
        )  # fmt: skip
    rung.note = note
    return rung


def _setting(name: str) -> str:
    return {**ABLATIONS, **OPTIONS}[name]


def _trained(
    climb: Climb, args: argparse.Namespace, folder: Path, children: _Children, name: str, seed: int
) -> dict[str, Any]:
    """One model: as it was kept, where it was asked for in the same words, or trained now."""
    words = "".join(c if c.isalnum() else "_" for c in name)
    file = folder / f"{words}-{args.minutes * args.scale:g}-{seed}.json"
    request = {
        "config": args.config, "set": args.set, "threads": args.threads, "seconds": 60 * args.minutes,
        "scale": args.scale, "seed": seed, "override": _setting(name), "device": args.device,
    }  # fmt: skip
    kept = _kept(file)
    if kept is not None and kept.get("request") == request:
        return kept
    climb.tell(f"  {name}, seed {seed}: {request['override'] or args.config}")
    children.run(
        [sys.executable, "-W", "ignore", "-m", "minifold_pl.cli.ladder_ablations"],
        {**request, "out": str(args.out), "file": str(file)}, threads=args.threads, name=name,
    )  # fmt: skip
    kept = _kept(file)
    if kept is None:
        raise ValueError(f"{name}: its process left no result in {file}")
    return kept


def _kept(file: Path) -> dict[str, Any] | None:
    """A result, where a whole one is there."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.keys() >= {"rows", "training", "request"} else None


class _Children:
    """Processes that end with this one, however it ends: each reads a pipe whose other end is held here."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._end()

    def _end(self) -> None:
        self._ended = True
        for process in list(self._running):
            process.kill()

    def run(self, command: Sequence[str], request: Mapping[str, Any], *, threads: int, name: str) -> None:
        """Run one to its end.

        Raises:
            ValueError: It failed, or another one has.
        """
        if self._ended:
            raise ValueError(f"{name}: not trained, as another one failed")
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=environment) as process:
            self._running.add(process)
            try:
                assert process.stdin is not None
                with suppress(BrokenPipeError):  # it has ended already: its code tells
                    process.stdin.write(json.dumps(request) + "\n")
                    process.stdin.flush()
                code = process.wait()
            finally:
                self._running.discard(process)
        if code:
            self._end()
            raise ValueError(f"{name}: its process ended with code {code}; what it said stands above")


def compared(models: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """A row a model: its TM-scores, and what the choice is worth: with it less without it.

    With it is the mean over the seeds of the config as it is.

    Args:
        models: By name; those of the config as it is begin with ``none``.

    Returns:
        The rows, and the standard deviation over those seeds where there are two or more.
    """
    whole = [name for name in models if name.partition(", seed ")[0] == WHOLE]
    rows: dict[str, dict[str, Any]] = {}
    spread: dict[str, float] = {}

    def tm(name: str, label: str) -> dict[str, Any]:
        return models[name]["rows"][f"{label}: model"]["tm_score"]

    for name, model in models.items():
        row: dict[str, Any] = {}
        for label, short in _FOLDS.items():
            row[f"{short}_tm"] = tm(name, label)
            if whole and name not in whole:
                gain = math.fsum(tm(w, label)["mean"] for w in whole) / len(whole) - tm(name, label)["mean"]
                row[f"{short}_worth"] = -gain if name in OPTIONS else gain
        rows[f"{name} (off in v15)" if name in OPTIONS else name] = {
            **row,
            "steps": model["training"]["steps"],
        }
    if len(whole) > 1:
        spread = {label: statistics.stdev(tm(name, label)["mean"] for name in whole) for label in _FOLDS}
    return rows, spread


def _one_ablation(request: Mapping[str, Any]) -> None:
    """In a process of its own."""
    import torch

    from minifold_pl.checkpoint.atomic import atomic_write_text
    from minifold_pl.cli.ladder_climb import climb_with
    from minifold_pl.cli.ladder_folds import ablation

    torch.set_num_threads(request["threads"])
    climb = climb_with(request, None, lambda text: None)
    found = ablation(climb, request["override"], request["seconds"])
    asked = {name: value for name, value in request.items() if name not in ("out", "file")}
    atomic_write_text(Path(request["file"]), json.dumps({**found, "request": asked}))


def _end_with_the_parent() -> None:
    """When the pipe closes there is nobody left to train for."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    asked_for = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    _one_ablation(asked_for)
