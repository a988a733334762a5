"""A run folder as a training of 60 epochs leaves it: 200 samples, an evaluation, kills and faults, a hostile name."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from minifold_pl.constants import CA_ATOM
from minifold_pl.data.store import ChainStore, write_store
from minifold_pl.data.synthetic import SyntheticConfig, generate
from minifold_pl.export.names import safe_file_name
from minifold_pl.export.structure import PredictedChain, pdb_text
from minifold_pl.loggers.metrics_csv import MetricsCSV

EPOCHS, EVERY, CHAINS = 60, 6, 20
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&amp;"
"""What a name in a data set might be, by accident or not."""
_ROWS = {"model": 0.6, "another random chain": 0.2, "centroid": 0.06, "mirrored truth": 0.35, "truth": 1.0}


class MadeRun(NamedTuple):
    """The folder of the run, its evaluation, its data, and what is in them."""

    folder: Path
    evaluation: Path
    store: Path
    hostile: str = HOSTILE
    epochs: int = EPOCHS
    every: int = EVERY
    chains: int = CHAINS


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    place = tmp_path_factory.mktemp("report")
    folder, store = place / "runs" / "v13", place / "store"
    records = [*generate(SyntheticConfig(n=120, folds=8, min_length=60, max_length=100))]
    write_store(store, [replace(records[0], name=HOSTILE), *records[1:]])
    folder.mkdir(parents=True)
    config = {
        "seed_everything": 3,
        "trainer": {"max_epochs": 100},
        "model": {"class_path": "minifold_pl.modules.diffusion.DiffusionModule"},
        "data": {"path": str(store), "batch_size": 4},
        "patience": {"monitor": "val/total", "patience": 15},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    _log(folder)
    _samples(folder, ChainStore.open(store))
    _evaluate(folder / "evaluation", store)
    return MadeRun(folder, folder / "evaluation", store)


def _log(folder: Path) -> None:
    metrics, draw = MetricsCSV(folder / "metrics.csv"), np.random.default_rng(0)
    terms = ("fape", "dist", "bond", "angle", "rg", "aux")
    best, wait = np.inf, 0
    for epoch in range(EPOCHS):
        step = 100 * (epoch + 1) - 1
        fall = float(np.exp(-epoch / 25) + 0.02 * draw.standard_normal())
        values = {
            f"{kind}/{term}": fall * (k + 1) / 6 for kind in ("loss", "val") for k, term in enumerate(terms)
        }
        values |= {"loss/total": fall, "val/total": fall + 0.1, "grad/denoiser": 2 * fall, "lr/rest": 1e-3}
        best, wait = (fall, 0) if fall < best else (best, wait + 1)
        metrics.log_metrics({**values, "patience/wait": wait, "perf/steps_per_s": 3.5, "epoch": epoch}, step)
        if (epoch + 1) % EVERY == 0:
            metrics.log_metrics({"ddim/tm_score": 0.7 - 0.4 * fall, "epoch": epoch}, step)
    metrics.save()
    events: list[dict[str, Any]] = [
        {"time": "2026-03-01T10:00:00.000+00:00", "event": "started", "attempt": 1, "epoch": 0, "step": 0},
        {"time": "2026-03-01T11:00:00.000+00:00", "event": "nonfinite_batch", "attempt": 1, "epoch": 20, "step": 2000,
         "what": "loss", "chains": [HOSTILE]},
        {"time": "2026-03-01T12:00:00.000+00:00", "event": "resumed", "attempt": 2, "epoch": 20, "step": 2000},
        {"time": "2026-03-01T13:30:00.000+00:00", "event": "retry", "attempt": 2, "epoch": 40, "step": 4000,
         "signal": "SIGTERM"},
        {"time": "2026-03-01T14:00:00.000+00:00", "event": "resumed", "attempt": 3, "epoch": 40, "step": 4000},
        {"time": "2026-03-01T15:00:00.000+00:00", "event": "done", "attempt": 3, "epoch": 60, "step": 6000,
         "reason": "finished"},
    ]  # fmt: skip
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    marker = {"state": "done", "reason": "finished", "epoch": EPOCHS, "step": 100 * EPOCHS, "attempt": 3}
    (folder / "state.json").write_text(json.dumps(marker))
    with open(folder / "ddim.jsonl", "w") as stream:
        for epoch in range(EVERY, EPOCHS + 1, EVERY):
            record = {
                "epoch": epoch,
                "step": 100 * epoch,
                "chains": CHAINS,
                "steps": 50,
                "eta": 0.0,
                "seed": 0,
            }
            stream.write(json.dumps({**record, "scores": _rows(draw)}) + "\n")
        stream.write('{"epoch": 66, "sc')


def _rows(draw: np.random.Generator) -> dict[str, dict[str, dict[str, float | None]]]:
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for row, level in _ROWS.items():
        cells = {"tm_score": level, "lddt_ca": level, "gdt_ts": level, "rmsd": 12 * (1 - level)}
        found[row] = {
            name: {
                "mean": float(value + 0.01 * draw.random()),
                "low": value - 0.03,
                "high": value + 0.04,
                "n": CHAINS,
            }
            for name, value in cells.items()
        }
    for row, level in (("model", 0.8), ("Wiener smoother", 0.7)):
        for t in (25, 225, 725):
            found.setdefault(row, {})[f"x0_tm_t{t:03d}"] = {
                "mean": level * (1 - t / 1000), "low": None, "high": None, "n": 1,
            }  # fmt: skip
    return found


def _samples(folder: Path, store: ChainStore) -> None:
    draw = np.random.default_rng(1)
    for epoch in range(EVERY, EPOCHS + 1, EVERY):
        place, taken = folder / "samples" / f"epoch-{epoch:03d}", set[str]()
        place.mkdir(parents=True)
        for chain in range(CHAINS):
            record = store[chain]
            ca = record.coords[:, CA_ATOM] + draw.normal(0, 20 / epoch, (len(record.sequence), 3))
            turned = ca[:, [1, 2, 0]] + 5  # a rigid motion, so that superposing is needed
            text = pdb_text(
                PredictedChain(
                    name=record.name,
                    sequence=record.sequence,
                    coords=turned[:, None].astype(np.float32),
                    confidence=np.full(len(ca), 60.0, dtype=np.float32),
                    title="test",
                )
            )
            (place / f"{safe_file_name(record.name, taken)}.pdb").write_text(text)


def _evaluate(out: Path, store: Path) -> None:
    draw, opened = np.random.default_rng(2), ChainStore.open(store)
    out.mkdir()
    content = {
        "checkpoint": {"path": "best.ckpt", "sha256": "0" * 64, "parameters": 793240},
        "data": {
            "path": str(store),
            "provenance": dict(opened.provenance),
            "split": "test",
            "chains": CHAINS,
        },
        "settings": {"seed": 0, "steps": 50, "eta": 0.0, "guidance": 1.5, "num_samples": 2},
        "interval": "95 % percentile bootstrap over chains",
        "note": "A note.",
        "sees_answer": ["mirrored truth", "truth"],
        "rows": _rows(draw),
    }
    (out / "summary.json").write_text(json.dumps(content))
    with open(out / "per_chain.csv", "w", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["name", "length", "rmsd", "tm_score"])
        for chain in range(CHAINS):
            score = "" if chain == 3 else f"{draw.random():.6g}"
            rows.writerow([opened.name(chain), opened.lengths[chain], f"{10 * draw.random():.6g}", score])
