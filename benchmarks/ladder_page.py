"""Put the figures of ``minifold-pl diagnose ladder --out FOLDER`` into docs/results.md.

    python -m benchmarks.ladder_page FOLDER/ladder.json [--page docs/results.md]

What stands between the two marks of the page is replaced; the rest stays.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.page import put_between

BEGIN = "<!-- ladder: written by python -m benchmarks.ladder_page -->"
END = "<!-- end of ladder -->"
PAGE = Path(__file__).parents[1] / "docs" / "results.md"
SCORES = {
    "tm_score": "TM-score", "lddt_ca": "lDDT-Cα", "tm_kabsch": "`tm_kabsch`", "x0_tm_t975": "x̂0-TM, t = 975",
    "seen_tm": "seen folds", "seen_worth": "worth there", "unseen_tm": "unseen folds", "unseen_worth": "worth there",
    "precision_long_L5": "long range, L/5", "precision_long_L": "long range, L", "late_loss": "loss, t ≥ 700",
    "steps": "steps", "parameters": "parameters",
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; 2 where it has no marks or the file is no such result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ladder_page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("result", type=Path, metavar="JSON")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args(argv)
    try:
        text = section(json.loads(args.result.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        parser.error(f"{args.result} is no result of minifold-pl diagnose ladder: {error!r}")
    try:
        put_between(args.page, BEGIN, END, text)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return 0


def section(rungs: Mapping[str, Mapping[str, Any]]) -> str:
    """All rungs as Markdown.

    Raises:
        ValueError: There is none.
    """
    if not rungs:
        raise ValueError("it holds no rung")
    return "\n\n".join("\n\n".join(_rung(rungs[number])) for number in sorted(rungs, key=int))


def _rung(rung: Mapping[str, Any]) -> Iterator[str]:
    passed = ("passed" if rung["met"] else "**failed**") if rung["goals"] else "figures"
    yield f"**Rung {rung['rung']}, {rung['title']}**: {passed}, {rung['seconds'] / 60:.1f} min."
    told = [f"`{rung['config']}`", *(f"`--set {setting}`" for setting in rung["set"])]
    told.append(f"{rung['threads']} thread{'s' if rung['threads'] != 1 else ''} of {rung['cores']}")
    told.append(f"load at the end {rung['load']:.1f}, torch {rung['torch']}, seed {rung['seed']}")
    if rung["scale"] != 1:
        told.append(f"{rung['scale']:g} of the training time that counts")
    if rung.get("beside_set"):
        told.append(
            f"`{rung['beside']}` with {', '.join(f'`--set {setting}`' for setting in rung['beside_set'])}"
        )
    if rung["training"]:
        told.append(
            f"{rung['training']['steps']:,} steps over {rung['training']['distinct_chains']:,} chains in "
            f"{rung['training']['seconds'] / 60:.1f} min"
        )
    if rung["note"]:
        told.append(rung["note"])
    yield "; ".join(told) + "."
    if rung["goals"]:
        yield "\n".join(["| goal | reached | target | |", "|---|---|---|---|", *map(_goal, rung["goals"])])
    if rung["rows"]:
        names = [name for name in SCORES if any(name in row for row in rung["rows"].values())]
        yield "\n".join(
            [
                "| | " + " | ".join(SCORES[name] for name in names) + " |",
                "|---" * (len(names) + 1) + "|",
                *(
                    f"| {row} | " + " | ".join(_number(scores.get(name)) for name in names) + " |"
                    for row, scores in rung["rows"].items()
                ),
            ]
        )


def _goal(goal: Mapping[str, Any]) -> str:
    sign, met = "≥" if goal["at_least"] else "≤", "met" if goal["met"] else "**missed**"
    return f"| {goal['name']} | {goal['value']:.3g} | {sign} {goal['target']:.3g} | {met} |"


def _number(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, Mapping):
        return f"{value:+.3f}"
    if not math.isfinite(value["low"]):
        return f"{value['mean']:.3f}"
    return f"{value['mean']:.3f} [{value['low']:.3f}–{value['high']:.3f}]"


if __name__ == "__main__":
    raise SystemExit(main())
