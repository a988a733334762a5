"""What a peer's module is wrapped in: our arguments in, its result out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from torch import nn

_M = TypeVar("_M", bound=nn.Module)


class Adapter(nn.Module):
    """A peer's module that is called as ours is.

    Args:
        inner: the peer's module.
    """

    same_weights = False
    """Whether it computes our function with our weights, so that the results can be compared."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


Makers = Mapping[str, tuple[str, Callable[[Path, _M], nn.Module]]]
"""Contender → the checkout it needs, and what makes it from that and our module."""


def make(makers: Makers[_M], ours: _M, peers: Mapping[str, Path]) -> tuple[dict[str, nn.Module], list[str]]:
    """Every peer that can be made, and for each that cannot the reason."""
    made, reasons = {}, []
    for name, (checkout, maker) in makers.items():
        if checkout not in peers:
            reasons.append(f"{name}: no checkout given (--peer {checkout}=PATH)")
            continue
        try:
            made[name] = maker(peers[checkout], ours).to(next(ours.parameters()).device)
        except Exception as error:  # whatever another project does on import
            reasons.append(
                f"{name}: cannot be imported from {peers[checkout]}: {type(error).__name__}: {error}"
            )
    return made, reasons
