"""A shipped version at reduced width: its own config, with every size that stands for width or depth cut down."""

from __future__ import annotations

from typing import Any

from minifold_pl.cli.lightning_cli import resolve_config

SIZES: dict[str, dict[str, Any]] = {
    "ContactClassifier": {
        "d": 32, "d_pair": 16, "layers": 1, "ffn": 64, "heads": 2, "outer_hidden": 8, "pair_heads": 2, "positions": 128,
    },
    "PairStack": {
        "d_single_in": 32, "d_pair_in": 16, "d_pair": 16, "blocks": 2, "heads": 2, "d_head": 8, "transition": 2,
        "triangle_hidden": 8, "outer_hidden": 8,
    },
    "LinearRelativePosition": {"d": 16},
    "LogRelativePosition": {"d": 16},
    "EGNNDenoiser": {"d_single_in": 32, "d_pair": 16, "d": 32, "layers": 3},
    "IPADenoiser": {
        "d_single_in": 32, "d_pair": 16, "d": 48, "layers": 3, "heads": 2, "d_head": 8, "query_points": 3,
        "value_points": 4, "ffn": 64,
    },
    "BackboneAtomHead": {"d": 48, "hidden": 24},
    "AuxDistanceStack": {"d_single_in": 32, "d_pair_in": 16, "d": 8, "blocks": 1, "heads": 2, "d_head": 8},
    "DetachedDistogram": {"d_pair": 16, "hidden": 16},
    "RgHead": {"d_pooled": 32, "hidden": 16},
}  # fmt: skip
"""Sizes by class; everything else stays as the version has it."""


def reduced(name: str) -> dict[str, Any]:
    """An overlay on the shipped config ``name``, as a config of its own."""
    parts: dict[str, Any] = {}
    for part, value in resolve_config(name)["model"]["init_args"].items():
        if isinstance(value, dict) and "class_path" in value:
            parts |= {part: overlay} if (overlay := _smaller(value)) else {}
    return {"base": f"{name}.yaml", "data": {"num_workers": 0}, "model": {"init_args": parts}}


def _smaller(part: dict[str, Any]) -> dict[str, Any]:
    sizes = dict(SIZES.get(part["class_path"].rsplit(".", 1)[-1], {}))
    for name, value in part.get("init_args", {}).items():
        if isinstance(value, dict) and "class_path" in value and (inner := _smaller(value)):
            sizes[name] = inner
    # a network of the frame update stays one, a single map stays a single map
    if part.get("init_args", {}).get("update_hidden"):
        sizes["update_hidden"] = 24
    return {"init_args": sizes} if sizes else {}
