"""Checkpoint reading and writing for Lightning: nothing half-written, nothing damaged taken for sound."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import IO, Any, cast

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from minifold_pl.checkpoint.atomic import HashingWriter, remove_stale_temporaries, staged
from minifold_pl.checkpoint.contents import (
    CheckpointError,
    foreign_state,
    load_unverified,
    read_checkpoint,
    verify,
)
from minifold_pl.checkpoint.manifest import Content, Manifest, manifest_path, read_manifest, write_manifest


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint whole or not at all, with a manifest beside it, and verifies it when it is read.

    .. code-block:: yaml

        trainer:
          plugins:
            - class_path: minifold_pl.checkpoint.io.AtomicCheckpointIO

    Only plain state (tensors, numbers, text, containers of them) is saved and loaded.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Save ``checkpoint`` at ``path``.

        Raises:
            OSError: Disk full, read-only, …: what was at ``path``, and every other file, is as it was.
            ValueError: Something in the checkpoint is no plain state, or ``storage_options`` were given.
        """
        if storage_options is not None:
            raise ValueError("storage_options are not supported: checkpoints go to a local or mounted folder")
        save(checkpoint, path)

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any | None = "cpu",
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Load and verify; ``weights_only`` is there for Lightning's sake: it is always on.

        Raises:
            CheckpointError: Missing, damaged, or carrying code.
        """
        return read_checkpoint(path, map_location=map_location)

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Remove a checkpoint and its manifest; missing ones are no error."""
        path = Path(path)
        if path.is_symlink():
            path.unlink()
            return
        # The manifest last: a file without one would pass for one written by somebody else.
        path.unlink(missing_ok=True)
        manifest_path(path).unlink(missing_ok=True)


def save(checkpoint: dict[str, Any], path: str | os.PathLike[str]) -> Content:
    """Write ``checkpoint`` and its manifest so that a kill at any point leaves a valid file at ``path``.

    The order is: temporary file, flushed; manifest naming the new content and the old; rename; manifest
    naming the new content alone. See :mod:`minifold_pl.checkpoint.manifest`.
    """
    path = Path(path)
    foreign = foreign_state(checkpoint)
    if foreign is not None:
        raise ValueError(
            f"a checkpoint holds plain state only, and {foreign} is none: it could never be loaded again. "
            "Save tensors, numbers, text and dicts, lists or tuples of them"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale_temporaries(path.parent)
    with staged(path) as (stream, commit):
        torch.save(checkpoint, cast(IO[bytes], stream))
        content = _content(checkpoint, stream)
        write_manifest(path, Manifest(content=content, replaces=_present(path)))
        commit()
    write_manifest(path, Manifest(content=content))
    return content


def latest_valid(folder: str | os.PathLike[str], *, quarantine: bool = False) -> Path | None:
    """The newest checkpoint of a folder, by step, that is whole.

    Never by modification time: clocks jump. Equal steps are ordered by name.

    Args:
        folder: Searched for ``*.ckpt``, subfolders not.
        quarantine: Rename damaged ones (``x.ckpt`` → ``x.ckpt.damaged``) on the way, so that nothing picks
            them up again. Only for the folder's one writer.

    Returns:
        Its path; None where no checkpoint is valid.
    """
    best: tuple[int, Path] | None = None
    for claimed, path in sorted(_candidates(Path(folder)), reverse=True):
        if best is not None and best[0] >= claimed:
            break
        try:
            found = verify(path)
        except CheckpointError:
            if quarantine:
                quarantine_checkpoint(path)
            continue
        # A save cut off between manifest and rename leaves the older content under the newer claim.
        step = claimed if found.step is None else found.step
        if best is None or step > best[0]:
            best = (step, path)
    return None if best is None else best[1]


def quarantine_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Rename a damaged checkpoint, and its manifest with it; returns its new name."""
    path = Path(path)
    target = path.with_name(path.name + ".damaged")
    number = 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.damaged-{number}")
    path.rename(target)
    with contextlib.suppress(FileNotFoundError):
        manifest_path(path).rename(manifest_path(target))
    return target


def _candidates(folder: Path) -> list[tuple[int, Path]]:
    return [(_claimed_step(path), path) for path in folder.glob("*.ckpt") if path.is_file()]


def _claimed_step(path: Path) -> int:
    """The step a checkpoint says it has, before its bytes are checked; -1 when it says none."""
    try:
        manifest = read_manifest(path)
        if manifest is not None:
            return manifest.content.step
        return int(load_unverified(path, mmap=True).get("global_step", -1))
    except (ValueError, TypeError):
        return -1


def _present(path: Path) -> Content | None:
    """The content now at ``path``, if it is valid: it stays acceptable until the rename."""
    if not path.is_file():
        return None
    try:
        manifest = read_manifest(path)
        if manifest is None:
            found = verify(path)
            return Content(sha256=found.sha256, size=found.size, step=_claimed_step(path), epoch=-1)
    except ValueError:
        return None
    # Hashing a large file costs a second of the save: only after a save that was cut off is there a doubt.
    return manifest.content if manifest.replaces is None else manifest.matching(path)


def _content(checkpoint: dict[str, Any], stream: HashingWriter) -> Content:
    return Content(
        sha256=stream.sha256,
        size=stream.size,
        step=int(checkpoint.get("global_step", 0)),
        epoch=int(checkpoint.get("epoch", 0)),
    )
