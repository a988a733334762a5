"""The weights of a training checkpoint alone, for use elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor

from minifold_pl.checkpoint.atomic import atomic_write
from minifold_pl.checkpoint.contents import PROJECT_KEY, RAW_WEIGHTS_KEY, CheckpointError, summary
from minifold_pl.checkpoint.io import save

SUFFIXES: Final = (".safetensors", ".pt", ".ckpt")

Weights = Literal["ema", "raw"]


def export_weights(
    checkpoint: Mapping[str, Any], target: str | os.PathLike[str], weights: Weights = "ema"
) -> int:
    """Write one set of weights and what rebuilds the model; returns the number of tensors.

    ``.safetensors`` has the config as JSON under ``config`` in its metadata; ``.pt`` and ``.ckpt`` are
    checkpoints without training state, which ``sample`` and ``evaluate`` read as any other.

    Args:
        checkpoint: As read.
        target: The file; its suffix is the format. What lies there is replaced.
        weights: ``ema`` for those in ``state_dict``, which is the average where there is one.

    Raises:
        CheckpointError: No such weights in it.
        ValueError: Another suffix.
    """
    target = Path(target)
    if target.suffix not in SUFFIXES:
        raise ValueError(f"{target.name} ends in none of {', '.join(SUFFIXES)}")
    told = summary(checkpoint)
    if weights == "raw" and not told.ema:
        raise CheckpointError("this checkpoint holds one set of weights only: it was trained without EMA")
    chosen = checkpoint[RAW_WEIGHTS_KEY if weights == "raw" else "state_dict"]
    tensors = {str(name): value for name, value in chosen.items() if isinstance(value, Tensor)}
    about = {
        "step": told.step,
        "epoch": told.epoch,
        "weights": weights if told.ema else "raw",
    }
    project = checkpoint.get(PROJECT_KEY)
    project = dict(project) if isinstance(project, Mapping) else {}
    # Sums of a half-finished epoch are training state.
    project.pop("epoch_means", None)
    if target.suffix == ".safetensors":
        _write_safetensors(tensors, {**about, "minifold_pl": project}, target)
    else:
        content = {
            "state_dict": tensors,
            "global_step": told.step,
            "epoch": told.epoch,
            "exported": about,
            "pytorch-lightning_version": told.lightning or "",
        }
        save({**content, PROJECT_KEY: project} if project else content, target)
    return len(tensors)


def _write_safetensors(tensors: Mapping[str, Tensor], about: Mapping[str, Any], target: Path) -> None:
    from safetensors.torch import save as to_bytes

    # Tied weights share memory, which the format has no word for.
    apart = {
        name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()
    }
    content = to_bytes(apart, metadata={"format": "pt", "config": json.dumps(about, sort_keys=True)})
    atomic_write(target, lambda stream: _write(stream, content))


def _write(stream: Any, content: bytes) -> None:
    stream.write(content)
