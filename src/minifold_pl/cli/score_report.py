"""What ``minifold-pl score`` says: a table, JSON or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from minifold_pl.cli.score_chains import MatchedPair
from minifold_pl.cli.score_files import FoundPairs
from minifold_pl.cli.score_metrics import BASELINES, MODEL, SCORES, SEED, SEES_ANSWER, Scores
from minifold_pl.export.manifest import manifest_text
from minifold_pl.metrics.bootstrap import Interval, bootstrap_interval

NOTE: Final = (
    "tm_score, gdt_ts and gdt_ha are maximised over superpositions and, as tm_kabsch (TM in the pose of least "
    "RMSD) and lddt_ca, count what the prediction lacks as wrong; rmsd and rg_ratio are over the matched residues. "
    "Unrelated real chains of 30 to 500 residues score 0.18 tm_score, 0.11 tm_kabsch, 0.16 gdt_ts and 0.26 lddt_ca in "
    "the mean; a tm_score of 0.5 means the same fold. lDDT knows no handedness."
)
_INTERVAL: Final = "95 % percentile bootstrap over pairs, 2000 resamples"
_MEANINGS: Final = {
    "tm_score": "TM-score, normalised by the reference's length",
    "tm_kabsch": "TM in the pose of least RMSD",
    "rmsd": "Å, Cα of the matched residues",
    "gdt_ts": "share within 1, 2, 4, 8 Å",
    "gdt_ha": "share within 0.5, 1, 2, 4 Å",
    "lddt_ca": "share of the reference's Cα distances below 15 Å that are kept",
    "rg_ratio": "radius of gyration over the reference's",
    "ca_bond_share": "Cα–Cα bonds of 3.8 ± 0.1 Å",
    "clashes": "pairs of Cα nearer than 3.6 Å",
    "coverage": "matched share of the reference",
}
_DIGITS: Final = {"rmsd": 2, "clashes": 0}
_WIDTH: Final = 180
"""Columns where there is no terminal: 80 would break every number in two."""

Means = dict[str, dict[str, Interval]]


def means(scores: Sequence[Scores]) -> Means:
    """Row → score → mean over the pairs that have it, with its interval."""
    rows = [row for row in (MODEL, *BASELINES) if any(row in by_row for by_row in scores)]
    return {
        row: {
            score: bootstrap_interval([by_row[row][score] for by_row in scores if row in by_row])
            for score in SCORES
        }
        for row in rows
    }


def json_text(
    settings: Mapping[str, Any],
    found: FoundPairs,
    pairs: Sequence[MatchedPair],
    scores: Sequence[Scores],
    failed: Mapping[str, str],
) -> str:
    """Everything, as strict JSON; a score that is not defined is null."""
    options = ("match", "pred_chain", "ref_chain", "chain", "model", "ref_model", "suffix", "baselines")
    content = {
        "predictions": str(settings["pred"]),
        "references": str(settings["ref"]),
        "settings": {name: settings[name] for name in options} | {"seed": SEED},
        "note": NOTE,
        "interval": _INTERVAL,
        "sees_answer": list(SEES_ANSWER),
        "pairs": [_entry(pair, by_row) for pair, by_row in zip(pairs, scores, strict=True)],
        "failed": [{"name": name, "reason": reason} for name, reason in failed.items()],
        "unmatched": {"predictions": list(found.lonely_preds), "references": list(found.lonely_refs)},
        "means": {
            row: {score: interval._asdict() for score, interval in by_score.items()}
            for row, by_score in means(scores).items()
        },
    }
    return manifest_text("score", content)


def _entry(pair: MatchedPair, by_row: Scores) -> dict[str, Any]:
    return {
        "name": pair.name,
        "prediction": {
            "file": str(pair.files.pred),
            "model": pair.pred_model,
            "chain": pair.pred_chain,
            "residues": len(pair.trace),
        },
        "reference": {
            "file": str(pair.files.ref),
            "model": pair.ref_model,
            "chain": pair.ref_chain,
            "residues": len(pair.true),
        },
        "matched": int(pair.matched.sum()),
        "matched_by": pair.match.way,
        "identity": pair.match.identity,
        "notes": list(pair.notes),
        "scores": by_row[MODEL],
        "baselines": {row: values for row, values in by_row.items() if row != MODEL},
    }


def csv_text(pairs: Sequence[MatchedPair], scores: Sequence[Scores]) -> str:
    """A line for every row of every pair; a score that is not defined is empty."""
    text = io.StringIO()
    facts = ("name", "row", "pred_model", "pred_chain", "ref_model", "ref_chain", "residues", "matched")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*facts, "matched_by", "identity", *SCORES])
    for pair, by_row in zip(pairs, scores, strict=True):
        for row, values in by_row.items():
            own = row == MODEL
            told = (pair.pred_model, pair.pred_chain) if own else ("", "")
            writer.writerow(
                [
                    pair.name, row, *told, pair.ref_model, pair.ref_chain, len(pair.true),
                    int(pair.matched.sum()) if own else len(pair.true), pair.match.way if own else "",
                    _cell(pair.match.identity) if own else "", *(_cell(values[score]) for score in SCORES),
                ]
            )  # fmt: skip
    return text.getvalue()


def _cell(value: float) -> str:
    return "" if value != value else f"{value:.6g}"


def show(found: FoundPairs, pairs: Sequence[MatchedPair], scores: Sequence[Scores]) -> None:
    """Print the scores."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    if len(pairs) == 1 and not found.several:
        _show_one(console, pairs[0], scores[0])
        return
    console.print(_table_of_pairs(pairs, scores))
    console.print(_table_of_means(scores, len(pairs)))


def _show_one(console: Console, pair: MatchedPair, by_row: Scores) -> None:
    identity = "" if pair.match.identity != pair.match.identity else f", {pair.match.identity:.0%} identical"
    console.print(
        f"{escape(pair.name)}: {_chain('chain', pair.pred_chain, pair.pred_model)} against "
        f"{_chain('chain', pair.ref_chain, pair.ref_model)} of the reference; {int(pair.matched.sum())} of "
        f"{len(pair.true)} residues matched by {pair.match.way}{identity}",
        highlight=False,
    )
    table = Table(caption=NOTE, caption_justify="left")
    table.add_column("")
    for row in by_row:
        table.add_column(row, justify="right", style="bold" if row == MODEL else None)
    table.add_column("")
    for score in SCORES:
        table.add_row(score, *(_number(score, values[score]) for values in by_row.values()), _MEANINGS[score])
    console.print(table)


def _chain(what: str, name: str, model: int) -> str:
    return escape(f"{what} {name or '(unnamed)'}" + (f", model {model}," if model > 1 else ""))


def _table_of_pairs(pairs: Sequence[MatchedPair], scores: Sequence[Scores]) -> Table:
    table = Table()
    table.add_column("name", no_wrap=True)
    several_models = len({pair.pred_model for pair in pairs}) > 1
    if several_models:
        table.add_column("model", justify="right")
    table.add_column("matched", justify="right", no_wrap=True)
    table.add_column("by", no_wrap=True)
    shown = [score for score in SCORES if score != "coverage"]
    for score in shown:
        table.add_column(score, justify="right", no_wrap=True)
    for pair, by_row in zip(pairs, scores, strict=True):
        doubt = " ?" if pair.match.doubtful else ""
        table.add_row(
            escape(pair.name),
            *([str(pair.pred_model)] if several_models else []),
            f"{int(pair.matched.sum())}/{len(pair.true)}",
            pair.match.way + doubt,
            *(_number(score, by_row[MODEL][score]) for score in shown),
        )
    return table


def _table_of_means(scores: Sequence[Scores], count: int) -> Table:
    table = Table(title=f"mean of {count} pairs, 95 % interval", caption=NOTE, caption_justify="left")
    table.add_column("")
    for score in SCORES:
        table.add_column(score, justify="right")
    for row, by_score in means(scores).items():
        table.add_row(
            _marked(row),
            *(_interval(score, by_score[score]) for score in SCORES),
            style="bold" if row == MODEL else "dim" if row in SEES_ANSWER else None,
        )
    return table


def _marked(row: str) -> str:
    return f"{row} (sees the answer)" if row in SEES_ANSWER else row


def _number(score: str, value: float) -> str:
    return "–" if value != value else f"{value:.{_DIGITS.get(score, 3)}f}"


def _interval(score: str, interval: Interval) -> str:
    if interval.n == 0:
        return "–"
    # A mean of clashes is no whole number.
    digits = 2 if score in _DIGITS else 3
    if interval.low != interval.low:
        return f"{interval.mean:.{digits}f}\nn = 1"
    return f"{interval.mean:.{digits}f}\n{interval.low:.{digits}f}…{interval.high:.{digits}f}"
