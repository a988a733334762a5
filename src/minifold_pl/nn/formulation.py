"""Which form of the same equations the modules compute: one switch for a whole network."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

Formulation = Literal["fast", "textbook", "cuequivariance"]
"""``fast``: the forms that win on time and memory. ``textbook``: the equations as they are printed, the reference.
``cuequivariance``: ``fast``, with the triangle updates by NVIDIA's kernels (extra ``cuda``, needs a GPU)."""


class Formulated(nn.Module):
    """A module that can be computed in more than one form; parameters and their names are the same in all."""

    formulation: Formulation = "fast"


def set_formulation(network: nn.Module, formulation: Formulation) -> None:
    """Choose the form of every :class:`Formulated` module within ``network``, itself included.

    Raises:
        ValueError: another name.
    """
    if formulation not in get_args(Formulation):
        raise ValueError(f"formulation={formulation!r}: choose one of {', '.join(get_args(Formulation))}")
    for module in network.modules():
        if isinstance(module, Formulated):
            module.formulation = formulation
