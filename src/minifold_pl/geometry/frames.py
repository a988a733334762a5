r"""Rigid frames: from three atoms, from a Cα trace, composed, interpolated and drawn at random.

A frame maps local to global, :math:`x = R\,p + t`; the columns of ``R`` are its axes in the global system.
Everything is right-handed, quaternions are in the order x, y, z, w. Translations carry the unit of the points
they were built from (Å or model units alike).
"""

from __future__ import annotations

import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.geometry.measures import bond_mask
from minifold_pl.geometry.precision import full_precision
from minifold_pl.types import Frames

_SHORTEST = 1e-4
"""Vectors shorter than this (in whatever unit) have no direction."""
_SMALLEST_SINE = 1e-3
"""Three points whose angle has a smaller sine (0.06°) are collinear; no real triplet comes near. It bounds
the gradient of a direction to 1/(sine · length), which fp16 can still hold."""


@full_precision
def gram_schmidt(
    a: Float[Tensor, "*batch 3"], b: Float[Tensor, "*batch 3"], c: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 3 3"]:
    r"""Rotation from three points: columns e1 along ``c - b``, e2 in the plane towards ``a``, e3 = e1 × e2.

    AlphaFold 2, suppl. Algorithm 21, with (x1, x2, x3) = (a, b, c). Always a proper rotation with finite
    gradients: where ``c`` coincides with ``b``, e1 is the x axis, and where the points are collinear (sine of
    the angle below 0.001) e2 starts from the coordinate axis farthest from e1. There, and only there, the
    result is not equivariant.
    """
    v1, v2 = c - b, a - b
    e1 = _direction(v1, _axis(v1, 0), _squared(v1) > _SHORTEST**2)
    in_plane = _reject(v2, e1)
    length2 = _squared(v2)
    bent = (length2 > _SHORTEST**2) & (_squared(in_plane) > _SMALLEST_SINE**2 * length2)
    farthest = (torch.arange(3, device=e1.device) == e1.detach().abs().argmin(-1, keepdim=True)).to(e1.dtype)
    e2 = _direction(in_plane, _reject(farthest, e1), bent)
    # twice is enough: one pass leaves an error of eps / sine along e1
    e2 = _direction(_reject(e2, e1), e2, torch.ones_like(bent))
    return torch.stack((e1, e2, torch.linalg.cross(e1, e2)), dim=-1)


@full_precision
def ca_frames(
    ca: Float[Tensor, "*b l 3"], mask: Bool[Tensor, "*b l"], bonded: Bool[Tensor, "*b l"]
) -> Frames:
    """Frames of a Cα trace: Gram–Schmidt on (i-1, i, i+1), translation Cα.

    The ends of a chain, and the residues beside a break, copy the rotation of their neighbour in the same
    segment. Segments of fewer than three residues, and residues outside ``mask``, have the identity
    (see :func:`ca_frame_mask`). ``bonded[i]`` joins residues i and i + 1.
    """
    identity = torch.eye(3, dtype=ca.dtype, device=ca.device).expand(*mask.shape, 3, 3)
    if mask.shape[-1] < 3:
        return Frames(identity.clone(), ca)
    own, from_next, from_previous = _rotation_sources(mask, bonded)
    # masked rows may hold anything; 0 keeps them out of the gradient
    clean = ca.where(mask.unsqueeze(-1), ca.new_zeros(()))
    inner = gram_schmidt(clean[..., :-2, :], clean[..., 1:-1, :], clean[..., 2:, :])
    padded = torch.cat((identity[..., :1, :, :], inner, identity[..., :1, :, :]), dim=-3)
    rotation = _pick(own, padded, identity)
    rotation = _pick(from_next, padded.roll(-1, dims=-3), rotation)
    return Frames(_pick(from_previous, padded.roll(1, dims=-3), rotation), ca)


def ca_frame_mask(mask: Bool[Tensor, "*b l"], bonded: Bool[Tensor, "*b l"]) -> Bool[Tensor, "*b l"]:
    """Residues whose rotation in :func:`ca_frames` comes from a triplet, their own or their neighbour's."""
    own, from_next, from_previous = _rotation_sources(mask, bonded)
    return own | from_next | from_previous


def backbone_frames(
    n: Float[Tensor, "*batch 3"], ca: Float[Tensor, "*batch 3"], c: Float[Tensor, "*batch 3"]
) -> Frames:
    """Frames of AlphaFold 2: origin Cα, e1 towards C, N in the xy plane with y > 0."""
    return Frames(gram_schmidt(n, ca, c), ca)


@full_precision
def to_local(frames: Frames, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    r""":math:`R^\top (x - t)`; leading axes broadcast: (b i 1) frames see every point of (b 1 j)."""
    return torch.einsum("...xd,...x->...d", frames.rotation, points - frames.translation)


@full_precision
def to_global(frames: Frames, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """:math:`R p + t`; leading axes broadcast."""
    return torch.einsum("...xd,...d->...x", frames.rotation, points) + frames.translation


@full_precision
def compose(a: Frames, b: Frames) -> Frames:
    """``a`` after ``b``: ``to_global(compose(a, b), p) == to_global(a, to_global(b, p))``."""
    return Frames(a.rotation @ b.rotation, to_global(a, b.translation))


@full_precision
def rotation_from_quaternion_update(update: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation of the quaternion (x, y, z, w) = (update, 1), normalised: the identity at 0.

    AlphaFold 2, suppl. Algorithm 23; it reaches every rotation below 180°.
    """
    quaternion = torch.cat((update, torch.ones_like(update[..., :1])), dim=-1)
    return roma.unitquat_to_rotmat(quaternion / _squared(quaternion).sqrt())


@full_precision
def slerp_from_identity(
    rotation: Float[Tensor, "*batch 3 3"], fraction: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch 3 3"]:
    """The rotation about the same axis by ``fraction`` of the angle: 0 gives the identity, 1 ``rotation``.

    ``fraction`` broadcasts against the leading axes. Values and gradients are finite at every angle; at
    exactly 180° one of the two equally short ways is taken.
    """
    quaternion = _to_quaternion(rotation)
    v, w = quaternion[..., :3], quaternion[..., 3:]
    fraction = fraction.to(rotation.dtype).unsqueeze(-1)
    sine2 = _squared(v)
    turned = sine2 > 1e-10
    sine = sine2.where(turned, torch.ones_like(sine2)).sqrt()
    half_angle = fraction * torch.atan2(sine, w)
    # below 1e-5 rad the rotation vector is linear in the fraction
    scale = (half_angle.sin() / sine).where(turned, fraction)
    cosine = half_angle.cos().where(turned, torch.ones_like(half_angle))
    part = torch.cat((v * scale, cosine.expand(*scale.shape)), dim=-1)
    return roma.unitquat_to_rotmat(part / _squared(part).sqrt())


@full_precision
def rotation_angle_cosine(
    a: Float[Tensor, "*batch 3 3"], b: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch"]:
    r""":math:`\cos\theta = (\operatorname{tr}(A^\top B) - 1)/2`, θ the angle that turns ``a`` into ``b``.

    Linear in both, so that its gradient is finite at 0 and π. Not clamped: rounding may overshoot by 1e-7.
    """
    return (torch.einsum("...xy,...xy->...", a, b) - 1) / 2


def random_rotations(
    n: int, generator: torch.Generator | None = None, *, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "n 3 3"]:
    """``n`` rotations, uniform on SO(3), on the generator's device (the CPU without one)."""
    device = generator.device if generator is not None else torch.device("cpu")
    quaternion = torch.randn(n, 4, generator=generator, dtype=dtype, device=device)
    return roma.unitquat_to_rotmat(torch.nn.functional.normalize(quaternion, dim=-1))


def _rotation_sources(mask: Tensor, bonded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where each residue's rotation comes from: its own triplet, the next residue's, the previous one's."""
    nothing = torch.zeros_like(mask[..., :1])
    to_next = torch.cat((bond_mask(mask, bonded), nothing), dim=-1)
    to_previous = torch.cat((nothing, to_next[..., :-1]), dim=-1)
    own = to_next & to_previous
    next_own = torch.cat((own[..., 1:], nothing), dim=-1)
    previous_own = torch.cat((nothing, own[..., :-1]), dim=-1)
    from_next = ~own & to_next & next_own
    from_previous = ~own & to_previous & previous_own & ~from_next
    return own, from_next, from_previous


def _pick(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(condition[..., None, None], yes, no)


def _squared(v: Tensor) -> Tensor:
    return (v * v).sum(-1, keepdim=True)


def _reject(v: Tensor, unit: Tensor) -> Tensor:
    """The part of ``v`` at right angles to ``unit``."""
    return v - (v * unit).sum(-1, keepdim=True) * unit


def _axis(like: Tensor, index: int) -> Tensor:
    axis = torch.zeros_like(like)
    axis[..., index] = 1
    return axis


def _direction(v: Tensor, fallback: Tensor, usable: Tensor) -> Tensor:
    """Unit vector along ``v`` where ``usable``, else along ``fallback``."""
    # chosen before the root: a root that is thrown away afterwards still has a NaN gradient
    chosen = torch.where(usable, v, fallback)
    return chosen * _squared(chosen).rsqrt()


def _to_quaternion(rotation: Tensor) -> Tensor:
    """Unit quaternion x, y, z, w with w ≥ 0.

    Four formulas, each dividing by one component; that of the largest component never divides by less than ½.
    """
    r = rotation
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = ((r[..., i, 0], r[..., i, 1], r[..., i, 2]) for i in range(3))
    rows = (
        (1 + xx - yy - zz, xy + yx, xz + zx, zy - yz),
        (xy + yx, 1 - xx + yy - zz, yz + zy, xz - zx),
        (xz + zx, yz + zy, 1 - xx - yy + zz, yx - xy),
        (zy - yz, xz - zx, yx - xy, 1 + xx + yy + zz),
    )
    table = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    largest = table.detach().diagonal(dim1=-2, dim2=-1).argmax(-1)
    index = largest[..., None, None].expand(*largest.shape, 1, 4)
    quaternion = table.gather(-2, index).squeeze(-2)
    quaternion = quaternion * _squared(quaternion).rsqrt()
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)
