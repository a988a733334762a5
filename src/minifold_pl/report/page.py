"""The HTML file: data, structures and the viewer's library packed into one page."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import jinja2
import numpy as np
from markupsafe import Markup

import minifold_pl
from minifold_pl.data.store import ChainStore
from minifold_pl.report import results
from minifold_pl.report.card import Fact, duration
from minifold_pl.report.figures import Picture
from minifold_pl.report.history import History
from minifold_pl.report.results import MODEL, Results
from minifold_pl.report.structures import Chain

_MAIN_COLUMNS: Final = (
    "loss/total", "val/total", "val/fape", "val/dist", "val/score", "ddim/tm_score", "ddim/tm_kabsch", "ddim/rmsd",
    "ddim/lddt_ca", "val/precision_long_L", "val/precision_long_L5", "val/class_accuracy",
)  # fmt: skip
"""Of the table of epochs; the others on demand."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that stands in the page."""

    name: str
    kind: str
    """``run report`` or ``checkpoint report``."""
    source: str
    lead: str
    facts: Sequence[Fact]
    notes: Sequence[str]
    """What is missing, and why."""
    synthetic: bool
    results: Sequence[Results]
    """What comes first is shown first."""
    chains: Sequence[Chain]
    history: History | None
    figures: Sequence[Picture]
    config_text: str
    checkpoint: Path | None
    """What was reported on, or the run's best one; figures that need a model are made with it."""
    store: ChainStore | None
    samples: Sequence[Path]
    """Folders of the structures."""
    evaluations: Sequence[Path] = ()
    """Folders of sound evaluations."""


class LibraryMissing(RuntimeError):
    """The package that has the viewer's library is not installed."""


def page(report: Report) -> str:
    """The whole file.

    Raises:
        LibraryMissing: The extra ``report`` is not installed.
    """
    tables = _tables(report)
    texts = {f"figure:{figure.name}": figure.dark for figure in report.figures}
    chains = [_chain(chain, place, texts) for place, chain in enumerate(report.chains)]
    data = {
        "results": [_result(result) for result in report.results],
        "tables": tables,
        "chains": chains,
    }
    epochs = report.history.epochs if report.history else ()
    columns = report.history.columns if report.history else ()
    main = [name for name in _MAIN_COLUMNS if name in columns]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("minifold_pl.report", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html.jinja").render(
        version=minifold_pl.__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        name=report.name,
        kind=report.kind,
        source=report.source,
        lead=report.lead,
        facts=report.facts,
        notes=report.notes,
        synthetic=report.synthetic,
        tiles=_tiles(report.results[0]) if report.results else [],
        results=report.results,
        chains=chains,
        sample_count=sum(len(chain.samples) for chain in report.chains),
        has_truth=any(chain.truth for chain in report.chains),
        tables=tables,
        figures=[_figure(figure) for figure in report.figures],
        history=report.history,
        epoch_columns=[*main, *(name for name in columns if name not in main)] if epochs else [],
        main_columns=main,
        config_text=report.config_text,
        label=results.label,
        number=number,
        score_text=score_text,
        duration=duration,
        row_kind=_row_kind,
        style=Markup(_asset("style.css")),
        script=Markup(f"{_asset('page.js')}\n{_asset('viewer.js')}"),
        data=Markup(json_in_script(data)),
        pack=_packed(json.dumps(texts)),
        library=_packed(_viewer_library()) if chains else "",
    )


def score_text(value: float) -> str:
    """A score as ``evaluate`` shows it."""
    return f"{value:.3f}"


def number(value: float) -> str:
    """Any logged value: three decimals; whole, large and tiny numbers as they are best read."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if float(value).is_integer() and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.4g}" if abs(value) >= 1000 or abs(value) < 0.0005 else f"{value:.3f}"


def json_in_script(value: Any) -> str:
    """JSON that no text in it can end the script element of; NaN and infinities become null."""
    text = json.dumps(_strict(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _strict(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _packed(text: str) -> str:
    """Gzip in base64: letters that mean nothing in HTML."""
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=9, mtime=0)).decode()


def _asset(name: str) -> str:
    return files("minifold_pl.report").joinpath("page", name).read_text(encoding="utf-8")


def _viewer_library() -> str:
    try:
        import plotly
    except ImportError as error:
        raise LibraryMissing(
            "the 3-D viewer's library is not installed: pip install 'minifold-pl[report]'"
        ) from error
    return (Path(plotly.__file__).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


# --- results ---------------------------------------------------------------------------------------


def _row_kind(result: Results, row: str) -> str:
    if row in result.sees_answer:
        return "answer"
    return "model" if row.startswith(MODEL) else "baseline"


def _tiles(result: Results) -> list[dict[str, Any]]:
    found = []
    for score in result.headlines:
        cell = result.rows[MODEL][score]
        mean, low, high, count = (cell.get(name) for name in ("mean", "low", "high", "n"))
        if mean is None:
            continue
        higher = results.higher_is_better(score)
        best = result.best_baseline(score)
        found.append(
            {
                "label": results.label(score),
                "score": score,
                "raw": json.dumps(mean),
                "value": score_text(mean),
                "range": f"{score_text(low)}–{score_text(high)}"
                if low is not None and high is not None
                else "",
                "n": count,
                "arrow": "" if higher is None else "↑" if higher else "↓",
                "better": "" if higher is None else "higher is better" if higher else "lower is better",
                "baseline": score_text(best[1]) if best else "",
                "baseline_row": best[0] if best else "",
                "wins": best is not None and (mean > best[1] if higher else mean < best[1]),
            }
        )
    return found


def _result(result: Results) -> dict[str, Any]:
    return {
        "scores": [
            {"name": name, "label": results.label(name), "higher": results.higher_is_better(name)}
            for name in result.scores
        ],
        "rows": [
            {
                "name": row,
                "kind": _row_kind(result, row),
                "cells": {
                    score: [cell.get("mean"), cell.get("low"), cell.get("high"), cell.get("n")]
                    for score, cell in cells.items()
                    if cell.get("mean") is not None
                },
            }
            for row, cells in result.rows.items()
        ],
    }


def _tables(report: Report) -> list[dict[str, Any]]:
    """Tables of chains: those of evaluations, then the newest sample of each chain."""
    found = [
        _table(
            result.title,
            [dict(row) for row in result.per_chain],
            f"From per_chain.csv beside {result.source}.",
        )
        for result in report.results
        if result.per_chain
    ]
    sampled = [
        {
            "name": chain.name,
            "length": chain.length,
            **chain.samples[-1].scores,
            "structures": len(chain.samples),
        }
        for chain in report.chains
        if chain.samples[-1].scores
    ]
    if sampled:
        note = "Of the newest sample of each chain that is shown above, computed from its PDB file."
        found.append(_table("Samples shown above", sampled, note))
    return found


def _table(title: str, rows: Sequence[Mapping[str, Any]], note: str) -> dict[str, Any]:
    found = dict.fromkeys(name for row in rows for name in row)
    first = [name for name in ("name", "length", "structures", *results.HEADLINES) if name in found]
    columns = list(dict.fromkeys([*first, *found]))
    return {
        "title": title,
        "note": note,
        "columns": [
            {
                "name": name,
                "label": results.label(name),
                "higher": results.higher_is_better(name),
                "whole": all(
                    float(v).is_integer() for row in rows if isinstance(v := row.get(name), int | float)
                )
                and not results.higher_is_better(name),
            }
            for name in columns
        ],
        "rows": [[row.get(name) for name in columns] for row in rows],
    }


# --- structures and figures ------------------------------------------------------------------------


def _chain(chain: Chain, place: int, texts: dict[str, str]) -> dict[str, Any]:
    samples = []
    for k, sample in enumerate(chain.samples):
        key = f"sample:{place}:{k}"
        texts[key] = sample.pdb
        samples.append(
            {
                "id": key,
                "made": sample.made,
                "file": sample.file,
                "motion": sample.motion,
                "scores": sample.scores,
            }
        )
    if chain.truth:
        texts[f"truth:{place}"] = chain.truth
    return {
        "name": chain.name,
        "file": chain.file,
        "length": chain.length,
        "truth": f"truth:{place}" if chain.truth else "",
        "factors": chain.factors,
        "view": _view(chain.shape),
        "samples": samples,
    }


def _view(shape: np.ndarray) -> list[list[float]]:
    """From where to look, and what is up: along the chain's shortest axis, its longest one across."""
    known = shape[np.isfinite(shape).all(-1)]
    if len(known) < 4:
        return [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    _, _, axes = np.linalg.svd(known - known.mean(0), full_matrices=False)
    return [[round(float(x), 4) for x in axis] for axis in (axes[2], axes[1])]


def _figure(figure: Picture) -> dict[str, Any]:
    encoded = base64.b64encode(figure.light.encode()).decode()
    return {
        "id": figure.name,
        "light": f"data:image/svg+xml;base64,{encoded}",
        "alt": figure.title,
        "caption": figure.caption,
        "width": figure.width,
        "height": figure.height,
    }
