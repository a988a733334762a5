"""Tables on the screen, a JSON file with versions and device, a plot over the length."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.frame.interface import Goal, Options, Result, Row
from minifold_pl.checkpoint.atomic import atomic_write_text


def machine(options: Options) -> dict[str, Any]:
    """Versions and device: what a figure has to be read with."""
    about: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": str(options.device),
        "load_at_start": os.getloadavg()[0],
    }
    if options.device.type == "cuda":
        about["gpu"] = torch.cuda.get_device_name(options.device)
        about["cuda"] = torch.version.cuda
    for package in ("torch", "minifold-pl", "lightning", "numpy", "tmtools", "cuequivariance-torch"):
        try:
            about[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            about[package] = None
    return about


def table(result: Result) -> str:
    """Rows as aligned text; alternatives of the same cell stand together."""
    keys = list(dict.fromkeys(key for row in result.rows for key in row.cell))
    header = [*keys, "", "median", "IQR", "", "peak MB", "error", ""]
    lines = [[*(str(row.cell.get(k, "")) for k in keys), *_figures(row)] for row in result.rows]
    return _aligned([header, *lines], left={len(keys), len(keys) + 3, len(header) - 1})


def goal_table(goals: Mapping[str, list[Goal]]) -> str:
    """Every goal: its figure, its target, whether it is met."""
    lines = [["", "goal", "reached", "target", ""]]
    for name, group in goals.items():
        for goal in group:
            verdict = {True: "met", False: "MISSED", None: "not measured"}[goal.met]
            reached = "–" if goal.value is None else f"{goal.value:.4g}{goal.unit}"
            bound = "≥" if goal.at_least else "≤"
            lines.append(
                [verdict, f"{name}: {goal.name}", reached, f"{bound} {goal.target:g}{goal.unit}", goal.note]
            )
    return _aligned(lines, left={0, 1, 4})


def write_json(
    path: Path, about: Mapping[str, Any], results: Mapping[str, Result], failed: Mapping[str, str]
) -> None:
    """Everything, for whoever wants to compare later; ``failed`` benchmarks by name with their errors.

    Whoever ends the program meanwhile finds the file as it was before.
    """
    found = {
        name: {
            "rows": [asdict(row) for row in result.rows],
            "goals": [asdict(goal) | {"met": goal.met} for goal in result.goals],
            "notes": result.notes,
        }
        for name, result in results.items()
    }
    text = json.dumps({"machine": dict(about), "benchmarks": found, "failed": dict(failed)}, indent=1)
    atomic_write_text(path, text + "\n")


def write_plots(folder: Path, results: Mapping[str, Result]) -> list[Path]:
    """Time and memory over L, one file a benchmark; none without matplotlib (extra ``plots``)."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return []
    written = []
    for name, result in results.items():
        panels = _panels(result)
        if not panels:
            continue
        figure = Figure(figsize=(4.2 * len(panels), 7), layout="constrained")
        axes = figure.subplots(2, len(panels), squeeze=False)
        for column, (title, rows) in enumerate(panels.items()):
            for row, (attribute, label) in enumerate((("median", rows[0].unit), ("peak_mb", "peak MB"))):
                _lines(axes[row][column], rows, attribute)
                axes[row][column].set(xlabel="L", ylabel=label, title=title if row == 0 else "")
        axes[0][0].legend(fontsize=7)
        figure.suptitle(name)
        written.append(folder / f"{name}.png")
        figure.savefig(written[-1], dpi=120)
    return written


def _panels(result: Result) -> dict[str, list[Row]]:
    """Rows with a length, by what else their cell says; only where at least three lengths are there."""
    panels: dict[str, list[Row]] = {}
    for row in result.rows:
        if isinstance(row.cell.get("L"), int) and row.median is not None:
            title = ", ".join(f"{k} {v}" for k, v in row.cell.items() if k != "L")
            panels.setdefault(title, []).append(row)
    return {t: rows for t, rows in panels.items() if len({r.cell["L"] for r in rows}) > 2}


def _lines(axis: Any, rows: list[Row], attribute: str) -> None:
    if not any(getattr(row, attribute) for row in rows):
        axis.set_axis_off()
        return
    for alternative in dict.fromkeys(row.alternative for row in rows):
        points = [
            (int(r.cell["L"]), getattr(r, attribute))
            for r in rows
            if r.alternative == alternative and getattr(r, attribute)
        ]
        axis.plot(*zip(*sorted(points), strict=True) if points else ((), ()), marker="o", label=alternative)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.grid(True, which="both", alpha=0.3)


def _figures(row: Row) -> list[str]:
    return [
        row.alternative,
        "–" if row.median is None else f"{row.median:.4g}",
        "" if row.iqr is None else f"{row.iqr:.2g}",
        "" if row.median is None else row.unit,
        "" if row.peak_mb is None else f"{row.peak_mb:.4g}",
        "" if row.error is None else f"{row.error:.1e}",
        row.note,
    ]


def _aligned(lines: list[list[str]], left: set[int]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
