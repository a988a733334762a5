"""How ``fit`` enters a run folder: alone, with the same settings, from the newest whole checkpoint."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

from minifold_pl.callbacks.exact_resume import METRICS_KEY
from minifold_pl.checkpoint.contents import read_checkpoint
from minifold_pl.checkpoint.newest import find_newest
from minifold_pl.cli.errors import UserError
from minifold_pl.cli.run_config import RunConfig
from minifold_pl.run import stop
from minifold_pl.run.begin import already_done, begin
from minifold_pl.run.events import append_event, read_events
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.halt import RunHalted
from minifold_pl.run.lease import FolderInUse, Lease, acquire, owner_of
from minifold_pl.run.marker import Marker, RunState, read_marker, write_marker
from minifold_pl.run.owner import this_owner
from minifold_pl.run.starts import begin_start, forget_starts

_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK")
"""Where launchers say which process this is; Lightning reads the same."""


class AlreadyDone(Exception):
    """There is nothing left to do in this run."""


@dataclass(frozen=True, kw_only=True)
class Entered:
    """A run folder that this process may train in."""

    checkpoint: Path | None
    """Where to go on from; None for a run that begins."""
    step: int
    """Optimizer steps in it."""
    metrics: Mapping[str, Any] | None
    """State of the metrics' file in it."""
    lease: Lease | None
    """The right to write to the folder; on the first process only."""


class _Origin(NamedTuple):
    """What a start has to know of the checkpoint that it goes on from, read once: it may be half a gigabyte."""

    path: Path | None
    step: int = 0
    finished_epochs: int = 0
    metrics: Mapping[str, Any] | None = None


def enter(
    folder: RunFolder, run: RunConfig, config: Mapping[str, Any], chosen: Path | None, exits: ExitStack
) -> Entered:
    """Enter a run folder.

    The first process of a run takes the folder's lease before it reads anything there, because an owner that is
    about to end may still write; then it checks that the run may go on.

    Args:
        folder: The run folder.
        run: Settings of this start.
        config: All settings, as they are to be kept.
        chosen: A checkpoint given by the user instead of the folder's newest.
        exits: Gives the folder back when it is closed.

    Raises:
        AlreadyDone: The run is done and no setting asks for more.
        RunEnded: Somebody else trains here, the run halted, or its settings have changed.
        RunInterrupted: A stop signal came while waiting.
        UserError: No checkpoint of the folder is whole.
        CheckpointError: ``chosen`` cannot be read; nothing was touched.
    """
    given = None if chosen is None else _read(chosen)
    if given is None:
        done = already_done(folder, config)
        if done is not None:
            raise AlreadyDone(f"{folder.path} is done: {done.reason} (step {done.step}); nothing to do")
    if not is_first_process():
        _wait_for_the_first(folder, run.wait)
        origin = given or _read(newest_whole(folder))
        return Entered(checkpoint=origin.path, step=origin.step, metrics=origin.metrics, lease=None)
    try:
        lease = acquire(folder, wait=run.wait, told=lambda line: print(line, flush=True))
    except FolderInUse as error:
        raise FolderInUse(
            f"{error.reason}; wait for it with --run.wait SECONDS, or take another folder with --run.dir or --fresh"
        ) from error
    exits.callback(lease.release)
    origin = given or _read(newest_whole(folder))
    before = read_marker(folder.marker)
    _refuse_a_lower_limit(config, origin)
    if origin.path is None and before is not None and before.step > 0:
        told = f"no checkpoint is left in {folder.checkpoints}, though the run has been at step {before.step}"
        print(f"{told}: it begins anew", file=sys.stderr, flush=True)
        append_event(folder.events, "checkpoints_missing", was_at=before.step)
    begin(
        folder,
        config,
        trained=origin.path is not None,
        accept_changes=run.accept_changes,
        after_halt=run.after_halt,
        after_stop=run.after_stop,
        told=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if before is not None and before.state is RunState.HALTED:
        forget_starts(folder.starts)
    _count_start(folder, origin.step, run.max_fruitless_starts)
    return Entered(checkpoint=origin.path, step=origin.step, metrics=origin.metrics, lease=lease)


def _read(checkpoint: Path | None) -> _Origin:
    if checkpoint is None:
        return _Origin(None)
    content = read_checkpoint(checkpoint)
    loops = content.get("loops") or {}
    return _Origin(
        path=checkpoint,
        step=int(content.get("global_step", 0)),
        finished_epochs=loops.get("fit_loop", {})
        .get("epoch_progress", {})
        .get("current", {})
        .get("processed", 0),
        metrics=content.get(METRICS_KEY),
    )


def _refuse_a_lower_limit(config: Mapping[str, Any], origin: _Origin) -> None:
    limit = dict(config.get("trainer") or {}).get("max_epochs")
    if origin.path is None or limit is None or limit < 0:
        return
    if origin.finished_epochs > limit:
        raise UserError(
            f"{origin.path.name} has {origin.finished_epochs} finished epochs, and trainer.max_epochs is {limit}; "
            "give a larger limit, or begin anew with --fresh",
            exit_code=2,
        )


def newest_whole(folder: RunFolder) -> Path | None:
    """The newest whole checkpoint; a damaged newer one is set aside, and reported, when training starts.

    Raises:
        UserError: There are checkpoints, and none of them is whole.
    """
    if not folder.checkpoints.is_dir():
        return None
    found = find_newest(folder.checkpoints)
    if found.path is None and found.damaged:
        told = "\n".join(f"  {damaged.path.name}: {damaged.reason}" for damaged in found.damaged)
        raise UserError(
            f"no checkpoint in {folder.checkpoints} is whole:\n{told}\n"
            "Put a sound copy back, or begin anew with --fresh or another --run.dir."
        )
    return found.path


def is_first_process() -> bool:
    """Whether this is the process that writes; the others of a run only read."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


def _count_start(folder: RunFolder, step: int, limit: int | None) -> None:
    try:
        begin_start(folder.starts, step, limit=limit, last_failure=_last_failure(folder))
    except RunHalted as error:
        write_marker(folder.marker, Marker(state=RunState.HALTED, reason=error.reason, step=step))
        append_event(folder.events, "halted", reason=error.reason, step=step)
        raise
    except OSError as error:
        # On a full disk the count is the least that is missing.
        append_event(folder.events, "start_not_counted", error=str(error))


def _last_failure(folder: RunFolder) -> str:
    told = ""
    for event in read_events(folder.events):
        if event["event"] in ("started", "resumed"):
            told = ""
        elif event["event"] == "failed":
            told = f"{event.get('error', 'error')}: {event.get('message', '')}"
    return told


def _wait_for_the_first(folder: RunFolder, wait: float) -> None:
    """Read no checkpoint before this job's first process owns the folder; without a scheduler's job nobody can tell."""
    job = this_owner(0, "", 0.0, False).job
    end = monotonic() + wait + 60.0
    while job and monotonic() < end:
        with suppress(OSError, ValueError):
            owner = owner_of(folder)
            if owner is not None and owner.job == job:
                return
        name = stop.requested()
        if name is not None:
            raise stop.RunInterrupted(name)
        sleep(0.2)
