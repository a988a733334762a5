"""An evaluation on the screen: the model beside its baselines, with intervals."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minifold_pl.metrics.bootstrap import Interval

_COLUMNS = {
    "diffusion": (
        "tm_score", "tm_kabsch", "rmsd", "gdt_ts", "lddt_ca", "confidence", "rg_ratio", "ca_bond_share", "clashes",
        "helix_content", "strand_content", "diversity",
    ),
    "contact": (
        "precision_long_L", "precision_long_L2", "precision_long_L5", "precision_medium_L5", "contact_recall",
        "class_accuracy", "architecture_accuracy",
    ),
}  # fmt: skip
_ONE_STEP = re.compile(r"x0_tm_t(\d+)")
_ONE_STEP_NOTE = (
    "TM (least-RMSD pose) of x̂0 in one step from timestep t, every row from the same noise. The Wiener smoother knows "
    "no sequence: what is not above it was not learned from one."
)
_WIDTH = 200
"""Columns of the table where there is no terminal: 80 would break every number in two."""


def show(
    intervals: Mapping[str, Mapping[str, Interval]],
    stage: str,
    sees_answer: Sequence[str],
    content: Mapping[str, Any],
) -> None:
    """Print the tables of an evaluation; ``content`` is what its summary holds."""
    from rich.console import Console

    from minifold_pl.modules.sampling import OWN_SETTINGS

    data, settings, checkpoint = content["data"], content["settings"], content["checkpoint"]
    names = (
        "sampler",
        "steps",
        "network_calls",
        *OWN_SETTINGS,
        "guidance",
        "guidance_space",
        "num_samples",
        "seed",
    )
    shown = ", ".join(f"{name} {settings[name]}" for name in names if settings.get(name) is not None)
    synthetic = "SYNTHETIC data, " if "synthetic" in data["provenance"] else ""
    title = (
        f"{synthetic}{data['split']}: n = {data['chains']} chains · {shown} · "
        f"{checkpoint['weights']} weights of {checkpoint['sha256'][:12]}"
    )
    ramachandran = content.get("ramachandran")
    known = list(dict.fromkeys(name for by_score in intervals.values() for name in by_score))
    tables = [(title, [c for c in _COLUMNS[stage] if c in known], content["note"])]
    if ramachandran is not None:
        from minifold_pl.cli import evaluate_backbones

        columns = [c for c in evaluate_backbones.COLUMNS if c in known]
        tables.append(("backbone", columns, evaluate_backbones.NOTE))
    one_step = sorted(name for name in known if _ONE_STEP.fullmatch(name))
    if one_step:
        tables.append(("one step from noise", one_step, _ONE_STEP_NOTE))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    for each in tables:
        console.print(_table(*each, intervals, sees_answer))
    if ramachandran is not None:
        console.print(evaluate_backbones.told(ramachandran))
    if "confidence" in content:
        from minifold_pl.cli import evaluate_confidence

        console.print(evaluate_confidence.told(content["confidence"]))
    if data["longer_chains_left_out"]:
        console.print(
            f"{data['longer_chains_left_out']} chains longer than {data['max_length']} residues were left out"
        )


def _table(
    title: str,
    columns: Sequence[str],
    note: str,
    intervals: Mapping[str, Mapping[str, Interval]],
    sees_answer: Sequence[str],
) -> Any:
    from rich.table import Table

    table = Table(title=title, caption=note, caption_justify="left")
    table.add_column("")
    for column in columns:
        step = _ONE_STEP.fullmatch(column)
        table.add_column(f"t = {int(step[1])}" if step else column, justify="right")
    for row, by_score in intervals.items():
        if not any(column in by_score for column in columns):
            continue
        mark = " (sees the answer)" if row in sees_answer else ""
        table.add_row(
            row + mark,
            *(_interval_text(by_score.get(column)) for column in columns),
            style="dim" if mark else "bold" if row == "model" else None,
        )
    return table


def _interval_text(interval: Interval | None) -> str:
    if interval is None or interval.n == 0:
        return "–"
    if interval.low != interval.low:
        return f"{interval.mean:.3f}\nn = 1"
    return f"{interval.mean:.3f}\n{interval.low:.3f}…{interval.high:.3f}"
