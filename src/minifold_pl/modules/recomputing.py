"""One option for what computes its activations again in the backward pass instead of keeping them."""

from __future__ import annotations

from typing import Final, Literal

from torch import nn

Recomputed = Literal["pair_stack", "denoiser", "both", "off", False]
"""YAML reads an ``off`` without quotes as false: both mean the same."""

_PARTS: Final = ("pair_stack", "denoiser")


def recompute_activations(module: nn.Module, what: Recomputed) -> None:
    """Set ``checkpoint_activations`` of the pair stack and of the denoiser; a distance head keeps its own setting.

    Outputs and gradients are the same whatever is chosen.

    Raises:
        ValueError: another name.
    """
    if what not in (*_PARTS, "both", "off", False):
        raise ValueError(f"checkpoint_activations is {what!r}; choose one of pair_stack, denoiser, both, off")
    for part in _PARTS:
        getattr(module, part).checkpoint_activations = what in (part, "both")
