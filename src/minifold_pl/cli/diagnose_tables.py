"""What ``diagnose`` found, as plain values for JSON and as tables."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from minifold_pl.checkpoint.atomic import HashingWriter, atomic_write
from minifold_pl.cli.errors import UserError
from minifold_pl.cli.output_file import check_folder
from minifold_pl.diagnostics.gradients import ALIGNED, ALL, GradientReport, verdict
from minifold_pl.diagnostics.noise import FLOOR, MODEL
from minifold_pl.diagnostics.overfit import LOSS as TOTAL
from minifold_pl.diagnostics.overfit import MIRROR, TM, OverfitPoint, OverfitResult
from minifold_pl.diagnostics.sequence import sequence_gains
from minifold_pl.diagnostics.sequence import verdict as sequence_verdict
from minifold_pl.diagnostics.steps import LOSS, RMSD, StepScores
from minifold_pl.diagnostics.steps import TM as TM_KABSCH
from minifold_pl.diffusion.schedule import CosineSchedule
from minifold_pl.metrics.bootstrap import Interval, bootstrap_interval
from minifold_pl.modules.sequence_controls import MASKED, REAL
from minifold_pl.types import ProteinBatch

_INTERVAL_NOTE = "mean [95 % bootstrap interval over chains]"
_SHOWN = (
    TOTAL, TM, MIRROR, "rmsd", "class", "architecture", "contact", "contact_recall", "precision_long_L5",
    "precision_medium_L5",
)  # fmt: skip
"""Columns of ``overfit``, of either stage; JSON has every value."""
_PLOTS = (".png", ".svg", ".pdf")


# --- noise -----------------------------------------------------------------------------------------


def noise_content(found: StepScores, schedule: CosineSchedule) -> dict[str, Any]:
    """Model and floor at each timestep, with the paired difference of their TM."""
    import torch

    model, floor = found.rows[MODEL], found.rows[FLOOR]
    gains = [bootstrap_interval(g) for g in model[TM_KABSCH] - floor[TM_KABSCH]]
    levels = [
        {
            "t": t,
            "snr": float(schedule.snr(torch.tensor(t), torch.float64)),
            "gain": gain._asdict(),
            "share_above_floor": float((model[TM_KABSCH][k] > floor[TM_KABSCH][k]).double().mean()),
            "rows": {row: _intervals(scores, k) for row, scores in found.rows.items()},
        }
        for k, (t, gain) in enumerate(zip(found.times, gains, strict=True))
    ]
    return {"verdict": _noise_verdict(found.times, gains), "levels": levels, **_per_chain(found)}


def _noise_verdict(times: Sequence[int], gains: Sequence[Interval]) -> str:
    better = [t for t, gain in zip(times, gains, strict=True) if gain.low > 0]
    worse = [t for t, gain in zip(times, gains, strict=True) if gain.high < 0]
    told = "better than a smoother that knows no sequence at t = " + _listed(better) if better else (
        "nowhere better than a smoother that knows no sequence"
    )  # fmt: skip
    return told + (f"; worse at t = {_listed(worse)}" if worse else "")


def show_noise(content: Mapping[str, Any]) -> None:
    """The table, and the verdict."""
    table = _table(content, "one step from timestep t")
    for column in ("SNR", "TM model", "TM smoother", "gain", "above", "RMSD", "loss"):
        table.add_column(column, justify="right", no_wrap=True)
    for level in content["levels"]:
        model, floor = (level["rows"][row] for row in (MODEL, FLOOR))
        gain = Interval(**level["gain"])
        table.add_row(
            str(level["t"]),
            f"{level['snr']:.3g}",
            _text(model[TM_KABSCH]),
            _text(floor[TM_KABSCH]),
            _text(level["gain"], sign=True),
            f"{level['share_above_floor']:.0%}",
            f"{model[RMSD]['mean']:.2f} ({floor[RMSD]['mean']:.2f})",
            f"{model[LOSS]['mean']:.3f} ({floor[LOSS]['mean']:.3f})",
            style="green" if gain.low > 0 else "red" if gain.high < 0 else None,
        )
    note = (
        f"{_INTERVAL_NOTE}; TM and RMSD (Å) at the pose of least RMSD, loss: the structural terms at final weights; "
        "in brackets the smoother's. gain: TM of the model − TM of the smoother, paired; above: share of chains where "
        "it is above 0."
    )
    _print(table, note, content["verdict"])


def check_plot(path: Path) -> None:
    """See that a figure can be drawn before the work begins.

    Raises:
        UserError: matplotlib is missing, it is no kind of figure, or its folder cannot be written.
    """
    if path.suffix not in _PLOTS:
        raise UserError(f"--plot {path}: give a name that ends in one of {', '.join(_PLOTS)}", exit_code=2)
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(
            "--plot needs matplotlib: install it (pip install matplotlib), or leave --plot out", exit_code=2
        )
    check_folder("--plot", path)


def plot_noise(path: Path, content: Mapping[str, Any]) -> None:
    """TM of model and smoother over the timesteps, with their intervals: the figure of ``plot xt``."""
    from minifold_pl.plots.one_step import one_step_figure
    from minifold_pl.plots.style import picture
    from minifold_pl.results.one_step import scores_of_noise

    scores = scores_of_noise(content)
    drawn = picture(one_step_figure(scores.curves, about=scores.about), path.suffix[1:])  # type: ignore[arg-type]  # checked

    def write(file: HashingWriter) -> None:
        file.write(drawn)

    try:
        atomic_write(path, write)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


# --- sequence --------------------------------------------------------------------------------------


def sequence_content(found: StepScores, *, p_uncond: float) -> dict[str, Any]:
    """Losses and TM with each sequence, and what the real one gains."""
    gains = sequence_gains(found)
    told = sequence_verdict(gains, float(found.rows[REAL][LOSS].mean()))
    if p_uncond == 0 and MASKED in gains:
        told += ". MASK sequences were never trained (p_uncond 0): their row says less"
    rows = {
        row: {score: bootstrap_interval(_by_chain(values))._asdict() for score, values in scores.items()}
        for row, scores in found.rows.items()
    }
    return {
        "verdict": told,
        "times": found.times,
        "rows": rows,
        "gains": {row: gain._asdict() for row, gain in gains.items()},
        **_per_chain(found),
    }


def show_sequence(content: Mapping[str, Any]) -> None:
    """The table, and the verdict."""
    table = _table(content, "sequence")
    for column in ("loss", "gain of the real one", "of its loss", "TM", "RMSD"):
        table.add_column(column, justify="right", no_wrap=True)
    real = content["rows"][REAL][LOSS]["mean"]
    for row, cells in content["rows"].items():
        gain = content["gains"].get(row)
        table.add_row(
            row,
            _text(cells[LOSS]),
            "" if gain is None else _text(gain, sign=True),
            "" if gain is None else f"{gain['mean'] / real:+.1%}",
            _text(cells[TM_KABSCH]),
            f"{cells[RMSD]['mean']:.2f}",
        )
    note = (
        f"{_INTERVAL_NOTE}, each a mean over t = {_listed(content['times'])}. loss: the structural terms at final "
        "weights; gain: loss with the wrong sequence − loss with the real one, paired by chain, from the same noise."
    )
    _print(table, note, content["verdict"])


# --- gradients -------------------------------------------------------------------------------------


def gradient_content(report: GradientReport) -> dict[str, Any]:
    """Norms of every term and cosines of every pair, by module."""
    cosines = [
        {
            "terms": list(pair),
            "verdict": verdict(by_module[ALL].cosine),
            "modules": {
                name: {"cosine": found.cosine, "by_batch": found.by_batch._asdict()}
                for name, found in by_module.items()
            },
        }
        for pair, by_module in report.cosines.items()
    ]
    competing = [
        " vs ".join(pair) for pair, by_module in report.cosines.items()
        if verdict(by_module[ALL].cosine) == "competing" and all(report.weights[term] > 0 for term in pair)
    ]  # fmt: skip
    return {
        "verdict": f"competing: {', '.join(competing)}"
        if competing
        else "no pair of terms with a weight competes",
        "modules": report.modules,
        "frozen": report.frozen,
        "weights": report.weights,
        "norms": report.norms,
        "cosines": cosines,
        "chain_names": report.chains,
    }


def show_gradients(content: Mapping[str, Any]) -> None:
    """Two tables: norms, and cosines."""
    modules = content["modules"]
    norms = _table(content, "norm of the gradient")
    for column in ("weight", *modules):
        norms.add_column(column, justify="right", no_wrap=True)
    for term, by_module in content["norms"].items():
        cells = (f"{by_module[name]:.3g}" if name in by_module else "–" for name in modules)
        norms.add_row(term, f"{content['weights'][term]:g}", *cells)
    frozen = f" Frozen, so without gradient: {', '.join(content['frozen'])}." if content["frozen"] else ""
    _print(norms, f"unweighted; – where a term does not reach.{frozen}")

    shared = [name for name in modules if any(name in pair["modules"] for pair in content["cosines"])]
    table = Table(title="cosine of gradients", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("loss pair", no_wrap=True)
    for column in (*shared, ALL, "single batches", "verdict"):
        table.add_column(column, justify="right", no_wrap=True)
    for pair in content["cosines"]:
        found = pair["modules"]
        table.add_row(
            " vs ".join(pair["terms"]),
            *(f"{found[name]['cosine']:+.2f}" if name in found else "–" for name in (*shared, ALL)),
            _text(found[ALL]["by_batch"], digits=2, sign=True),
            pair["verdict"],
            style={"competing": "red", "aligned": "green"}.get(pair["verdict"]),
        )
    note = (
        "Of mean gradients over all chains, on the parameters that both terms reach; single batches: mean [95 % "
        f"interval] of the cosines within one batch, which noise draws to 0. Aligned from {ALIGNED:+g}, competing "
        f"from {-ALIGNED:+g}."
    )
    _print(table, note, content["verdict"])


# --- overfit ---------------------------------------------------------------------------------------


def overfit_content(result: OverfitResult, batch: ProteinBatch) -> dict[str, Any]:
    """Every measurement, and what they say."""
    chains = [
        {"name": n, "length": length} for n, length in zip(batch.names, batch.lengths.tolist(), strict=True)
    ]
    return {
        "verdict": result.verdict(),
        "chains": chains,
        "skipped_steps": result.skipped,
        "points": [{"step": p.step, "seconds": round(p.seconds, 3), **p.values} for p in result.points],
    }


def say_point(point: OverfitPoint) -> None:
    """A line for each measurement, while it goes on."""
    shown = [f"{name} {point.values[name]:.3f}" for name in (TOTAL, TM) if name in point.values]
    print(f"step {point.step:>5}  {point.seconds:6.1f} s  {'  '.join(shown)}", file=sys.stderr, flush=True)


def show_overfit(content: Mapping[str, Any]) -> None:
    """The measurements as a table."""
    points = content["points"]
    steps = sorted(name for name in points[0] if name.startswith("one_step_tm_"))
    chosen = [n for n in (*_SHOWN, *steps) if n in points[0]]
    table = _table(content, "step")
    table.add_column("seconds", justify="right")
    for name in chosen:
        table.add_column(name.removeprefix("one_step_"), justify="right")
    for point in points:
        cells = (f"{point[name]:.4g}" if name in point else "–" for name in chosen)
        table.add_row(str(point["step"]), f"{point['seconds']:.0f}", *cells)
    listed = ", ".join(f"{chain['name']} ({chain['length']} residues)" for chain in content["chains"])
    note = f"Trained on {listed}. loss: the total at final weights, on fixed noise."
    if TM in points[0]:
        note += (
            " tm_score and rmsd (Å): full-length samples against the truth, tm_to_mirror: against its mirror image; "
            "tm_t475: one step from t = 475. TM maximised over superpositions."
        )
    _print(table, note, content["verdict"])


# --- shared ----------------------------------------------------------------------------------------


def _by_chain(values: Tensor) -> Tensor:
    return values.nanmean(0)


def _intervals(scores: Mapping[str, Tensor], k: int) -> dict[str, dict[str, float]]:
    return {score: bootstrap_interval(values[k])._asdict() for score, values in scores.items()}


def _per_chain(found: StepScores) -> dict[str, Any]:
    return {
        "per_chain": {
            "names": found.chains,
            "times": found.times,
            "rows": {
                row: {score: scores[score].tolist() for score in (TM_KABSCH, RMSD, LOSS)}
                for row, scores in found.rows.items()
            },
        }
    }


def _counted(chains: int) -> str:
    return f"n = {chains} chain{'s' if chains != 1 else ''}"


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _text(cell: Mapping[str, float], *, digits: int = 3, sign: bool = False) -> str:
    if not cell["n"]:
        return "–"
    plus = "+" if sign else ""
    mean, low, high = (f"{cell[name]:{plus}.{digits}f}" for name in ("mean", "low", "high"))
    return mean if cell["n"] == 1 else f"{mean} [{low}, {high}]"


def _table(content: Mapping[str, Any], first: str) -> Table:
    data, checkpoint = content["data"], content["checkpoint"]
    synthetic = "SYNTHETIC data, " if "synthetic" in data["provenance"] else ""
    if checkpoint is None:
        model = f"fresh weights of {content['config']}"
    else:
        model = f"{checkpoint['weights']} weights of {checkpoint['sha256'][:12]}, step {checkpoint['step']}"
    title = f"{synthetic}{data['split']}: {_counted(data['chains'])} · {model} · seed {content['settings']['seed']}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    return table


def _print(table: Table, note: str, told: str | None = None) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        # Where there is no terminal nothing says how wide to be, and 80 columns would cut the intervals.
        console = Console(width=160, highlight=False)
    console.print(table)
    console.print(note, style="dim")
    if told is not None:
        console.print(told, style="bold")
