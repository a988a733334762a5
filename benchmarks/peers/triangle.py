"""Triangle multiplicative updates of other projects, with the weights of ours where the equations are the same."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.peers.adapter import Adapter, Makers
from benchmarks.peers.checkout import importable
from minifold_pl.nn.masking import pair_mask
from minifold_pl.nn.triangle import TriangleMultiplication

OPENFOLD = ("openfold", "openfold.model", "openfold.utils", "openfold.np")
"""Their ``__init__`` files import all of the project."""
EMPTY = ("attn_core_inplace_cuda", "openfold.np.protein")
"""An extension for inference in place, and a reader of structure files."""


class _FloatMask(Adapter):
    """OpenFold and Genie 2: the pair mask as a float."""

    same_weights = True

    def forward(self, pair: Tensor, mask: Tensor) -> Tensor:
        """As ours."""
        return self.inner(pair, pair_mask(mask).to(pair.dtype))


class _BoolMask(Adapter):
    """lucidrains: a boolean mask. Its output gate has the width of the sum, so that the weights differ."""

    def forward(self, pair: Tensor, mask: Tensor) -> Tensor:
        """As ours, but for the gate."""
        return self.inner(pair, pair_mask(mask))


def openfold(root: Path, ours: TriangleMultiplication) -> nn.Module:
    """OpenFold's, with separate projections."""
    with importable(root, OPENFOLD, EMPTY):
        from openfold.model.triangular_multiplicative_update import TriangleMultiplicativeUpdate
    inner = TriangleMultiplicativeUpdate(ours.edges.in_features, ours.edges.out_features // 4, ours.outgoing)
    _separate(inner, ours)
    return _FloatMask(inner)


def openfold_fused(root: Path, ours: TriangleMultiplication) -> nn.Module:
    """OpenFold's, with one projection and one gate for both edges."""
    with importable(root, OPENFOLD, EMPTY):
        from openfold.model.triangular_multiplicative_update import FusedTriangleMultiplicativeUpdate
    inner = FusedTriangleMultiplicativeUpdate(
        ours.edges.in_features, ours.edges.out_features // 4, ours.outgoing
    )
    values, gates = _rows(ours, 2)
    _copy(inner.linear_ab_p, values)
    _copy(inner.linear_ab_g, gates)
    _rest(inner, ours)
    return _FloatMask(inner)


def genie2(root: Path, ours: TriangleMultiplication) -> nn.Module:
    """Genie 2's."""
    with importable(root, ("genie", "genie.model", "genie.model.modules", "genie.utils")):
        from genie.model.modules.triangular_multiplicative_update import TriangleMultiplicativeUpdate
    inner = TriangleMultiplicativeUpdate(ours.edges.in_features, ours.edges.out_features // 4, ours.outgoing)
    _separate(inner, ours)
    return _FloatMask(inner)


def lucidrains(root: Path, ours: TriangleMultiplication) -> nn.Module:
    """The module of lucidrains, whose gate acts before the last map."""
    with importable(root, ("triangle_multiplicative_module",)):
        from triangle_multiplicative_module.triangle_multiplicative_module import TriangleMultiplicativeModule
    mix = "outgoing" if ours.outgoing else "ingoing"
    return _BoolMask(
        TriangleMultiplicativeModule(
            dim=ours.edges.in_features, hidden_dim=ours.edges.out_features // 4, mix=mix
        )
    )


MAKERS: Makers[TriangleMultiplication] = {
    "openfold": ("openfold", openfold),
    "openfold fused": ("openfold", openfold_fused),
    "genie2": ("genie2", genie2),
    "lucidrains": ("lucidrains-triangle", lucidrains),
}


def _separate(inner: nn.Module, ours: TriangleMultiplication) -> None:
    targets = (inner.linear_a_p, inner.linear_b_p, inner.linear_a_g, inner.linear_b_g)
    for target, source in zip(targets, _rows(ours, 4), strict=True):
        _copy(target, source)
    _rest(inner, ours)


def _rows(ours: TriangleMultiplication, parts: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(ours.edges.weight.chunk(parts), ours.edges.bias.chunk(parts), strict=True))


def _rest(inner: nn.Module, ours: TriangleMultiplication) -> None:
    for target, source in (
        (inner.linear_g, ours.gate),
        (inner.linear_z, ours.out),
        (inner.layer_norm_in, ours.norm),
        (inner.layer_norm_out, ours.norm_sum),
    ):
        _copy(target, (source.weight, source.bias))


@torch.no_grad()
def _copy(target: nn.Module, source: tuple[Tensor, Tensor]) -> None:
    target.weight.copy_(source[0])
    target.bias.copy_(source[1])
