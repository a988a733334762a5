"""The floor of one-step prediction: the best linear guess of a noised chain that knows no sequence."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.constants import CA_CA_BOND, MODEL_UNIT
from minifold_pl.geometry.precision import full_precision
from minifold_pl.geometry.units import center

_BOND_CORRELATION = math.cos(math.radians(180 - 106))
"""Mean cosine between consecutive Cα–Cα bonds."""


@full_precision
def wiener_smoother(
    noised: Float[Tensor, "b l 3"],
    alpha_bar: Float[Tensor, " b"],
    mask: Bool[Tensor, "b l"],
    unit: Float[Tensor, " b"] | None = None,
) -> Float[Tensor, "b l 3"]:
    r"""E[x0 | x_t] of a Gaussian chain: all that can be said from the noised chain and its being a chain.

    .. math::
        \hat x_0 &= \sqrt{\bar\alpha}\, C (\bar\alpha\, C + (1 - \bar\alpha) u^2 I)^{-1} x_t,
        \qquad C = -\tfrac16 P D P
        \\ D_{ij} &= b^2 \left(n \frac{1 + a}{1 - a} - \frac{2 a (1 - a^n)}{(1 - a)^2}\right), \quad n = |i - j|

    C is the covariance of a coordinate of a freely rotating chain (Flory 1969, ch. I.4), centred by P: bonds of
    b = 3.80 Å, each turned from the last by 180° − 106°, the mean Cα angle, so that a = 0.276. u = 10 Å is the unit
    in which the noise has variance 1. Computed in float64. It beats a chain of independent bonds (a = 0), and one of
    the mean squared distances of real chains, at nearly every timestep.

    Args:
        noised: x_t = √ᾱ x0 + √(1 − ᾱ) ε, in Å, centred.
        alpha_bar: ᾱ of each chain, in (0, 1).
        mask: Residues of the sequence; others are 0 in the result.
        unit: u of each chain in Å, where it is not 10.

    Returns:
        x̂0 in Å, of the dtype of ``noised``.
    """
    x = center(noised.double(), mask)
    alpha = alpha_bar.to(x)[:, None, None]
    covariance = _chain_covariance(mask)
    identity = torch.eye(mask.shape[1], dtype=x.dtype, device=x.device)
    # Masked rows of the covariance are 0: there the system is the identity times the noise, and x is 0.
    variance = MODEL_UNIT**2 if unit is None else unit.to(x)[:, None, None] ** 2
    system = alpha * covariance + (1 - alpha) * variance * identity
    guess = alpha.sqrt() * covariance @ torch.linalg.solve(system, x)
    return guess.to(noised.dtype)


def _chain_covariance(mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b l l"]:
    place = torch.arange(mask.shape[1], dtype=torch.float64, device=mask.device)
    n, a = (place[:, None] - place).abs(), _BOND_CORRELATION
    squared = CA_CA_BOND**2 * (n * (1 + a) / (1 - a) - 2 * a * (1 - a**n) / (1 - a) ** 2)
    weight = mask.double()
    count = weight.sum(1).clamp(min=1)
    centring = torch.diag_embed(weight) - weight[:, :, None] * weight[:, None, :] / count[:, None, None]
    return -centring @ squared @ centring / 6
