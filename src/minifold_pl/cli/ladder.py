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
from typing import TYPE_CHECKING, Any, Final

from minifold_pl.cli import ladder_ablations
from minifold_pl.cli.errors import UserError
from minifold_pl.cli.generation import positive, told_to_the_user

if TYPE_CHECKING:
    from minifold_pl.cli.ladder_climb import Climb, Rung

RESULTS: Final = "ladder.json"
_DEFAULT: Final = (1, 2, 3, 4, 5)
_REAL: Final = (3, 4, 6)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "--config", "-c", default="v15_ladder.yaml", metavar="X", help="model (default v15_ladder.yaml)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting of --config: of its model, losses, draws or sampler; optimizer, batches, average and "
        "clipping are the ladder's own, the same for every model",
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
    for name in ("scale", "minutes"):
        if not 0 < getattr(args, name) < math.inf:
            raise UserError(f"--{name}: give a number above 0", exit_code=2)
    try:
        ladder_ablations.names(args.only)
    except ValueError as error:
        raise UserError(f"--only {error}", exit_code=2) from None
    if args.data is None and (real := [str(n) for n in numbers if n in _REAL]):
        raise UserError(
            f"rung {real[0]} is about real chains: give a prepared data set with --data, or choose others with --rungs",
            exit_code=2,
        )
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    import torch

    torch.set_num_threads(args.threads)
    file = args.out / RESULTS
    results = _begun(file)
    with told_to_the_user(exit_code=2):  # what cannot be built is told before anything is trained
        climbs = _climbs(args)
        for climb in climbs:
            climb.model()
    met = True
    for number in numbers:
        start = time.monotonic()
        with told_to_the_user():
            rung = _climb(args, number, *climbs)
        seconds = time.monotonic() - start
        rung.within(seconds)
        if args.scale != 1:
            rung.note += f"{'; ' if rung.note else ''}{args.scale:g} of the training time that counts"
        found = {**rung.told(), "seconds": seconds, **_circumstances(args)}
        results[str(number)] = found
        _written(file, results)
        met &= found["met"]
        print(json.dumps(found, ensure_ascii=False) if args.json else _shown(found), flush=True)
    return 0 if met else 1


def _climbs(args: argparse.Namespace) -> list[Climb]:
    """The config, and the one beside it."""
    from minifold_pl.cli.ladder_climb import climb_with

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    climbs = [climb_with(vars(args), args.data, tell)]
    if args.beside:
        climbs.append(
            climb_with({**vars(args), "config": args.beside, "set": args.beside_set}, args.data, tell)
        )
    return climbs


def _climb(args: argparse.Namespace, number: int, climb: Climb, beside: Climb | None = None) -> Rung:
    from minifold_pl.cli import ladder_real, ladder_rungs

    if number == 6:
        return ladder_real.real_chains(climb, 60 * args.minutes, beside)
    if number == 7:
        return ladder_ablations.table(climb, args)
    return ladder_rungs.RUNGS[number](climb)


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
        "config": args.config, "set": args.set, "beside": args.beside, "beside_set": args.beside_set,
        "data": None if args.data is None else args.data.name, "minutes": args.minutes,
        "threads": args.threads, "scale": args.scale, "seed": args.seed,
        "device": args.device, "torch": torch.__version__, "version": __version__,
        "load": os.getloadavg()[0], "cores": os.cpu_count(),
    }  # fmt: skip


def _begun(file: Path) -> dict[str, Any]:
    """The results that are there, in a folder that can be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        results = json.loads(file.read_text()) if file.exists() else {}
    except OSError as error:
        raise UserError(
            f"--out {file.parent}: {error.strerror}; give a folder that can be written", exit_code=2
        ) from error
    except ValueError:
        results = None
    if not isinstance(results, dict):
        raise UserError(f"{file} is damaged: move it away, or give another --out", exit_code=2)
    _written(file, results)
    return results


def _written(file: Path, results: Mapping[str, Any]) -> None:
    """All rungs' results; the newest of each stays."""
    from minifold_pl.checkpoint.atomic import atomic_write_text

    try:
        atomic_write_text(file, json.dumps(results, indent=1, ensure_ascii=False))
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}", exit_code=2) from error


def _shown(found: Mapping[str, Any]) -> str:
    ended = ("passed" if found["met"] else "FAILED") if found["goals"] else "figures"
    lines = [f"rung {found['rung']}: {found['title']} — {ended}, {found['seconds']:.0f} s"]
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
