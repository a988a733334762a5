"""From a run folder or a checkpoint to what stands in its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from minifold_pl.checkpoint.contents import read_checkpoint, summary
from minifold_pl.report.card import checkpoint_summary, facts, find_checkpoint, open_store, read_config
from minifold_pl.report.evaluated import evaluated_files
from minifold_pl.report.figures import pictures
from minifold_pl.report.history import History, read_history
from minifold_pl.report.page import Report
from minifold_pl.report.results import RECORDS, SUMMARY, read_evaluation, read_while_training
from minifold_pl.report.structures import read_structures
from minifold_pl.results.damage import damage
from minifold_pl.run.folder import RunFolder

SAMPLES: Final = 200
"""Structures in a report where nobody says otherwise."""


class NothingToReport(ValueError):
    """What was given is neither a run folder nor a checkpoint."""


def gather(
    given: Path,
    *,
    evaluations: Sequence[Path] = (),
    samples: Sequence[Path] = (),
    data: Path | None = None,
    limit: int = SAMPLES,
) -> Report:
    """Read everything that a report shows; nothing is written.

    Args:
        given: A run folder, or a checkpoint, whose run is told of too where it lies in a run folder.
        evaluations: Folders that ``evaluate`` wrote, besides those in the run folder.
        samples: Folders of PDB files, besides ``samples/`` of the run folder.
        data: The data set with the truths; the run's own where None.
        limit: Structures at most.

    Raises:
        NothingToReport: ``given`` does not exist or is neither.
        CheckpointError: ``given`` is a file, but no sound checkpoint.
        ValueError: An evaluation or the data set cannot be read.
    """
    folder, checkpoint = _place(given)
    config, text = read_config(folder) if folder is not None else ({}, "")
    damaged = [] if folder is None else damage(folder)
    held, broken = None, ""
    if checkpoint is None and folder is not None:
        checkpoint = find_checkpoint(folder)
        if checkpoint is not None:
            held, broken = checkpoint_summary(checkpoint)
        if broken:
            damaged.append(f"The checkpoint is damaged, and what needs its model is left out: {broken}.")
    else:
        assert checkpoint is not None
        held = summary(read_checkpoint(checkpoint))
    if not config and held is not None:
        config = {"model": held.model_config, "data": held.data_config}
    history = None if folder is None else read_history(folder)
    base = folder or RunFolder(given.parent)
    store, why_not = open_store(config, base, data)
    places = _evaluations(folder, evaluations)
    found, sound = [], []
    named = {path.resolve() for path in evaluations}
    for path in places:
        try:
            found.append(read_evaluation(path))
            sound.append(path)
            damaged += [found[-1].damage] * bool(found[-1].damage)
        except ValueError as error:
            if path.resolve() in named or (path / SUMMARY).resolve() in named:
                raise
            damaged.append(f"An evaluation is left out: {error}.")
    if folder is not None:
        found += reversed(read_while_training(folder.path / RECORDS))
    sampled = [*samples, *([folder.samples] if folder is not None and folder.samples.is_dir() else [])]
    evaluated = [one for path in sound for one in evaluated_files(path)]
    chains, told = read_structures(sampled, store, limit, evaluated=evaluated)
    notes = [*damaged, *told]
    if store is None and chains:
        notes.append(f"Samples are shown without their truth: {why_not}.")
    if not found:
        notes.append("No scores yet: minifold-pl evaluate --ckpt … --data … --out … writes them.")
    synthetic = any(one.synthetic for one in found) or (store is not None and "synthetic" in store.provenance)
    return Report(
        name=given.resolve().name if folder is None else folder.path.resolve().name,
        kind="run report" if given.is_dir() else "checkpoint report",
        source=str(given),
        lead=_lead(config, history, held.stage if held is not None else None),
        facts=facts(folder, config, history, checkpoint, held, store),
        notes=notes,
        synthetic=synthetic,
        results=found,
        chains=chains,
        history=history,
        figures=pictures(folder, sound, chains),
        config_text=text,
        checkpoint=None if broken else checkpoint,
        store=store,
        samples=sampled,
        evaluations=sound,
    )


def _place(given: Path) -> tuple[RunFolder | None, Path | None]:
    if given.is_dir():
        folder = RunFolder(given)
        if not (folder.exists() or folder.metrics.is_file()):
            raise NothingToReport(
                f"{given} is no run folder: neither config.yaml, nor checkpoints/, nor metrics.csv lies in it"
            )
        return folder, None
    if not given.is_file():
        raise NothingToReport(f"{given} does not exist; give a run folder or a checkpoint")
    run = RunFolder(given.resolve().parent.parent)
    return (run if given.resolve().parent == run.checkpoints and run.config.is_file() else None), given


def _evaluations(folder: RunFolder | None, named: Sequence[Path]) -> list[Path]:
    """Folders of evaluations: those that were named, then those in the run folder, the newest first."""
    paths = [path.parent if path.name == SUMMARY else path for path in named]
    if folder is not None:
        written = {path: path.stat().st_mtime for path in sorted(folder.path.glob(f"*/{SUMMARY}"))}
        paths += [path.parent for path in sorted(written, key=lambda path: -written[path])]
    return list({path.resolve(): path for path in paths}.values())


def _lead(config: Mapping[str, Any], history: History | None, stage: str | None) -> str:
    what = {"diffusion": "A diffusion model of protein structure", "contact": "A contact classifier"}
    words = what.get(stage or "", "A run") + (" that reads sequences" if stage == "contact" else "")
    if history is None or not history.epoch:
        return f"{words}."
    begun = f"{words}, trained for {history.epoch} epochs ({history.step:,} steps)"
    state = {
        "done": "The run is done",
        "halted": "The run has halted",
        "stopped": "The run was stopped",
        "running": "The run goes on",
    }.get(history.state)
    reason = f": {history.reason}" if state and history.reason not in ("", "finished") else ""
    return f"{begun}. {state}{reason}." if state else f"{begun}."
