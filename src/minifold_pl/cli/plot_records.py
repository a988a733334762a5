"""Figures of what lies in files: curves, gradients, one-step scores, structures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minifold_pl.cli.errors import UserError
from minifold_pl.cli.plot import named
from minifold_pl.plots.curves import RunCurves
from minifold_pl.plots.gradients import CosineTable, cosine_table, gradient_figure
from minifold_pl.plots.losses import loss_figure
from minifold_pl.plots.one_step import OneStepCurve, one_step_figure
from minifold_pl.plots.reliability import reliability_figure
from minifold_pl.results.damage import damage
from minifold_pl.results.figure_data import CONFIDENCE, FigureData, is_evaluation
from minifold_pl.results.one_step import read_one_step
from minifold_pl.results.run_curves import read_curves
from minifold_pl.run.folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minifold_pl.plots.structure import Superposed

_ALL = "all shared"
"""Of `diagnose gradients`: the cosine over the parameters of all modules that both terms reach."""


def draw_losses(args: argparse.Namespace) -> tuple[Figure, dict[str, Any]]:
    """The figure, and its numbers."""
    runs = [
        read_curves(path, name) for path, name in zip(args.runs, named(args.runs, args.names), strict=True)
    ]
    _warn_of_damage(args.runs)
    empty = [run.name for run in runs if not run.train and not run.val]
    if empty:
        raise UserError(
            f"no losses are logged yet by {', '.join(empty)}: the first come at the end of an epoch"
        )
    return loss_figure(runs, x=args.x, theme=args.theme), {"runs": [_curve_numbers(run) for run in runs]}


def _warn_of_damage(runs: Sequence[Path]) -> None:
    for path in runs:
        for line in damage(RunFolder(path)):
            print(f"warning: {path}: {line}", file=sys.stderr)


def draw_gradients(args: argparse.Namespace) -> tuple[Figure, dict[str, Any]]:
    """The figure, and its numbers."""
    run = read_curves(args.runs[0])
    _warn_of_damage(args.runs)
    table = None if args.cosines is None else read_cosines(args.cosines)
    if not run.gradients and table is None:
        raise UserError(
            f"{args.runs[0]} logged no gradient norms (grad/…): the `clipping` callback logs them at the end of "
            "each epoch. `diagnose gradients RUN --json` measures cosines for --cosines"
        )
    numbers: dict[str, Any] = {
        "run": run.name,
        "norms": {module: _points(curve) for module, curve in run.gradients.items()},
        "clipped_share": {module: _points(curve) for module, curve in run.clipped.items()},
        "clipped_to": dict(run.limits),
        "events": [{"event": mark.kind, "step": mark.step, "of": mark.told} for mark in run.marks],
    }
    if table is not None:
        numbers["cosines"] = {"terms": list(table.terms), "matrix": table.cosines.tolist()}
    return gradient_figure(run, table, theme=args.theme), numbers


def draw_reliability(args: argparse.Namespace) -> tuple[Figure, dict[str, Any]]:
    """The figure, and its numbers."""
    data = FigureData(args.evaluation)
    sets = data.reliability()
    content = {"evaluation": str(data.folder), "confidence": data.summary[CONFIDENCE]}
    return reliability_figure(sets, about=data.about, theme=args.theme), content


def draw_xt(args: argparse.Namespace) -> tuple[Figure, dict[str, Any]]:
    """The figure, and its numbers."""
    names = named(args.sources, args.names)
    read = [read_one_step(path, args.epoch) for path in args.sources]
    curves: list[OneStepCurve] = []
    for k, (name, scores) in enumerate(zip(names, read, strict=True)):
        for curve in scores.curves:
            if not curve.floor:
                curves.append(replace(curve, name=name if len(read) > 1 or args.names else curve.name))
            elif k == 0:
                curves.append(curve)
    curves.sort(key=lambda curve: curve.floor)
    about = "; ".join(f"{name}: {scores.about}" for name, scores in zip(names, read, strict=True))
    numbers = {
        "about": about,
        "curves": [
            {
                "name": curve.name, "t": [int(t) for t in curve.times], "mean": curve.mean.tolist(),
                "low": curve.low.tolist(), "high": curve.high.tolist(),
            }
            for curve in curves
        ],
    }  # fmt: skip
    return one_step_figure(curves, about=about, theme=args.theme), numbers


def draw_structure(args: argparse.Namespace) -> tuple[Figure, dict[str, Any]]:
    """The figure, and its numbers."""
    from minifold_pl.plots.structure import structure_figure

    pairs = _pairs(args)
    numbers = {"structures": [{"name": pair.name, "told": pair.told, **pair.scores} for pair in pairs]}
    return structure_figure(pairs, about=str(args.source), theme=args.theme), numbers


def _pairs(args: argparse.Namespace) -> list[Superposed]:
    from minifold_pl.cli.checkpoint_chains import data_of_the_run
    from minifold_pl.cli.plot_structures import of_evaluation, of_files, of_samples
    from minifold_pl.data.store import ChainStore

    source: Path = args.source
    if not source.exists():
        raise UserError(f"{source} does not exist", exit_code=2)
    if source.is_file():
        if args.reference is None:
            raise UserError(f"{source} is a file: give the one that it is compared with, too", exit_code=2)
        if not args.reference.is_file():
            raise UserError(f"{args.reference} is no file", exit_code=2)
        return [of_files(source, args.reference)]
    if args.reference is not None:
        raise UserError(
            f"{source} is a folder: its truths come from --data, not from a second path", exit_code=2
        )
    if is_evaluation(source):
        return of_evaluation(source, args.names or (), args.chains)
    samples = source / "samples" if (source / "samples").is_dir() else source
    if samples == source and (source / "config.yaml").is_file():
        raise UserError(f"{source} has no samples yet: evaluations while training write them (ddim.save)")
    path = args.data or data_of_the_run(source / "checkpoints" / "best.ckpt")
    return of_samples(samples, ChainStore.open(path), args.names or (), args.chains)


def read_cosines(path: Path) -> CosineTable:
    """The cosines that ``diagnose gradients --json`` printed.

    Raises:
        UserError: It is no such file.
    """
    wrong = f"{path} is not what `diagnose gradients --json` prints"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = {
            (str(pair["terms"][0]), str(pair["terms"][1])): float(pair["modules"][_ALL]["cosine"])
            for pair in content["cosines"]
        }
        checkpoint, data = content.get("checkpoint") or {}, content.get("data") or {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--cosines {path} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}"
        ) from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(wrong) from error
    if not found:
        raise UserError(f"{path} holds no pair of loss terms that share parameters")
    told = f"over all shared parameters; step {checkpoint.get('step')}, {data.get('chains')} chains"
    return cosine_table(found, told)


def _curve_numbers(run: RunCurves) -> dict[str, Any]:
    best, curve = run.best, run.monitored
    told: dict[str, Any] = {"name": run.name, "monitor": run.monitor}
    if curve is not None and best is not None:
        told["best"] = {
            "value": float(curve.value[best]), "epoch": float(curve.epoch[best]), "step": int(curve.step[best])
        }  # fmt: skip
    for part in ("train", "val", "scores", "rates"):
        told[part] = {name: _points(one) for name, one in getattr(run, part).items()}
    return told


def _points(curve: Any) -> dict[str, Any]:
    return {
        "step": [int(step) for step in curve.step],
        "epoch": curve.epoch.tolist(),
        "value": curve.value.tolist(),
    }
