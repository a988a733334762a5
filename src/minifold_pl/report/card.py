"""What a run is: the facts that come first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from minifold_pl.checkpoint.contents import CheckpointError, CheckpointSummary, read_checkpoint, summary
from minifold_pl.checkpoint.manifest import read_manifest
from minifold_pl.data.store import ChainStore
from minifold_pl.report.history import History
from minifold_pl.results.run_data import places_of_data
from minifold_pl.run.events import read_events
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.kept import read_identity

BEST = "best.ckpt"


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One line of the card."""

    name: str
    value: str
    note: str = ""


def read_config(folder: RunFolder) -> tuple[dict[str, Any], str]:
    """The run's settings and their text; empty where they are missing or damaged."""
    try:
        text = folder.config.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}, ""
    return (content, text) if isinstance(content, dict) else ({}, "")


def find_checkpoint(folder: RunFolder) -> Path | None:
    """The best checkpoint, else the newest one, as their names tell."""
    best = folder.checkpoints / BEST
    if best.is_file():
        return best
    return max(folder.checkpoints.glob("resume-*.ckpt"), default=None, key=lambda path: path.name)


def open_store(
    config: Mapping[str, Any], folder: RunFolder, given: Path | None
) -> tuple[ChainStore | None, str]:
    """The data of a run and, where they cannot be opened, why.

    Args:
        config: The run's settings; of a relative path see :func:`~minifold_pl.results.run_data.places_of_data`.
        folder: The run folder.
        given: The data set to take instead.

    Raises:
        ValueError: ``given`` is no sound data set.
    """
    if given is not None:
        return ChainStore.open(given), ""
    named = (config.get("data") or {}).get("path")
    if not named:
        return None, "the run does not say what data it was trained on"
    why = f"{named} is not here"
    for path in places_of_data(named, folder.path):
        try:
            return ChainStore.open(path), ""
        except (ValueError, OSError) as error:
            if path.is_dir():
                why = str(error)
    return None, f"{why}; --data says where it is"


def checkpoint_summary(path: Path) -> tuple[CheckpointSummary | None, str]:
    """What a checkpoint holds, or why that cannot be said."""
    try:
        return summary(read_checkpoint(path)), ""
    except (CheckpointError, OSError) as error:
        return None, str(error)


def facts(
    folder: RunFolder | None,
    config: Mapping[str, Any],
    history: History | None,
    checkpoint: Path | None,
    held: CheckpointSummary | None,
    store: ChainStore | None,
) -> list[Fact]:
    """The lines of the card; what is not known is left out."""
    found = []
    if history is not None:
        found += _course(history, config)
    model = str((config.get("model") or {}).get("class_path", "") or (held.model if held else "") or "")
    if model:
        counted = f"{held.total:,} parameters" if held else ""
        found.append(Fact(name="Model", value=model.rsplit(".", 1)[-1], note=counted))
    if store is not None or config.get("data"):
        found.append(_data(store, config))
    if folder is not None and (code := _code(folder)):
        found.append(code)
    elif held is not None and held.version:
        found.append(
            Fact(name="Code", value=f"minifold-pl {held.version}", note=f"lightning {held.lightning}")
        )
    if checkpoint is not None:
        found.append(_checkpoint(checkpoint, held))
    if settings := _settings(config):
        found.append(settings)
    return found


def duration(seconds: float) -> str:
    """``3 d 4 h``, ``2 h 05 min``, ``4 min 12 s``, ``8 s``."""
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{whole} s"


def _course(history: History, config: Mapping[str, Any]) -> list[Fact]:
    limit = (config.get("trainer") or {}).get("max_epochs")
    of = f" of at most {limit}" if isinstance(limit, int) and limit > 0 else ""
    found = [
        Fact(name="Trained", value=f"{history.epoch} epochs{of}", note=f"{history.step:,} optimizer steps")
    ]
    if history.starts:
        spent = "" if history.seconds is None else f"{duration(history.seconds)} of training"
        found.append(Fact(name="Begun", value=_when(history.starts[0].began), note=spent))
    ends = ", ".join(f"{count} × {name}" for name, count in history.ends.items())
    found.append(
        Fact(name="Resumed", value=f"{history.resumes} times" if history.resumes else "never", note=ends)
    )
    faults = sum(count for _, count in history.faults)
    words = "; ".join(f"{count} × {name}" for name, count in history.faults)
    found.append(Fact(name="Faults survived", value=str(faults) if faults else "none", note=words))
    return found


def _when(time: str) -> str:
    return time[:16].replace("T", " ") + " UTC" if len(time) >= 16 else time


def _data(store: ChainStore | None, config: Mapping[str, Any]) -> Fact:
    named = str((config.get("data") or {}).get("path", ""))
    if store is None:
        return Fact(name="Data", value=named)
    counts = ", ".join(
        f"{count:,} {split}"
        for split in ("train", "validation", "test")
        if (count := len(store.indices(split)))
    )
    kind = "synthetic " if "synthetic" in store.provenance else ""
    return Fact(
        name="Data", value=f"{len(store):,} {kind}chains", note=f"{counts or 'no splits'} · {store.path}"
    )


def _code(folder: RunFolder) -> Fact | None:
    code = read_identity(folder).get("code")
    if not isinstance(code, Mapping):
        code = next(
            (event["code"] for event in read_events(folder.events) if isinstance(event.get("code"), Mapping)),
            None,
        )
    if code is None:
        return None
    commit, changed = str(code.get("commit") or "")[:10], code.get("changed")
    where = f" · {commit}{' with changes' if changed else ''}" if commit else ""
    libraries = code.get("libraries") or {}
    versions = ", ".join([f"Python {code.get('python')}", *(f"{k} {v}" for k, v in libraries.items())])
    return Fact(name="Code", value=f"minifold-pl {code.get('package')}{where}", note=versions)


def _checkpoint(path: Path, held: CheckpointSummary | None) -> Fact:
    if held is None:
        return Fact(name="Checkpoint", value=f"{path.name}: damaged", note="nothing of it can be shown")
    # The bytes were checked against it when the checkpoint was read.
    manifest = read_manifest(path)
    digest = "" if manifest is None else f"sha256 {manifest.content.sha256[:12]}…"
    at = f"step {held.step:,}, epoch {held.epoch + 1}"
    if held.ema:
        at += ", averaged weights"
    return Fact(name="Checkpoint", value=path.name, note=" · ".join(part for part in (at, digest) if part))


def _settings(config: Mapping[str, Any]) -> Fact | None:
    if not config:
        return None
    trainer, data, patience = (config.get(name) or {} for name in ("trainer", "data", "patience"))
    named = {
        "batch size": data.get("batch_size"),
        "accumulated": trainer.get("accumulate_grad_batches"),
        "precision": trainer.get("precision"),
        "patience": patience.get("patience"),
    }
    told = ", ".join(f"{name} {value}" for name, value in named.items() if value not in (None, "", 1))
    return Fact(name="Settings", value=f"seed {config.get('seed_everything')}", note=told)
