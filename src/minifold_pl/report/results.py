"""Scores beside their baselines, as ``evaluate`` and the evaluations while training have written them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from minifold_pl.metrics.registry import SCORES

SUMMARY: Final = "summary.json"
PER_CHAIN: Final = "per_chain.csv"
RECORDS: Final = "ddim.jsonl"
MODEL: Final = "model"
_SEES_ANSWER: Final = ("mirrored truth", "truth")
_SETTINGS: Final = (
    "sampler", "steps", "network_calls", "eta", "sigma_max", "sigma_min", "rho", "churn", "churn_min", "churn_max",
    "noise_scale", "step_scale", "guidance", "guidance_space", "num_samples", "samples", "seed", "weights",
)  # fmt: skip
_PARTS: Final = ("mean", "low", "high", "n")
_LABELS: Final = {
    "tm_score": "TM-score", "tm_kabsch": "TM (least-RMSD pose)", "rmsd": "RMSD (Å)", "gdt_ts": "GDT-TS",
    "gdt_ha": "GDT-HA", "gdt_ts_kabsch": "GDT-TS (least-RMSD pose)", "gdt_ha_kabsch": "GDT-HA (least-RMSD pose)",
    "lddt_ca": "lDDT-Cα", "rg_ratio": "Rg ratio", "ca_bond_share": "Cα–Cα bonds in range", "clashes": "Clashes",
    "ss_agreement": "SS agreement", "helix_content": "Helix content", "strand_content": "Strand content",
    "precision_long_L": "Precision long L", "precision_long_L2": "Precision long L/2",
    "precision_long_L5": "Precision long L/5", "precision_medium_L": "Precision medium L",
    "precision_medium_L2": "Precision medium L/2", "precision_medium_L5": "Precision medium L/5",
    "contact_recall": "Contact recall", "class_accuracy": "Class accuracy",
    "architecture_accuracy": "Architecture accuracy", "length": "Residues", "observed": "Observed", "name": "Chain",
    "structures": "Structures",
    "agreement": "Agreement", "diversity": "Diversity", "confidence": "Confidence",
}  # fmt: skip
_HEADLINES: Final = (
    ("tm_score", "lddt_ca", "gdt_ts", "rmsd"),
    ("tm_kabsch", "lddt_ca", "gdt_ts_kabsch", "rmsd"),
    ("precision_long_L", "precision_long_L5", "contact_recall", "class_accuracy"),
)
"""What is shown first: of the first set whose first score was measured."""
HEADLINES: Final = tuple(dict.fromkeys(name for names in _HEADLINES for name in names))
"""All of them."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """One table: rows are the model and its baselines, columns the scores."""

    title: str
    about: tuple[str, ...]
    """How it was made, a few words each."""
    note: str
    synthetic: bool
    sees_answer: tuple[str, ...]
    """Rows that were given the truth: no baselines."""
    rows: Mapping[str, Mapping[str, Mapping[str, float | None]]]
    """Row → score → ``mean``, ``low``, ``high``, ``n``, untouched; None where it is no finite number."""
    source: str
    """The file that they stand in."""
    per_chain: tuple[dict[str, str | float | None], ...] = field(default=())
    parameters: int | None = None
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    damage: str = ""
    """What of it could not be read."""

    @property
    def scores(self) -> tuple[str, ...]:
        """Every score of any row, in the order of the files; headlines first."""
        found = dict.fromkeys(name for cells in self.rows.values() for name in cells)
        return tuple(dict.fromkeys([*self.headlines, *found]))

    @property
    def headlines(self) -> tuple[str, ...]:
        """The scores that are shown first."""
        model = self.rows.get(MODEL, {})
        chosen = next((names for names in _HEADLINES if names[0] in model), tuple(model)[:4])
        return tuple(name for name in chosen if name in model)

    def best_baseline(self, score: str) -> tuple[str, float] | None:
        """The best row that neither is the model nor sees the answer; None where better has no meaning."""
        higher = higher_is_better(score)
        known = {
            row: cells[score]["mean"]
            for row, cells in self.rows.items()
            if score in cells and not row.startswith(MODEL) and row not in self.sees_answer
        }
        means = {row: mean for row, mean in known.items() if mean is not None}
        if higher is None or not means:
            return None
        row = (max if higher else min)(means, key=lambda name: means[name])
        return row, means[row]


def label(score: str) -> str:
    """A score's name for readers."""
    if score.startswith("x0_tm_t"):
        return f"x̂0-TM, t = {int(score.removeprefix('x0_tm_t'))}"
    return _LABELS.get(score, score.replace("_", " "))


def higher_is_better(score: str) -> bool | None:
    """None where neither is, or nobody knows."""
    if score.startswith(("x0_tm_t", "precision_")) or score.endswith(("_accuracy", "_recall")):
        return True
    return SCORES[score].higher_is_better if score in SCORES else None


def read_evaluation(folder: Path) -> Results:
    """What ``evaluate --out folder`` wrote.

    Raises:
        ValueError: There is no evaluation, or it is damaged.
    """
    path = folder / SUMMARY
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        data, settings = content["data"], content["settings"]
        per_chain, bad = _per_chain(folder / PER_CHAIN)
        return Results(
            title=f"Evaluation: {data['split']} split",
            about=(f"{data['chains']} chains of {data['path']}", *_settings(settings)),
            note=f"{content['note']} Interval: {content['interval']}.",
            synthetic="synthetic" in data["provenance"],
            sees_answer=tuple(content["sees_answer"]),
            rows=_rows(content["rows"]),
            source=str(path),
            per_chain=per_chain,
            parameters=content["checkpoint"].get("parameters"),
            checkpoint=content["checkpoint"],
            damage=bad,
        )
    except OSError as error:
        raise ValueError(f"no evaluation in {folder}: {error.strerror} ({path.name})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} is damaged or not what evaluate writes ({why})") from error


def read_while_training(path: Path) -> list[Results]:
    """The evaluations in ``ddim.jsonl``, in their order; lines that are cut are left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for line in lines:
        try:
            record = json.loads(line)
            epoch, step, chains = (record[name] for name in ("epoch", "step", "chains"))
            rows = _rows(record["scores"])
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        found.append(
            Results(
                title=f"While training: epoch {epoch}",
                about=(f"{chains} validation chains", f"optimizer step {step}", *_settings(record)),
                note="The same chains from the same noise at every evaluation; 95 % bootstrap intervals over chains.",
                synthetic=False,
                sees_answer=_SEES_ANSWER,
                rows=rows,
                source=str(path),
            )
        )
    return found


def _settings(settings: Mapping[str, Any]) -> list[str]:
    known = {name: settings[name] for name in _SETTINGS if settings.get(name) not in (None, "")}
    return [
        f"{name.replace('_', ' ')} {value:g}"
        if isinstance(value, float)
        else f"{name.replace('_', ' ')} {value}"
        for name, value in known.items()
    ]


def _rows(given: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float | None]]]:
    """The scores of every row. Those of a model that diverged may be NaN, which is no JSON that a browser reads.

    Raises:
        ValueError: There are none.
        AttributeError: ``given`` is not what ``evaluate`` writes.
    """
    rows = {
        str(row): {
            str(score): {part: _finite(cell.get(part)) for part in _PARTS} for score, cell in cells.items()
        }
        for row, cells in given.items()
    }
    if not any(rows.values()):
        raise ValueError("it has no scores")
    return rows


def _finite(value: object) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _per_chain(path: Path) -> tuple[tuple[dict[str, str | float | None], ...], str]:
    """The rows that are whole, and what is wrong with the others."""
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            columns, *rows = list(csv.reader(stream)) or [[]]
    except FileNotFoundError:
        return (), ""
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        return (), f"{path} cannot be read ({error}), and its chains are not shown."
    whole = [row for row in rows if len(row) == len(columns) and row[0]]
    found = tuple(
        {name: cell if name == "name" else _number(cell) for name, cell in zip(columns, row, strict=True)}
        for row in whole
    )
    bad = len(rows) - len(whole)
    return found, f"{path} is damaged: {bad} of its {len(rows)} chains cannot be read." if bad else ""


def _number(cell: str | None) -> float | None:
    try:
        return float(cell) if cell else None
    except ValueError:
        return None
