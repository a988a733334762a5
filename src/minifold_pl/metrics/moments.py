r"""Superpositions from sums over residues, thousands of them at once.

A least-squares superposition of chosen residues needs 16 sums over them and nothing else: their number,
:math:`\sum x`, :math:`\sum y` and :math:`\sum y x^T` (x mobile, y target). And the squared distances after a
motion are a linear function of the same per-residue features,

.. math:: \lVert Rx + t - y \rVert^2
          = \lVert t \rVert^2 + 2 t^T R\, x - 2 t^T y - 2 \langle R, y x^T \rangle
          + \lVert x \rVert^2 + \lVert y \rVert^2,

so that both are matrix products. Sums run along the first axis here (``s r``: one column a superposition), so that
every step is one pass over memory.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

SUMS = 16
"""1, x (3), y (3), y xᵀ (9)."""
FEATURES = SUMS + 1
"""And ‖x‖² + ‖y‖²."""
_ORTHOGONAL = 1e-6
"""How far a rotation's squared entries may add up to something else than 3 before it is computed by SVD."""
_TINY = 1e-30


def residue_features(
    mobile: Float[Tensor, "*b l 3"], target: Float[Tensor, "*b l 3"]
) -> Float[Tensor, "*b l 17"]:
    """What sums and squared distances are linear in, residue by residue."""
    products = (target.unsqueeze(-1) * mobile.unsqueeze(-2)).flatten(-2)
    squares = (mobile.square() + target.square()).sum(-1, keepdim=True)
    return torch.cat([torch.ones_like(squares), mobile, target, products, squares], dim=-1)


def rigid_motion(sums: Float[Tensor, "16 r"]) -> tuple[Float[Tensor, "3 3 r"], Float[Tensor, "3 r"]]:
    """Rotation and translation of least squared distance for each column of sums; a proper rotation always.

    Weighted sums give the weighted superposition. Give float64: the covariance is a difference of large numbers.
    """
    count, x, y, products = sums[0], sums[1:4], sums[4:7], sums[7:16]
    x_mean, y_mean = x / count, y / count
    covariance = products.unflatten(0, (3, 3)) - y[:, None] * x_mean[None]
    rotation = nearest_rotation(covariance)
    return rotation, y_mean - (rotation * x_mean).sum(1)


def squared_distance_rows(
    rotation: Float[Tensor, "3 3 r"], translation: Float[Tensor, "3 r"]
) -> Float[Tensor, "17 r"]:
    """Coefficients of :func:`residue_features` that give each residue's squared distance after the motion."""
    turned = (rotation * translation[:, None]).sum(0)
    square = translation.square().sum(0, keepdim=True)
    return torch.cat(
        [square, 2 * turned, -2 * translation, -2 * rotation.flatten(0, 1), torch.ones_like(square)]
    )


def nearest_rotation(covariance: Float[Tensor, "3 3 r"]) -> Float[Tensor, "3 3 r"]:
    r"""The proper rotation R that maximises :math:`\langle R, B \rangle` for each covariance B.

    FOAM (Markley 1993, J. Astronaut. Sci. 41:261): with :math:`\lambda = \sigma_1 + \sigma_2 \pm \sigma_3` the largest
    root of :math:`(\lambda^2 - \lVert B \rVert^2)^2 - 8 \lambda \det B - 4 \lVert \operatorname{cof} B \rVert^2`,

    .. math:: R = [(\kappa + \lVert B \rVert^2) B + \lambda \operatorname{cof} B - B B^T B] / (\kappa \lambda - \det B),
              \qquad \kappa = (\lambda^2 - \lVert B \rVert^2) / 2.

    The root is the trigonometric one of the cubic for :math:`\sigma_i^2`, polished by a step of Newton's method. Where
    it is (nearly) double no formula is accurate, and a singular value decomposition takes over.
    """
    b = covariance / covariance.square().sum((0, 1)).sqrt().clamp(min=_TINY)
    wrapped = torch.cat([b, b[:2]])
    wrapped = torch.cat([wrapped, wrapped[:, :2]], 1)
    cofactors = wrapped[1:4, 1:4] * wrapped[2:, 2:] - wrapped[1:4, 2:] * wrapped[2:, 1:4]
    determinant = (b[0] * cofactors[0]).sum(0)
    cofactor_square = cofactors.square().sum((0, 1))
    root = _largest_root(determinant, cofactor_square)
    kappa = (root.square() - 1) / 2
    gram = (b[:, None] * b[None]).sum(2)
    cubed = (gram[:, :, None] * b[None]).sum(1)
    rotation = ((kappa + 1) * b + root * cofactors - cubed) / (kappa * root - determinant)
    # Also where it is NaN.
    doubtful = ~((rotation.square().sum((0, 1)) - 3).abs() < _ORTHOGONAL)
    if doubtful.any():
        rotation[:, :, doubtful] = _rotation_by_svd(b[:, :, doubtful])
    return rotation


def _largest_root(
    determinant: Float[Tensor, " r"], cofactor_square: Float[Tensor, " r"]
) -> Float[Tensor, " r"]:
    """σ1 + σ2 ± σ3 of a matrix of norm 1, the sign that of its determinant."""
    spread = (1 - 3 * cofactor_square).clamp(min=0).sqrt()
    ratio = (1 - 4.5 * cofactor_square + 13.5 * determinant.square()) / spread.pow(3).clamp(min=_TINY)
    angle = ratio.clamp(-1, 1).acos() / 3
    thirds = torch.tensor(
        [[0.0], [-2 * math.pi / 3], [2 * math.pi / 3]], dtype=angle.dtype, device=angle.device
    )
    sizes = ((1 + 2 * spread * (angle + thirds).cos()) / 3).clamp(min=0).sqrt()
    root = sizes[0] + sizes[1] + determinant.sign() * sizes[2]
    above = root.square() - 1
    value = above.square() - 8 * determinant * root - 4 * cofactor_square
    return root - value / (4 * above * root - 8 * determinant)


def _rotation_by_svd(b: Float[Tensor, "3 3 r"]) -> Float[Tensor, "3 3 r"]:
    finite = b.movedim(-1, 0).nan_to_num()
    u, _, vh = torch.linalg.svd(finite)
    hand = torch.ones_like(finite[:, 0])
    hand[:, 2] = torch.det(u @ vh).sign()
    return ((u * hand.unsqueeze(1)) @ vh).movedim(0, -1)
