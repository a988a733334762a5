"""Checkpoint reading and writing for Lightning: nothing half-written, nothing damaged taken for sound."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from minifold_pl.checkpoint.atomic import HashingWriter, staged
from minifold_pl.checkpoint.contents import foreign_state, read_checkpoint, verify
from minifold_pl.checkpoint.manifest import Content, Manifest, manifest_path, read_manifest, write_manifest
from minifold_pl.checkpoint.newest import claimed_step

Fence = Callable[[], None]
"""Called before anything takes a final name; raises where this process may no longer write."""


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint whole or not at all, with a manifest beside it, and verifies it when it is read.

    .. code-block:: yaml

        trainer:
          plugins:
            - class_path: minifold_pl.checkpoint.io.AtomicCheckpointIO

    Only plain state (tensors, numbers, text, containers of them) is saved and loaded.

    Args:
        before_commit: Called right before a file takes its final name; raises where this process has lost the
            right to write there. The checkpoints that lie there stay as they are.
    """

    def __init__(self, before_commit: Fence | None = None) -> None:
        self.before_commit = before_commit

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
        save(checkpoint, path, before_commit=self.before_commit)

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
        remove(path)


def save(
    checkpoint: dict[str, Any], path: str | os.PathLike[str], *, before_commit: Fence | None = None
) -> Content:
    """Write ``checkpoint`` and its manifest so that a kill at any point leaves a valid file at ``path``.

    The order is: temporary file, flushed; manifest naming the new content and the old; rename; manifest
    naming the new content alone. See :mod:`minifold_pl.checkpoint.manifest`.

    Args:
        checkpoint: Plain state only.
        path: Where it goes; what lies there is replaced.
        before_commit: See :class:`AtomicCheckpointIO`.

    Raises:
        OSError: Disk full, read-only, …: what was at ``path``, and every other file, is as it was.
        ValueError: Something in the checkpoint is no plain state.
    """
    path = Path(path)
    refuse_foreign_state(checkpoint)

    def announce() -> None:
        # A writer that has lost its right must not touch the manifest of its successor's file either.
        if before_commit is not None:
            before_commit()
        content.append(_content(checkpoint, stream))
        write_manifest(path, Manifest(content=content[0], replaces=_present(path)))
        if before_commit is not None:
            before_commit()

    content: list[Content] = []
    try:
        with staged(path, announce) as (stream, commit):
            try:
                torch.save(checkpoint, cast(IO[bytes], stream))
            except RuntimeError as error:
                # torch's writer says "unexpected pos" where the disk was full.
                if stream.error is not None:
                    raise stream.error from error
                raise
            commit()
    except Exception:
        if content and not path.exists():
            with contextlib.suppress(OSError):
                manifest_path(path).unlink(missing_ok=True)
        raise
    write_manifest(path, Manifest(content=content[0]))
    return content[0]


def remove(path: str | os.PathLike[str]) -> None:
    """Remove a checkpoint and its manifest; missing ones are no error."""
    path = Path(path)
    if path.is_symlink():
        path.unlink()
        return
    # The manifest last: a file without one would pass for one written by somebody else.
    path.unlink(missing_ok=True)
    manifest_path(path).unlink(missing_ok=True)


def refuse_foreign_state(checkpoint: dict[str, Any]) -> None:
    """Refuse what could never be loaded again.

    Raises:
        ValueError: Naming the place.
    """
    foreign = foreign_state(checkpoint)
    if foreign is not None:
        raise ValueError(
            f"a checkpoint holds plain state only, and {foreign} is none: it could never be loaded again. "
            "Save tensors, numbers, text and dicts, lists or tuples of them"
        )


def _present(path: Path) -> Content | None:
    """The content now at ``path``, if it is valid: it stays acceptable until the rename."""
    if not path.is_file():
        return None
    try:
        manifest = read_manifest(path)
        if manifest is None:
            found = verify(path)
            return Content(sha256=found.sha256, size=found.size, step=claimed_step(path), epoch=-1)
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
