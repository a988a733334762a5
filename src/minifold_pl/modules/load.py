"""Rebuild a module from a checkpoint, without running code from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser

from minifold_pl.checkpoint.contents import read_checkpoint
from minifold_pl.modules.base import MinifoldModule, check_stage
from minifold_pl.modules.parsing import configure_parsing

_PACKAGE = "minifold_pl."


def build_module(model_config: Mapping[str, Any]) -> MinifoldModule:
    """The module that a ``{class_path, init_args}`` mapping describes, with fresh weights.

    Raises:
        ValueError: The mapping is no such description, or names a class outside this package.
    """
    foreign = [path for path in _class_paths(model_config) if not path.startswith(_PACKAGE)]
    if foreign:
        raise ValueError(f"the model's config names classes outside minifold_pl: {foreign}")
    configure_parsing()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--model", type=MinifoldModule, required=True)
    try:
        config = parser.parse_object({"model": dict(model_config)})
    except ArgumentError as error:
        first = " ".join(str(error).split())
        raise ValueError(f"the model's config does not fit this version of minifold-pl: {first}") from error
    module: MinifoldModule = parser.instantiate(config).model
    module.model_config = dict(model_config)
    return module


def load_module(
    path: str | Path,
    stage: Literal["contact", "diffusion"] | None = None,
    weights: Literal["ema", "raw"] = "ema",
) -> MinifoldModule:
    """The module of a checkpoint, on the CPU, ready to evaluate.

    Args:
        path: A checkpoint that ``fit`` wrote.
        stage: The stage it must be of; None for any.
        weights: ``ema`` for the averaged weights (the published ones), ``raw`` for those training goes on with.

    Raises:
        ValueError: Missing, damaged, of another stage or program, or of a config that this version cannot build.
    """
    checkpoint = read_checkpoint(Path(path))
    about = check_stage(checkpoint, stage, str(path))
    module = build_module(about["model_config"])
    state = checkpoint["state_dict"]
    if weights == "raw":
        if "current_model_state" not in checkpoint:
            raise ValueError(f"{path} holds one set of weights only: it was trained without EMA")
        state = checkpoint["current_model_state"]
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the weights of {path} do not fit the model it describes: {error}") from error
    module.on_load_checkpoint(checkpoint)
    return module.eval()


def _class_paths(config: object) -> Iterator[str]:
    if isinstance(config, Mapping):
        if isinstance(config.get("class_path"), str):
            yield config["class_path"]
        for value in config.values():
            yield from _class_paths(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _class_paths(value)
