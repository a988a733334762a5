"""Invariant point attentions of other projects, with the weights of ours where the equations are the same."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers.adapter import Adapter, Makers
from benchmarks.peers.checkout import importable
from benchmarks.peers.triangle import EMPTY, OPENFOLD
from minifold_pl.nn.ipa import InvariantPointAttention
from minifold_pl.types import Frames


class _Rigid(Adapter):
    """OpenFold, Genie 2, FrameFlow: frames as an object of the project's own."""

    def __init__(self, inner: nn.Module, rigid: Any, same_weights: bool) -> None:
        super().__init__(inner)
        self.rigid, self.same_weights = rigid, same_weights

    def forward(self, single: Tensor, pair: Tensor, frames: Frames, mask: Tensor) -> Tensor:
        """As ours; rows of masked residues mean nothing."""
        return self.inner(single, pair, self.rigid(frames), mask.to(single.dtype))


class _Tensors(Adapter):
    """lucidrains: rotations act from the right, and projections have no bias, so that the weights differ."""

    def forward(self, single: Tensor, pair: Tensor, frames: Frames, mask: Tensor) -> Tensor:
        """As ours, but for the weights."""
        rotations, translations = frames.rotation.mT, frames.translation
        return self.inner(single, pair, rotations=rotations, translations=translations, mask=mask)


def openfold(root: Path, ours: InvariantPointAttention) -> nn.Module:
    """OpenFold's."""
    with importable(root, OPENFOLD, EMPTY):
        from openfold.model.structure_module import InvariantPointAttention as Theirs
        from openfold.utils.rigid_utils import Rigid, Rotation
    inner = Theirs(**_sizes(ours))
    q_points, kv_points = inner.linear_q_points.linear, inner.linear_kv_points.linear
    _copy_weights(inner, q_points, kv_points, ours)
    return _Rigid(inner, lambda f: Rigid(Rotation(rot_mats=f.rotation), f.translation), same_weights=True)


def genie2(root: Path, ours: InvariantPointAttention) -> nn.Module:
    """Genie 2's."""
    with importable(root, ("genie", "genie.model", "genie.model.modules", "genie.utils")):
        from genie.model.modules.invariant_point_attention import InvariantPointAttention as Theirs
        from genie.utils.affine_utils import T
    inner = Theirs(**_sizes(ours))
    _copy_weights(inner, inner.linear_q_points, inner.linear_kv_points, ours)
    return _Rigid(inner, lambda f: T(f.rotation, f.translation), same_weights=True)


def frameflow(root: Path, ours: InvariantPointAttention) -> nn.Module:
    """FrameFlow's, which gathers a quarter of the pair channels only."""
    with importable(root, ("openfold", "openfold.utils", "models", "data"), empty=("data.all_atom",)):
        from models.ipa_pytorch import InvariantPointAttention as Theirs
        from openfold.utils.rigid_utils import Rigid, Rotation
    inner = Theirs(SimpleNamespace(**_sizes(ours)))
    return _Rigid(inner, lambda f: Rigid(Rotation(rot_mats=f.rotation), f.translation), same_weights=False)


def lucidrains(root: Path, ours: InvariantPointAttention) -> nn.Module:
    """The module of lucidrains."""
    with importable(root, ("invariant_point_attention",)):
        from invariant_point_attention.invariant_point_attention import InvariantPointAttention as Theirs
    return _Tensors(
        Theirs(
            dim=ours.scalars.in_features,
            heads=ours.heads,
            scalar_key_dim=ours.d_head,
            scalar_value_dim=ours.d_head,
            point_key_dim=ours.query_points,
            point_value_dim=ours.value_points,
            pairwise_repr_dim=ours.pair_bias.in_features,
        )
    )


MAKERS: Makers[InvariantPointAttention] = {
    "openfold": ("openfold", openfold),
    "genie2": ("genie2", genie2),
    "frameflow": ("frameflow", frameflow),
    "lucidrains": ("lucidrains-ipa", lucidrains),
}


def _sizes(ours: InvariantPointAttention) -> dict[str, int]:
    return {
        "c_s": ours.scalars.in_features,
        "c_z": ours.pair_bias.in_features,
        "c_hidden": ours.d_head,
        "no_heads": ours.heads,
        "no_qk_points": ours.query_points,
        "no_v_points": ours.value_points,
    }


@torch.no_grad()
def _copy_weights(
    inner: nn.Module, q_points: nn.Linear, kv_points: nn.Linear, ours: InvariantPointAttention
) -> None:
    """Theirs order keys and values within a head, points as x, y, z of all heads."""
    h, n_q, n_v = ours.heads, ours.query_points, ours.value_points
    for kind in ("weight", "bias"):
        q, k, v = getattr(ours.scalars, kind).unflatten(0, (3, h, -1))
        getattr(inner.linear_q, kind).copy_(q.flatten(0, 1))
        getattr(inner.linear_kv, kind).copy_(torch.cat((k, v), dim=1).flatten(0, 1))
        points = getattr(ours.points, kind).unflatten(0, (h, 2 * n_q + n_v, 3)).movedim(2, 0)
        getattr(q_points, kind).copy_(points[:, :, :n_q].flatten(0, 2))
        getattr(kv_points, kind).copy_(points[:, :, n_q:].flatten(0, 2))
        getattr(inner.linear_b, kind).copy_(getattr(ours.pair_bias, kind))
    inner.head_weights.copy_(ours.head_weight)
    widths = (h * ours.d_head, 3 * h * n_v, h * (ours.pair_bias.in_features + n_v))
    scalars, placed, rest = ours.out.weight.split(widths, dim=1)
    by_axis = placed.unflatten(1, (h * n_v, 3)).mT.flatten(1)
    inner.linear_out.weight.copy_(torch.cat((scalars, by_axis, rest), dim=1))
    inner.linear_out.bias.copy_(ours.out.bias)
