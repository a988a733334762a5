"""Which checkpoint of a folder to go on from, and what becomes of damaged ones."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from minifold_pl.checkpoint.atomic import remove_stale_temporaries, sync_folder
from minifold_pl.checkpoint.contents import CheckpointError, load_unverified, verify
from minifold_pl.checkpoint.manifest import manifest_path, read_manifest

DAMAGED: Final = "damaged"
"""What is put behind the name of a damaged checkpoint."""
SUPERSEDED: Final = "superseded"
"""What is put behind the name of a checkpoint of a future that the run has left."""
RESUMABLE: Final = "resumable"
"""False in a checkpoint that was made with gradients pending, which it does not hold."""


@dataclass(frozen=True, kw_only=True)
class Damaged:
    """A checkpoint that cannot be used."""

    path: Path
    """Where it lies now."""
    reason: str
    """One line."""
    step: int
    """What it says it holds; -1 where it says nothing."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The newest whole checkpoint of a folder, and the damaged ones that were met on the way to it."""

    path: Path | None
    """None: no checkpoint of the folder is whole."""
    step: int
    """Optimizer steps in it; -1 without one."""
    damaged: tuple[Damaged, ...]
    """Those that claim to be newer, or claim nothing; all of the folder where they were to be set aside."""


def find_newest(folder: str | os.PathLike[str], *, set_aside: bool = False) -> Found:
    """The newest checkpoint of a folder, by step, that is whole.

    Never by modification time: clocks jump. Of equal steps the last by name is taken. One that was made amid a
    window of accumulated gradients is taken only where there is no other.

    Args:
        folder: Searched for ``*.ckpt``, subfolders not.
        set_aside: Read every checkpoint of the folder, the older ones too, and rename the damaged ones
            (``x.ckpt`` → ``x.ckpt.damaged``), so that nothing picks them up again; but only where a whole one
            was found: otherwise they may be all there is. Only for the folder's one writer.
    """
    best: tuple[int, Path] | None = None
    second_choice: tuple[int, Path] | None = None
    damaged: list[Damaged] = []
    candidates = [(claimed_step(path), path) for path in Path(folder).glob("*.ckpt") if path.is_file()]
    for claimed, path in sorted(candidates, reverse=True):
        # One that claims nothing is not ours, or damaged and to be told.
        outranked = best is not None and 0 <= claimed <= best[0]
        if outranked and not set_aside:
            continue
        try:
            # A save cut off between manifest and rename leaves the older content under the newer claim.
            step, resumable = _examine(path)
        except CheckpointError as error:
            damaged.append(Damaged(path=path, reason=" ".join(str(error).split()), step=claimed))
            continue
        if outranked:
            continue
        if not resumable:
            second_choice = second_choice or (step, path)
        elif best is None or step > best[0]:
            best = (step, path)
    best = best or second_choice
    if best is None:
        return Found(path=None, step=-1, damaged=tuple(damaged))
    if set_aside:
        damaged = [_moved(found) for found in damaged]
    return Found(path=best[1], step=best[0], damaged=tuple(damaged))


def latest_valid(folder: str | os.PathLike[str]) -> Path | None:
    """The path that :func:`find_newest` finds."""
    return find_newest(folder).path


def set_aside(path: str | os.PathLike[str], suffix: str) -> Path:
    """Rename a checkpoint and its manifest to ``x.ckpt.<suffix>``, or ``…-2`` and so on; returns the new name."""
    path = Path(path)
    manifest = manifest_path(path)
    target = path.with_name(f"{path.name}.{suffix}")
    number = 1
    while target.exists() or manifest_path(target).exists():
        number += 1
        target = path.with_name(f"{path.name}.{suffix}-{number}")
    path.rename(target)
    with contextlib.suppress(FileNotFoundError):
        manifest.rename(manifest_path(target))
    sync_folder(path.parent)
    return target


def sweep(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove what killed writers left: temporary files, and manifests whose checkpoint never came.

    Only the folder's one writer may call this, before it writes.

    Returns:
        What was removed.
    """
    folder = Path(folder)
    removed = remove_stale_temporaries(folder)
    for manifest in folder.glob("*.ckpt*.json"):
        if not manifest.with_suffix("").exists():
            with contextlib.suppress(OSError):
                manifest.unlink()
                removed.append(manifest)
    return removed


def set_aside_later(folder: str | os.PathLike[str], step: int) -> list[Path]:
    """Set aside every checkpoint of more than ``step`` steps; returns their new names.

    After a return to an older checkpoint: at the next start they would win over what has been trained since.
    """
    later = [path for path in sorted(Path(folder).glob("*.ckpt")) if claimed_step(path) > step]
    return [set_aside(path, SUPERSEDED) for path in later]


def claimed_step(path: Path) -> int:
    """The step a checkpoint says it has, before its bytes are checked; -1 when it says none."""
    try:
        manifest = read_manifest(path)
        if manifest is not None:
            return manifest.content.step
        return _step_in(load_unverified(path, mmap=True))
    except (ValueError, OSError):
        return -1


def _examine(path: Path) -> tuple[int, bool]:
    """The step of a whole checkpoint, and whether training can go on from it as if nothing had happened.

    Raises:
        CheckpointError: It is damaged, or its manifest tells of another step.
    """
    listed = verify(path).step
    content = load_unverified(path, mmap=True)
    inside = _step_in(content)
    if listed is not None and listed != inside:
        raise CheckpointError(
            f"damaged checkpoint {path}: its manifest says step {listed}, it holds step {inside}"
        )
    return inside, content.get(RESUMABLE, True) is not False


def _step_in(content: Mapping[str, Any]) -> int:
    step = content.get("global_step", -1)
    return step if isinstance(step, int) else -1


def _moved(found: Damaged) -> Damaged:
    # A folder that cannot be written is no reason not to go on from the whole one.
    with contextlib.suppress(OSError):
        return Damaged(path=set_aside(found.path, DAMAGED), reason=found.reason, step=found.step)
    return found
