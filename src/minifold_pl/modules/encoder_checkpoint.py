"""Take a trained encoder over from a stage-1 checkpoint."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn
from torch.nn import Module

from minifold_pl.checkpoint.contents import read_checkpoint
from minifold_pl.modules.base import check_stage

_PREFIX = "encoder."
_WINDOW = ".window."


def load_encoder(encoder: Module, path: str | Path) -> None:
    """Fill ``encoder`` with the (averaged) weights of a stage-1 checkpoint; every tensor must match.

    Windows that the checkpoint knows nothing of stay fresh: they begin by adding nothing.

    Raises:
        ValueError: The file is missing, damaged, of the other stage, or its encoder has other shapes.
    """
    checkpoint = read_checkpoint(Path(path))
    about = check_stage(checkpoint, "contact", f"encoder_ckpt {path}")
    state = {
        name.removeprefix(_PREFIX): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(_PREFIX)
    }
    own = encoder.state_dict()
    differing = sorted(
        name
        for name in own.keys() | state.keys()
        if name not in own or name not in state or own[name].shape != state[name].shape
    )
    fresh = {name: own[name] for name in differing if name not in state and _WINDOW in name}
    if fresh.keys() == {name for name in own if _WINDOW in name}:
        differing = [name for name in differing if name not in fresh]
        state |= fresh
    if differing:
        shown = ", ".join(differing[:3])
        raise ValueError(
            f"the encoder of {path} differs from this config's in {len(differing)} tensors ({shown}, …): "
            "give model.init_args.encoder the sizes that stage 1 was trained with"
        )
    encoder.load_state_dict(state)
    weights = about.get("model_config", {}).get("init_args", {}).get("weights") or {}
    if weights.get("contact") == 0 and not any(parameter.requires_grad for parameter in encoder.parameters()):
        rank_zero_warn(
            f"the encoder of {path} was trained on sequences alone: its pair features are RANDOM, and it is frozen. "
            "Set model.init_args.freeze_encoder to false, or train it on contacts first: contact.yaml with "
            f"--model.init_args.init_from.ckpt {path}"
        )
