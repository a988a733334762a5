"""Reading a checkpoint: whole, unharmed, plain state only; and what it holds, in words and numbers."""

from __future__ import annotations

import os
import pickle
import re
import stat
import struct
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from minifold_pl.checkpoint.atomic import sha256
from minifold_pl.checkpoint.manifest import Content, read_manifest
from minifold_pl.checkpoint.nesting import endless

PROJECT_KEY: Final = "minifold_pl"
"""Where a checkpoint says which stage it is and how to build its module."""
RAW_WEIGHTS_KEY: Final = "current_model_state"
"""Present when ``state_dict`` holds averaged weights: the raw ones (Lightning's WeightAveraging)."""

_LFS_MARK: Final = b"version https://git-lfs"
_ARCHIVE_ERRORS: Final = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, NotImplementedError, RuntimeError,
    ValueError, OverflowError,
)  # fmt: skip
"""What reading a damaged archive ends in."""
_PLAIN: Final = (type(None), bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one line for the user."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found when a checkpoint's bytes were checked."""

    sha256: str
    size: int
    step: int | None
    """From the manifest; None without one."""
    manifest: bool
    """False: no manifest lies beside the file, so only the archive's own checksums were checked."""


def verify(path: str | os.PathLike[str]) -> Verification:
    """Check a checkpoint's bytes against its manifest, or, without one, against the archive's own checksums.

    Raises:
        CheckpointError: Missing, empty, no checkpoint, truncated or changed.
    """
    path = Path(path)
    _refuse_what_is_no_archive(path)
    try:
        manifest = read_manifest(path)
        found: Content | None = None if manifest is None else manifest.matching(path)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{error}; if the checkpoint is sound, remove that file") from error
    if manifest is not None:
        if found is None:
            raise CheckpointError(
                f"damaged checkpoint {path}: it has not the checksum and size "
                f"({manifest.content.size:,} bytes) in its manifest; use another one of its folder"
            )
        return Verification(sha256=found.sha256, size=found.size, step=found.step, manifest=True)
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise CheckpointError(f"damaged checkpoint {path}: checksum of {bad!r} differs; use another one")
        return Verification(sha256=sha256(path), size=path.stat().st_size, step=None, manifest=False)
    except CheckpointError:
        raise
    except _ARCHIVE_ERRORS as error:
        raise CheckpointError(f"damaged checkpoint {path}: {error}; use another one of its folder") from error


def read_checkpoint(path: str | os.PathLike[str], *, map_location: Any = "cpu") -> dict[str, Any]:
    """Load a checkpoint after checking it; nothing in it is ever executed.

    Args:
        path: The file.
        map_location: As in :func:`torch.load`.

    Raises:
        CheckpointError: As :func:`verify`, and where the file carries code, holds no dictionary, or holds itself.
    """
    verify(path)
    return load_unverified(path, map_location=map_location)


def load_unverified(
    path: str | os.PathLike[str], *, map_location: Any = "cpu", mmap: bool = False
) -> dict[str, Any]:
    """:func:`read_checkpoint` without the checksum; ``mmap`` leaves tensors on the disk until used."""
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL (\w+(?:\.\w+)+)", str(error))
        what = f" ({foreign.group(1)})" if foreign else ""
        raise CheckpointError(
            f"checkpoint {path} carries code{what} where only tensors and plain values are allowed; "
            "it was not loaded"
        ) from error
    except (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, OSError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"cannot read checkpoint {path}: {first_line}") from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path} holds a {type(checkpoint).__name__}, not a training checkpoint")
    if why := endless(checkpoint):
        raise CheckpointError(f"{path} is not a training checkpoint: {why}")
    return checkpoint


def foreign_state(value: object, path: str = "checkpoint") -> str | None:
    """Where ``value`` holds something that could not be read back as plain state, or None.

    Found when saving, so that a run never writes hours of checkpoints that nothing can load.
    """
    # Exact types: a subclass (a defaultdict, a named tuple, NumPy's float64) is pickled as code.
    kind = type(value)
    if kind in _PLAIN or kind in (Tensor, torch.nn.Parameter):
        return None
    if isinstance(value, Mapping):
        if kind not in (dict, OrderedDict, Counter):
            return f"{path} ({kind.__module__}.{kind.__qualname__})"
        for key, item in value.items():
            found = foreign_state(key, f"key of {path}") or foreign_state(item, f"{path}[{key!r}]")
            if found:
                return found
        return None
    if kind in (list, tuple, set):
        for index, item in enumerate(value):  # type: ignore[arg-type]
            found = foreign_state(item, f"{path}[{index}]")
            if found:
                return found
        return None
    return f"{path} ({kind.__module__}.{kind.__qualname__})"


@dataclass(frozen=True, kw_only=True)
class CheckpointSummary:
    """What a checkpoint holds."""

    stage: str | None
    """``contact``, ``diffusion``, or None for a checkpoint that is not ours."""
    version: str | None
    """Version of this program that wrote it."""
    lightning: str | None
    step: int
    epoch: int
    place: str | None
    """Where training goes on, in words."""
    parameters: dict[str, int]
    """Elements of ``state_dict`` by top-level part, buffers among them."""
    total: int
    ema: bool
    """``state_dict`` holds averaged weights, and the raw ones lie beside them."""
    optimizers: int
    callbacks: dict[str, dict[str, Any]]
    """Plain values of every callback's state."""
    metrics: dict[str, float]
    """Best and current values of what the checkpoint callbacks monitor."""
    model: str | None
    """Class of the module."""
    model_config: dict[str, Any]
    data_config: dict[str, Any]
    initialised: dict[str, Any]
    """Where the weights that training began with came from and what came over; empty for random ones."""
    encoder_origin: str | None
    """``random``, or the checkpoint that the sequence encoder came from."""


def summary(checkpoint: Mapping[str, Any]) -> CheckpointSummary:
    """Describe a loaded checkpoint, ours or any other of Lightning's.

    Raises:
        CheckpointError: There are no weights in it.
    """
    weights = checkpoint.get("state_dict")
    if not isinstance(weights, Mapping):
        raise CheckpointError(
            f"no 'state_dict' among the keys of this checkpoint: {sorted(map(str, checkpoint))[:8]}"
        )
    project = _mapping(checkpoint.get(PROJECT_KEY))
    parts: Counter[str] = Counter()
    for name, value in weights.items():
        if isinstance(value, Tensor):
            parts[str(name).split(".", 1)[0]] += value.numel()
    callbacks = {str(k): _plain_values(_mapping(v)) for k, v in _mapping(checkpoint.get("callbacks")).items()}
    model_config = _mapping(project.get("model_config"))
    return CheckpointSummary(
        stage=_text(project.get("stage")),
        version=_text(project.get("version")),
        lightning=_text(checkpoint.get("pytorch-lightning_version")),
        step=_count(checkpoint.get("global_step", 0)),
        epoch=_count(checkpoint.get("epoch", 0)),
        place=_place(checkpoint),
        parameters=dict(parts),
        total=sum(parts.values()),
        ema=RAW_WEIGHTS_KEY in checkpoint,
        optimizers=len(_sequence(checkpoint.get("optimizer_states"))),
        callbacks=callbacks,
        metrics=_monitored(callbacks),
        model=_text(model_config.get("class_path")),
        model_config=model_config,
        data_config=_mapping(project.get("data_config")),
        initialised=_plain_values(_mapping(project.get("initialised"))),
        encoder_origin=_text(project.get("encoder_origin")),
    )


def _refuse_what_is_no_archive(path: Path) -> None:
    try:
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            raise CheckpointError(f"{path} is no regular file")
        with open(path, "rb") as stream:
            head = stream.read(64)
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint at {path}") from error
    except IsADirectoryError as error:
        found = sorted(p.name for p in path.rglob("*.ckpt"))[:3]
        hint = f"; it holds {', '.join(found)}" if found else ""
        raise CheckpointError(f"{path} is a folder, not a checkpoint{hint}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error.strerror}") from error
    if not head:
        raise CheckpointError(f"checkpoint {path} is empty")
    if head.startswith(_LFS_MARK):
        raise CheckpointError(f"{path} is a Git LFS pointer, not a checkpoint: run `git lfs pull`")
    if not head.startswith(b"PK"):
        raise CheckpointError(f"{path} is no checkpoint (it does not begin like a torch archive)")


def _monitored(callbacks: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for state in callbacks.values():
        monitor = state.get("monitor")
        if not isinstance(monitor, str):
            continue
        for key, label in (("best_model_score", "best"), ("current_score", "current")):
            if isinstance(state.get(key), int | float):
                metrics[f"{monitor} ({label})"] = float(state[key])
    return metrics


def _plain_values(state: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, value in state.items():
        if isinstance(value, Tensor):
            plain[str(key)] = value.item() if value.numel() == 1 else f"tensor {list(value.shape)}"
        elif isinstance(value, Mapping):
            plain[str(key)] = _plain_values(value)
        elif isinstance(value, list | tuple | set):
            plain[str(key)] = [
                _plain_values(v)
                if isinstance(v, Mapping)
                else v
                if isinstance(v, str | int | float)
                else str(v)
                for v in value
            ]
        else:
            plain[str(key)] = value if isinstance(value, str | int | float | bool | None) else str(value)
    return plain


def _place(checkpoint: Mapping[str, Any]) -> str | None:
    loops = _mapping(_mapping(checkpoint.get("loops")).get("fit_loop"))
    epochs = _mapping(_mapping(loops.get("epoch_progress")).get("current"))
    batches = _mapping(_mapping(loops.get("epoch_loop.batch_progress")).get("current"))
    validation = _mapping(_mapping(loops.get("epoch_loop.val_loop.batch_progress")).get("total"))
    done, begun, taken = epochs.get("processed"), epochs.get("ready"), batches.get("ready")
    if not (isinstance(done, int) and isinstance(begun, int) and isinstance(taken, int)):
        return None
    if begun <= done:
        return f"after epoch {done}"
    due = validation.get("ready") == 1 and validation.get("processed") == 0
    return f"in epoch {begun}, after batch {taken}" + (", with its validation" if due else "")


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def _sequence(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return None if value is None else str(value)
