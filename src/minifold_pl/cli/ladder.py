"""``minifold-pl diagnose ladder``: does a model learn? Rung by rung, each with its number beside its goal."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from minifold_pl.cli import ladder_ablations
from minifold_pl.cli.errors import UserError
from minifold_pl.cli.generation import positive, told_to_the_user

RESULTS: Final = "ladder.json"
_DEFAULT: Final = (1, 2, 3, 4, 5)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "--config", "-c", default="v15_ladder.yaml", metavar="X", help="model (default v15_ladder.yaml)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting of --config"
    )
    parser.add_argument(
        "--rungs", default=",".join(map(str, _DEFAULT)), metavar="N,N,…",
        help="1 sampler, 2 equivariance, 3 one chain, 4 thirty-two chains, 5 synthetic folds, 6 real chains, "
        "7 ablations (default 1,2,3,4,5)",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="a prepared set of real chains, for rungs 3, 4 and 6"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("ladder"), metavar="DIR", help="results (default ladder)"
    )
    parser.add_argument("--threads", type=positive, default=2, metavar="N", help="CPU threads (default 2)")
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        metavar="X",
        help="multiple of all training times; 1 is what counts (default)",
    )
    parser.add_argument(
        "--minutes", type=float, default=10.0, metavar="M",
        help="training time of each model of rungs 6 and 7 (default 10)",
    )  # fmt: skip
    parser.add_argument(
        "--beside", metavar="X", help="rung 6: another config, trained for the same time (v13_small.yaml)"
    )
    parser.add_argument(
        "--beside-set", action="append", default=[], metavar="NAME=VALUE",
        help="change a setting of --beside, such as model.init_args.encoder_ckpt=CKPT",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=positive, default=1, metavar="N", help="rung 7: models at a time (default 1)"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="rung 7: this one alone (may be given again); also what v15 leaves off, such as recycling",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and noise (default 0)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda …")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Climb; 1 where a goal is missed."""
    numbers = _numbers(args.rungs)
    if not args.scale > 0 or not args.minutes > 0:
        raise UserError("--scale and --minutes: give a number above 0", exit_code=2)
    try:
        ladder_ablations.names(args.only)
    except ValueError as error:
        raise UserError(f"--only {error}", exit_code=2) from None
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    import torch

    torch.set_num_threads(args.threads)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out {args.out}: {error.strerror}; give a folder that can be written", exit_code=2
        ) from error
    met = True
    for number in numbers:
        start = time.monotonic()
        with told_to_the_user():
            found = _climb(args, number)
        found["seconds"] = time.monotonic() - start
        found |= _circumstances(args)
        _keep(args.out / RESULTS, found)
        met &= found["met"]
        print(json.dumps(found, ensure_ascii=False) if args.json else _shown(found), flush=True)
    return 0 if met else 1


def _climb(args: argparse.Namespace, number: int) -> dict[str, Any]:
    from minifold_pl.cli import ladder_rungs
    from minifold_pl.cli.ladder_climb import climb_with

    climb = climb_with(vars(args), args.data, lambda text: print(text, file=sys.stderr, flush=True))
    if number == 6:
        return _real(climb, args)
    if number == 7:
        return ladder_ablations.table(climb, args)
    return ladder_rungs.RUNGS[number](climb).told()


def _real(climb: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Rung 6: figures, and whether the real sequence is told from wrong ones."""
    from dataclasses import replace

    from minifold_pl.cli.ladder_climb import Goal
    from minifold_pl.cli.ladder_real import real_chains

    models = {args.config: real_chains(climb, 60 * args.minutes)}
    if args.beside:
        overrides = tuple(f"--{setting.lstrip('-')}" for setting in args.beside_set)
        beside = replace(climb, config=args.beside, overrides=overrides)
        name = args.beside if args.beside != args.config else f"{args.beside}, changed"
        models[name] = real_chains(beside, 60 * args.minutes)
    gains = models[args.config]["sequence_gain"]
    goals = [
        Goal(
            name=f"loss at t ≥ 700: {row} sequence worse than the real one, lower end",
            value=gain["low"],
            target=0.0,
        )
        for row, gain in gains.items()
    ]
    rows = {
        f"{config}: {row}": scores
        for config, model in models.items()
        for row, scores in model["rows"].items()
    }
    return {
        "rung": 6, "title": "real chains: train split, validated", "met": all(goal.met for goal in goals),
        "goals": [goal.told() for goal in goals], "rows": rows, "models": models, "training": None,
        "note": f"{args.minutes * args.scale:g} minutes of training a model; "
        + "; ".join(
            f"{config}: {model['training']['distinct_chains']:,} training chains an epoch, one of each cluster, "
            f"{model['validation_chains']} to validate"
            for config, model in models.items()
        ),
    }  # fmt: skip


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not set(numbers) <= set(range(1, 8)):
        raise UserError(f"--rungs {text}: give numbers from 1 to 7, such as 1,2,5", exit_code=2)
    return numbers


def _circumstances(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from minifold_pl import __version__

    return {
        "config": args.config, "set": args.set, "threads": args.threads, "scale": args.scale, "seed": args.seed,
        "device": args.device, "torch": torch.__version__, "version": __version__,
        "load": os.getloadavg()[0], "cores": os.cpu_count(),
    }  # fmt: skip


def _keep(file: Path, found: dict[str, Any]) -> None:
    """Beside the other rungs' results; the newest of each rung stays."""
    from minifold_pl.checkpoint.atomic import atomic_write_text

    try:
        kept = json.loads(file.read_text())
    except (OSError, ValueError):
        kept = {}
    atomic_write_text(file, json.dumps({**kept, str(found["rung"]): found}, indent=1, ensure_ascii=False))


def _shown(found: Mapping[str, Any]) -> str:
    lines = [
        f"rung {found['rung']}: {found['title']} — {'passed' if found['met'] else 'FAILED'}, {found['seconds']:.0f} s"
    ]
    for goal in found["goals"]:
        sign = "≥" if goal["at_least"] else "≤"
        lines.append(
            f"  {'met   ' if goal['met'] else 'MISSED'} {goal['name']}: {goal['value']:.4g} "
            f"({sign} {goal['target']:.4g})"
        )
    lines += [f"  {row:42s} {_row(scores)}" for row, scores in found["rows"].items()]
    if found["training"]:
        lines.append(
            "  trained: " + ", ".join(f"{name} {value:.6g}" for name, value in found["training"].items())
        )
    if found["note"]:
        lines.append(f"  {found['note']}")
    return "\n".join(lines)


def _row(scores: Mapping[str, Any]) -> str:
    parts = []
    for name, value in scores.items():
        if isinstance(value, Mapping):
            known = math.isfinite(value["low"])  # one chain has no interval
            interval = f" [{value['low']:.3f}–{value['high']:.3f}]" if known else ""
            parts.append(f"{name} {value['mean']:.3f}{interval}")
        else:
            parts.append(f"{name} {value:g}")
    return "  ".join(parts)
