"""Put the figures of ``python -m benchmarks --out FOLDER`` into docs/performance.md.

    python -m benchmarks.page FOLDER/benchmarks.json [FOLDER/benchmarks.json …] [--page docs/performance.md]

What stands between the two marks of the page is replaced; the rest stays. Of several files each benchmark is taken from
the last one that has it, and a GPU's stand under a heading of their own. A benchmark with many cells shows those at 125
residues; all of them are in the JSON file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN = "<!-- figures: written by python -m benchmarks.page -->"
END = "<!-- end of figures -->"
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
MANY = 24
"""Rows from which a benchmark shows its cells at 125 residues alone."""
VERDICT = {True: "met", False: "**missed**", None: "not measured"}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; 2 where it has no marks or a file is no such result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.page", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )  # fmt: skip
    parser.add_argument("results", nargs="+", type=Path, metavar="JSON")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args(argv)
    try:
        results = [json.loads(path.read_text(encoding="utf-8")) for path in args.results]
        text = section(results)
    except (OSError, ValueError, KeyError) as error:
        parser.error(f"no results of python -m benchmarks: {error}")
    try:
        put_between(args.page, BEGIN, END, text)
    except ValueError as error:
        parser.error(str(error))
    return 0


def put_between(page: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between two marks of a page.

    Raises:
        ValueError: It has not both.
    """
    before, first, rest = page.read_text(encoding="utf-8").partition(begin)
    _, last, after = rest.partition(end)
    if not first or not last:
        raise ValueError(f"{page} has not both marks: {begin} and {end}")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def section(results: Sequence[Mapping[str, Any]]) -> str:
    """All results as Markdown, machine by machine."""
    machines: dict[str, tuple[Mapping[str, Any], dict[str, Any]]] = {}
    for result in results:
        machine = result["machine"]
        name = str(machine.get("gpu") or machine["cpu"])
        known = machines[name][1] if name in machines else {}
        machines[name] = (machine, {**known, **result["benchmarks"]})
    return "\n\n".join(_machine(name, *found) for name, found in machines.items())


def _machine(name: str, machine: Mapping[str, Any], benchmarks: Mapping[str, Any]) -> str:
    gpu = "gpu" in machine
    about = f"torch {machine['torch']}, " + (
        f"CUDA {machine['cuda']}" if gpu else f"{machine['threads']} thread, {machine['cores']} cores"
    )
    load = "" if gpu else f"; load when it began: {machine['load_at_start']:.1f}"
    parts = [f"### {name}", f"{about}{load}.", _goals(benchmarks)]
    parts += [_benchmark(title, found) for title, found in benchmarks.items() if found["rows"]]
    return "\n\n".join(parts)


def _goals(benchmarks: Mapping[str, Any]) -> str:
    rows = [
        [
            f"{title}: {goal['name']}",
            "–" if goal["value"] is None else f"{goal['value']:.3g}{goal['unit']}",
            f"{'≥' if goal['at_least'] else '≤'} {goal['target']:g}{goal['unit']}",
            VERDICT[goal["met"]],
            goal["note"],
        ]
        for title, found in benchmarks.items()
        for goal in found["goals"]
    ]
    return _table(["goal", "reached", "target", "", "note"], rows)


def _benchmark(title: str, found: Mapping[str, Any]) -> str:
    rows = found["rows"]
    cells = len(rows)
    if cells > MANY:
        rows = [row for row in rows if row["cell"].get("L") == 125] or rows[:MANY]
    keys = list(dict.fromkeys(key for row in rows for key in row["cell"]))
    lines = [
        [
            row["alternative"],
            *(str(row["cell"].get(key, "")) for key in keys),
            "" if row["median"] is None else f"{row['median']:.4g} {row['unit']}",
            "" if row["peak_mb"] is None else f"{row['peak_mb']:.4g}",
            row["note"],
        ]
        for row in rows
    ]
    head = ["", *keys, "median", "peak MB", "note"]
    empty = [i for i in range(len(head)) if i and not any(line[i] for line in lines)]
    kept = [i for i in range(len(head)) if i not in empty]
    table = _table([head[i] for i in kept], [[line[i] for i in kept] for line in lines])
    shown = "" if len(rows) == cells else f"\n\n{len(rows)} of {cells} cells."
    notes = "".join(f"\n\n{note[0].upper()}{note[1:]}." for note in found["notes"] if note)
    return f"#### {title}\n\n{table}{shown}{notes}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
