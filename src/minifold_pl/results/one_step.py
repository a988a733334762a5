"""One-step scores as ``fit``, ``evaluate`` and ``diagnose noise`` wrote them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from minifold_pl.plots.one_step import OneStepCurve

RECORDS: Final = "ddim.jsonl"
SUMMARY: Final = "summary.json"
MODEL: Final = "model"
_SCORE: Final = re.compile(r"x0_tm_t(\d+)")
_NOISE_SCORE: Final = "tm_kabsch"
"""What ``diagnose noise`` calls it."""


class NoScores(ValueError):
    """A file without one-step scores; the reason is one line."""


@dataclass(frozen=True, kw_only=True)
class OneStepScores:
    """The rows of one evaluation."""

    curves: tuple[OneStepCurve, ...]
    """The model's first; rows without such scores are left out."""
    about: str
    """When, over how many chains."""


def read_one_step(path: str | Path, epoch: int | None = None) -> OneStepScores:
    """One-step TM of model and floors.

    Args:
        path: A run folder (its last evaluation), the folder of an ``evaluate``, or one of the files ``ddim.jsonl``,
            ``summary.json`` and what ``diagnose noise --json`` printed.
        epoch: Of a run: the evaluation after this epoch.

    Raises:
        NoScores: There is no such file, it is damaged, or it holds no one-step scores.
    """
    path = Path(path)
    if path.is_dir():
        found = [path / name for name in (RECORDS, SUMMARY) if (path / name).is_file()]
        if not found:
            raise NoScores(
                f"{path} has neither {RECORDS} nor {SUMMARY}: nothing was evaluated yet (ddim.every_n_epochs), "
                "or it is no folder of a run or of an evaluation"
            )
        path = found[0]
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NoScores(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}"
        ) from error
    if path.name.endswith(".jsonl"):
        return _of_run(path, text, epoch)
    try:
        content = json.loads(text)
    except ValueError as error:
        raise NoScores(f"{path} is no JSON: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("levels"), list):
        return scores_of_noise(content)
    return _of_rows(path, content, "rows", _about_summary)


def _of_run(path: Path, text: str, epoch: int | None) -> OneStepScores:
    records = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # cut by a kill; it will be written again
        if isinstance(record, dict) and isinstance(record.get("scores"), dict):
            records.append(record)
    if not records:
        raise NoScores(f"{path} holds no evaluation yet")
    if epoch is not None:
        chosen = [record for record in records if record.get("epoch") == epoch]
        if not chosen:
            epochs = ", ".join(str(record.get("epoch")) for record in records)
            raise NoScores(f"{path} holds no evaluation after epoch {epoch}; there are {epochs}")
        records = chosen
    return _of_rows(path, records[-1], "scores", _about_record)


def _of_rows(path: Path, content: Any, key: str, about: Any) -> OneStepScores:
    rows = content.get(key) if isinstance(content, dict) else None
    curves = []
    for row, scores in rows.items() if isinstance(rows, dict) else ():
        cells = {
            int(match[1]): cell
            for name, cell in (scores.items() if isinstance(scores, dict) else ())
            if (match := _SCORE.fullmatch(name)) and isinstance(cell, dict)
        }
        if cells:
            curves.append(_curve(row, cells))
    if not curves:
        raise NoScores(
            f"{path} holds no one-step scores (x0_tm_t…): an older version wrote it, or it is of stage 1; "
            "`diagnose noise CHECKPOINT --json` measures them"
        )
    curves.sort(key=lambda curve: curve.floor)
    return OneStepScores(curves=tuple(curves), about=about(content))


def scores_of_noise(content: Mapping[str, Any]) -> OneStepScores:
    """What ``diagnose noise`` measured.

    Raises:
        NoScores: It holds no such scores.
    """
    by_row: dict[str, dict[int, Mapping[str, Any]]] = {}
    for level in content["levels"]:
        for row, scores in level.get("rows", {}).items():
            if isinstance(scores.get(_NOISE_SCORE), dict):
                by_row.setdefault(row, {})[int(level["t"])] = scores[_NOISE_SCORE]
    if not by_row:
        raise NoScores("no one-step scores in what diagnose noise measured")
    curves = sorted((_curve(row, cells) for row, cells in by_row.items()), key=lambda curve: curve.floor)
    return OneStepScores(curves=tuple(curves), about=_about_summary(content))


def _curve(row: str, cells: Mapping[int, Mapping[str, Any]]) -> OneStepCurve:
    times = sorted(cells)
    mean, low, high = (
        np.array([_number(cells[t].get(key)) for t in times], dtype=np.float64)
        for key in ("mean", "low", "high")
    )
    return OneStepCurve(
        name=row, times=np.array(times, dtype=np.float64), mean=mean, low=low, high=high, floor=row != MODEL
    )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _about_record(record: Mapping[str, Any]) -> str:
    return f"after epoch {record.get('epoch')}, step {record.get('step')}; {record.get('chains')} chains"


def _about_summary(content: Mapping[str, Any]) -> str:
    data, checkpoint = content.get("data") or {}, content.get("checkpoint") or {}
    told = [f"step {checkpoint['step']}"] if "step" in checkpoint else []
    if "chains" in data:
        told.append(f"{data['chains']} chains of {data.get('split', 'a split')}")
    return "; ".join(told)
