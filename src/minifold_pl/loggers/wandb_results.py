"""What W&B gets besides the numbers: how curves are summarised, figures and tables as panels, files as an artefact.

W&B makes a section of panels for what stands before the first ``/`` of a name: ``loss``, ``val``, ``grad``, ``ddim``,
``perf``, …; figures come under ``figures/`` and tables under ``tables/``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from minifold_pl.loggers.csv_table import EPOCH, read_rows
from minifold_pl.run.folder import RunFolder

BEST: Final = {
    "loss/*": "min", "val/*": "min", "ddim/rmsd": "min", "ddim/tm_score": "max", "ddim/tm_kabsch": "max",
    "ddim/lddt_ca": "max", "ddim/gdt_ts": "max", "val/class_accuracy": "max", "val/architecture_accuracy": "max",
    "val/contact_recall": "max", "val/precision_long_L": "max", "val/precision_long_L2": "max",
    "val/precision_long_L5": "max",
}  # fmt: skip
"""Which value of a curve stands in the table of runs; of others it is the last one."""
_RECORDS: Final = "ddim.jsonl"
_FILES: Final = (
    "config.yaml", "identity.json", "metrics.csv", "perf.csv", "events.jsonl", "state.json", _RECORDS, "report.html",
    "*/summary.json", "*/per_chain.csv",
)  # fmt: skip
_TABLE_COLUMNS: Final = ("loss/", "val/", "ddim/", "lr/", "patience/")


def define_groups(run: Any) -> None:
    """Tell W&B what is best of each curve."""
    for name, best in BEST.items():
        run.define_metric(name, summary=best)


def panels(folder: RunFolder) -> dict[str, Any]:
    """Figures and tables of a run as W&B's media, by name; what cannot be made of its files is left out."""
    import wandb

    found: dict[str, Any] = {}
    for name, png in _figures(folder):
        found[f"figures/{name}"] = wandb.Image(_pixels(png), caption=name)
    for name, (columns, rows) in _tables(folder).items():
        if rows:
            found[f"tables/{name}"] = wandb.Table(columns=columns, data=rows)
    return found


def results_artifact(folder: RunFolder, run_id: str) -> Any:
    """The files behind figures and tables, the newest samples, and the report where one was made."""
    import wandb

    artifact = wandb.Artifact(f"results-{run_id}", type="results")
    for pattern in _FILES:
        for path in sorted(folder.path.glob(pattern)):
            artifact.add_file(str(path), name=str(path.relative_to(folder.path)))
    newest = max(folder.samples.glob("epoch-*"), default=None)
    if newest is not None:
        artifact.add_dir(str(newest), name=f"samples/{newest.name}")
    return artifact


def _figures(folder: RunFolder) -> Iterator[tuple[str, bytes]]:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return
    from minifold_pl.plots.gradients import gradient_figure
    from minifold_pl.plots.losses import loss_figure
    from minifold_pl.plots.one_step import one_step_figure
    from minifold_pl.plots.style import picture
    from minifold_pl.results.one_step import NoScores, read_one_step
    from minifold_pl.results.run_curves import NoCurves, read_curves

    try:
        run = read_curves(folder.path)
    except NoCurves:
        return
    if run.train or run.val:
        yield "losses", picture(loss_figure([run]), "png")
    if run.gradients:
        yield "gradients", picture(gradient_figure(run), "png")
    try:
        scores = read_one_step(folder.path)
    except NoScores:
        return
    yield "one_step", picture(one_step_figure(scores.curves, about=scores.about), "png")


def _pixels(png: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(png))


def _tables(folder: RunFolder) -> dict[str, tuple[list[Any], list[list[Any]]]]:
    return {"epochs": _epochs(folder), "scores": _scores(folder.path / _RECORDS)}


def _epochs(folder: RunFolder) -> tuple[list[str], list[list[Any]]]:
    """The last value of each column in every epoch."""
    by_epoch: dict[int, dict[str, float]] = {}
    names: dict[str, None] = {}
    for _, step, row, _, _ in read_rows(folder.metrics):
        if step is not None and EPOCH in row:
            values = {name: float(cell) for name, cell in row.items() if name.startswith(_TABLE_COLUMNS)}
            names.update(dict.fromkeys(values))
            by_epoch.setdefault(int(row[EPOCH]), {}).update({"step": step + 1, **values})
    columns = ["epoch", "step", *names]
    rows = [
        [epoch + 1, *(values.get(name) for name in columns[1:])] for epoch, values in sorted(by_epoch.items())
    ]
    return columns, rows


def _scores(path: Path) -> tuple[list[str], list[list[Any]]]:
    """Every score of the model and its baselines in every evaluation, with its interval."""
    columns = ["epoch", "step", "row", "score", "mean", "low", "high", "n"]
    rows: list[list[Any]] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return columns, rows
    for line in lines:
        try:
            record = json.loads(line)
            rows += [
                [record["epoch"], record["step"], row, score, *(cell.get(name) for name in columns[4:])]
                for row, cells in record["scores"].items()
                for score, cell in cells.items()
            ]
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return columns, rows
