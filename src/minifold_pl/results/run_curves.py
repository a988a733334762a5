"""The curves of a run from its folder: ``metrics.csv``, ``events.jsonl`` and ``config.yaml``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from minifold_pl.loggers.csv_table import EPOCH, Row, read_rows
from minifold_pl.plots.curves import TOTAL, Curve, Mark, RunCurves
from minifold_pl.run.events import read_events
from minifold_pl.run.folder import RunFolder

MARKED: Final = (
    "resumed", "tripwire", "tripwire_recovered", "nonfinite_batch", "non_finite_weights", "loss_spike", "rolled_back",
    "early_sign", "halted",
)  # fmt: skip
"""Events that stand in figures."""
_TOLD_BY: Final = ("module", "what", "why", "check", "reason")
_SCORES: Final[tuple[str, ...]] = (
    "ddim/tm_score", "ddim/lddt_ca", "val/class_accuracy", "val/architecture_accuracy", "val/contact_recall",
    "val/precision_long_L5",
)  # fmt: skip


class NoCurves(ValueError):
    """A folder from which no curves can be read; the reason is one line."""


def read_curves(path: str | Path, name: str | None = None) -> RunCurves:
    """The curves of the run in a folder, running or ended, however often it was killed.

    A line that is being written, and values that are no numbers, are left out; NaN and infinities become NaN.

    Args:
        path: A run folder.
        name: What to call it; the folder's name where not given.

    Raises:
        NoCurves: It is no run folder, or nothing was logged yet.
    """
    folder = RunFolder(Path(path))
    if not folder.metrics.is_file():
        if not folder.path.exists():
            raise NoCurves(f"{path} does not exist; give the folder of a run")
        if not folder.path.is_dir():
            raise NoCurves(f"{path} is a file; give the folder of a run")
        why = "the run has logged nothing yet" if folder.exists() else "it is no folder of a run"
        raise NoCurves(f"{path} has no metrics.csv: {why}")
    rows = {step: row for _, step, row, _, _ in read_rows(folder.metrics) if step is not None}
    if not rows:
        raise NoCurves(f"{folder.metrics} holds no rows yet: the first comes after some steps of training")
    place = _Epochs(rows)
    columns = dict.fromkeys(column for row in rows.values() for column in row)
    curves = {column: _curve(column, rows, place) for column in columns if column != EPOCH}
    curves = {column: curve for column, curve in curves.items() if len(curve)}
    config = _config(folder.config)
    monitor, mode = _monitored(config)
    train = _under("loss/", curves)
    val = {term: c for term, c in _under("val/", curves).items() if term in train or term in (TOTAL, "score")}
    scores = {score: curves[score] for score in _SCORES if score in curves}
    patience = (
        config.get("patience", {}).get("patience") if isinstance(config.get("patience"), dict) else None
    )
    return RunCurves(
        name=name or folder.path.resolve().name,
        train=train,
        val=val,
        scores=scores,
        baselines={score: found for score in scores if (found := _baselines(score, curves))},
        rates=_under("lr/", curves),
        waits=curves.get("patience/wait"),
        patience=patience if isinstance(patience, int) else None,
        monitor=monitor,
        mode=mode,
        monitored=curves.get(monitor),
        gradients=_under("grad/", curves),
        clipped=_under("grad_clipped/", curves),
        limits=_limits(config),
        marks=tuple(_marks(folder, place)),
    )


class _Epochs:
    """From optimizer steps to epochs, through the ends of the epochs that are known."""

    def __init__(self, rows: Mapping[int, Row]) -> None:
        ends: dict[int, int] = {}
        last_of: dict[int, int] = {}
        for step, row in rows.items():
            epoch = _whole(row.get(EPOCH))
            if epoch is None:
                continue
            last_of[epoch] = max(last_of.get(epoch, 0), step + 1)
            if f"loss/{TOTAL}" in row:
                ends[epoch + 1] = step + 1  # means over training are logged at its end
        self._at = [0, *(ends[k] for k in sorted(ends))]
        self._epoch = [0, *sorted(ends)]
        self._length = self._steps_an_epoch(last_of)

    def _steps_an_epoch(self, last_of: Mapping[int, int]) -> float:
        if len(self._at) > 1:
            return self._at[-1] / self._epoch[-1]
        return max((last / (epoch + 1) for epoch, last in last_of.items()), default=1.0)

    def __call__(self, steps: Sequence[float]) -> np.ndarray:
        given = np.asarray(steps, dtype=np.float64)
        inside = np.interp(given, self._at, self._epoch)
        beyond = np.clip(given - self._at[-1], 0, None) / self._length
        return np.asarray(inside + beyond)


def _curve(column: str, rows: Mapping[int, Row], place: _Epochs) -> Curve:
    found = [
        (step + 1, value) for step in sorted(rows) if (value := _number(rows[step].get(column))) is not None
    ]
    steps = [step for step, _ in found]
    return Curve(
        step=np.array(steps, dtype=np.float64),
        epoch=place(steps),
        value=np.array([value for _, value in found], dtype=np.float64),
    )


def _number(text: str | None) -> float | None:
    """None where there is no number; NaN for everything that is not finite."""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else math.nan


def _whole(text: str | None) -> int | None:
    value = _number(text)
    return None if value is None or math.isnan(value) else int(value)


def _under(prefix: str, curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """By the rest of the name; what goes on with another part of a name is something else."""
    names = [name for name in curves if name.startswith(prefix) and "/" not in name[len(prefix) :]]
    names.sort(key=lambda name: (name != prefix + TOTAL, name))
    return {name[len(prefix) :]: curves[name] for name in names}


def _baselines(score: str, curves: Mapping[str, Curve]) -> dict[str, float]:
    kind, _, rest = score.partition("/")
    if kind != "ddim":
        return {}
    found = {}
    for name, curve in curves.items():
        row, _, of = name.removeprefix("baseline/").partition("/")
        if name.startswith("baseline/") and of == rest:
            found[row.replace("_", " ")] = float(curve.value[-1])
    return found


def _config(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _monitored(config: Mapping[str, Any]) -> tuple[str, str]:
    """What the run calls best, else what its patience looks at."""
    for section in ("best", "patience"):
        part = config.get(section)
        if isinstance(part, dict) and isinstance(part.get("monitor"), str):
            return part["monitor"], "max" if part.get("mode") == "max" else "min"
    return f"val/{TOTAL}", "min"


def _limits(config: Mapping[str, Any]) -> dict[str, float]:
    clipping = config.get("clipping")
    if not isinstance(clipping, dict):
        return {}
    given = {**(clipping.get("max_norm") or {}), "rest": clipping.get("rest"), "all": clipping.get("whole")}
    return {name: float(limit) for name, limit in given.items() if isinstance(limit, int | float)}


def _marks(folder: RunFolder, place: _Epochs) -> list[Mark]:
    found = []
    for event in read_events(folder.events):
        step = event.get("step")
        if event["event"] in MARKED and isinstance(step, int):
            told = next((str(event[key]) for key in _TOLD_BY if event.get(key)), "")
            found.append(
                Mark(kind=event["event"], step=float(step), epoch=float(place([step])[0]), told=told)
            )
    return found
