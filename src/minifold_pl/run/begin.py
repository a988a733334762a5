"""What has to hold before a run is started or goes on: not halted, stopped or done, the same settings, known code."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import yaml

from minifold_pl.checkpoint.atomic import atomic_write_text
from minifold_pl.run import exit_codes, fence
from minifold_pl.run.code_version import CodeVersion, code_version
from minifold_pl.run.events import append_event
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.halt import RunEnded, RunHalted
from minifold_pl.run.kept import Kept, read_identity, read_kept
from minifold_pl.run.marker import Marker, RunState, read_marker
from minifold_pl.run.owner import this_owner
from minifold_pl.run.settings import Change, changes, fingerprint
from minifold_pl.run.stop_order import RunStopped, stop_order, told_stopped, withdraw_stop
from minifold_pl.run.stopped import mark_stopped

DATA = "data.path"
DATA_CONTENT = "content of data.path"
"""Stands among the changes where the store's content is another one; its place alone does not matter then."""
PRECISION = "trainer.precision"
FINGERPRINT = "fingerprint of the settings"
"""Stands among the changes for all settings that are part of the run, where their names and values are lost."""


class ChangesRefused(RunEnded):
    """The run in the folder has other settings."""

    exit_code: ClassVar[int] = exit_codes.WRONG_USE
    heading = "error"


def data_digest(config: Mapping[str, Any]) -> str:
    """A digest of the store's header, which names the content of all its files; empty where there is none."""
    path = dict(config.get("data") or {}).get("path")
    try:
        return sha256((Path(str(path)) / "store.json").read_bytes()).hexdigest() if path else ""
    except OSError:
        return ""


def already_done(folder: RunFolder, config: Mapping[str, Any]) -> Marker | None:
    """The marker of a run that is done and is not asked for more; nothing is written.

    A run is asked for more where a limit (epochs, steps, patience) or a setting that is part of it has changed.
    """
    marker = read_marker(folder.marker)
    if marker is None or marker.state is not RunState.DONE:
        return None
    kept = read_kept(folder)
    # Without its config nobody can tell whether a limit has changed: training finds that there is nothing to do.
    asked = bool(kept.trouble) or any(
        change.limit or not change.harmless for change in changed_settings(kept, config)
    )
    return None if asked else marker


def begin(
    folder: RunFolder,
    config: Mapping[str, Any],
    *,
    trained: bool,
    accept_changes: bool = False,
    after_halt: int | None = None,
    after_stop: int | None = None,
    code: CodeVersion | None = None,
    told: Callable[[str], None] = print,
) -> None:
    """Check that the run may begin or go on, and write down with what settings and code it does.

    Called by the owner of the folder, before anything else is written there.

    Args:
        folder: The run folder.
        config: The resolved config of this start as plain values.
        trained: Whether there is a checkpoint; without one there is nothing that other settings could spoil.
        accept_changes: Go on although settings that are part of the run have changed.
        after_halt: Number of the start in which the run halted, to go on although it did.
        after_stop: Number in the order that stopped the run, to go on although it did.
        code: The code; that of this process by default.
        told: Called with lines for the user: what changed and does no harm.

    Raises:
        RunHalted: The run halted, and nobody has said to go on.
        RunStopped: A person has ended the run, and nobody has said to go on.
        ChangesRefused: Settings that are part of the run have changed.
        OSError: The folder cannot be written.
    """
    _refuse_halted(folder, after_halt)
    _refuse_stopped(folder, after_stop)
    code = code or code_version()
    kept = read_kept(folder, code)
    found = changed_settings(kept, config)
    if trained and not accept_changes:
        _refuse_unknown(kept, found)
    _accept(folder, found, trained=trained, accept_changes=accept_changes, told=told)
    if kept.trouble and (trained or kept.fingerprint):
        told(_written_anew(kept, found))
    known = read_identity(folder)
    before = known.get("code")
    if isinstance(before, dict) and before != code.to_dict():
        told(f"the code has changed since the last start: {_of(before)} → {code}")
        append_event(folder.events, "code_changed", before=before, after=code.to_dict())
    now = {"fingerprint": fingerprint(config), "data": data_digest(config), "code": code.to_dict()}
    append_event(folder.events, "settings", **now, **_where())
    _write_identity(folder, {**known, **now})
    _write(folder.config, yaml.safe_dump(dict(config), sort_keys=False))


def pin_facts(
    folder: RunFolder,
    facts: Mapping[str, Any],
    *,
    trained: bool,
    accept_changes: bool = False,
    told: Callable[[str], None] = print,
) -> None:
    """Hold a run to what the machine made of settings that were left to it: number of processes, precision.

    With ``devices: auto`` the same config is another run on another machine: other batches, other numbers.

    Args:
        folder: The run folder, after :func:`begin`.
        facts: Plain values by name.
        trained: As in :func:`begin`.
        accept_changes: As in :func:`begin`.
        told: As in :func:`begin`.

    Raises:
        ChangesRefused: They are others than at the last start.
    """
    known = read_identity(folder)
    before = known.get("facts") or {}
    found = tuple(
        Change(name=name, before=before[name], after=now)
        for name, now in facts.items()
        if name in before and before[name] != now
    )
    _accept(folder, found, trained=trained, accept_changes=accept_changes, told=told)
    _write_identity(folder, {**known, "facts": dict(facts)})


def kept_precision(folder: RunFolder) -> str | None:
    """The precision that a run which has checkpoints was trained in; None where nothing says it."""
    if not any(folder.checkpoints.glob("*.ckpt")):
        return None
    configured = dict((read_kept(folder).config or {}).get("trainer") or {}).get("precision")
    pinned = (read_identity(folder).get("facts") or {}).get("precision")
    return configured or pinned


def changed_settings(kept: Kept, config: Mapping[str, Any]) -> tuple[Change, ...]:
    """What differs from the last start; nothing where there was none.

    Where its config is lost, the fingerprint stands for all settings that are part of the run.
    """
    now = data_digest(config)
    if kept.config is None:
        found: tuple[Change, ...] = ()
        if kept.fingerprint and kept.fingerprint != fingerprint(config):
            found = (Change(name=FINGERPRINT, before=kept.fingerprint, after=fingerprint(config)),)
    else:
        # A run begun before its precision was written down: its identity holds it to the one it was trained in.
        named = changes(kept.config, config)
        found = tuple(change for change in named if (change.name, change.before) != (PRECISION, None))
    if not kept.data or not now:
        return found
    # Where a store lies is no matter, as long as it is the same one.
    found = tuple(change for change in found if change.name != DATA)
    if kept.data == now:
        return found
    return (*found, Change(name=DATA_CONTENT, before=kept.data[:16], after=now[:16]))


def _accept(
    folder: RunFolder,
    found: tuple[Change, ...],
    *,
    trained: bool,
    accept_changes: bool,
    told: Callable[[str], None],
) -> None:
    serious = [change for change in found if not change.harmless]
    if serious and trained and not accept_changes:
        raise ChangesRefused(
            f"{folder.path} holds a run with other settings:\n{_listed(serious)}\n"
            "They are part of what is trained. Use --fresh for a new run, or --accept-changes to go on with the "
            "changed settings."
        )
    if found:
        told(f"changed since the last start:\n{_listed(found)}")
        told_of = [{"name": c.name, "before": c.before, "after": c.after} for c in found]
        append_event(folder.events, "config_changed", part_of_the_run=bool(serious), changes=told_of)


def _refuse_unknown(kept: Kept, found: tuple[Change, ...]) -> None:
    if any(change.name == FINGERPRINT for change in found):
        raise ChangesRefused(
            f"{kept.trouble}, and the settings given now are not those of the run:\n{_listed(found)}\n"
            "Without that file nobody can tell which of them differ (the place of the store counts, too). Give the "
            "run's own settings, put the file back, use --fresh for a new run, or --accept-changes to go on with the "
            "settings given now."
        )


def _written_anew(kept: Kept, found: tuple[Change, ...]) -> str:
    if not kept.fingerprint:
        how = ", and nothing else says with what settings the run was started"
    elif any(change.name == FINGERPRINT for change in found):
        how = ", and the settings are others than before"
    else:
        how = "; by their fingerprint the settings that are part of the run are the same"
    return f"{kept.trouble}{how}: it is written anew"


def _refuse_halted(folder: RunFolder, after_halt: int | None) -> None:
    marker = read_marker(folder.marker)
    if marker is None or marker.state is not RunState.HALTED:
        return
    if after_halt != marker.attempt:
        raise RunHalted(
            f"{folder.path} halted at step {marker.step}: {marker.reason}\n"
            f"When the cause is put right, --run.after_halt {marker.attempt} goes on with it."
        )
    append_event(folder.events, "after_halt", halted_in=marker.attempt, reason=marker.reason)


def _refuse_stopped(folder: RunFolder, after_stop: int | None) -> None:
    order = stop_order(folder)
    if order is None:
        return
    if after_stop != order.after:
        mark_stopped(folder, order)
        raise RunStopped(told_stopped(folder, order))
    append_event(folder.events, "after_stop", by=order.by, reason=order.reason)
    withdraw_stop(folder)


def _where() -> dict[str, Any]:
    myself = this_owner(0, "", 0.0, False)
    return {"host": myself.machine.host, "pid": myself.pid, "job": myself.job, "output": _output()}


def _output() -> str:
    """The file that this process prints to; empty where it is a terminal or a pipe."""
    try:
        path = Path(os.readlink("/proc/self/fd/1"))
        return str(path) if path.is_file() else ""
    except OSError:
        return ""


def _write_identity(folder: RunFolder, content: Mapping[str, Any]) -> None:
    _write(folder.identity, json.dumps(content, indent=1, sort_keys=True) + "\n")


def _write(path: Path, text: str) -> None:
    """Only where something has changed: a run must be able to go on on a full disk."""
    fence.check(path)
    if not path.is_file() or path.read_bytes() != text.encode():
        atomic_write_text(path, text)


def _listed(found: list[Change] | tuple[Change, ...]) -> str:
    return "\n".join(f"  {change}" for change in found)


def _of(code: dict[str, Any]) -> str:
    try:
        return str(CodeVersion(**code))
    except TypeError:
        return json.dumps(code)
