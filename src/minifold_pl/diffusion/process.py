"""From the clean chain to the noised one and back, in model units."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from minifold_pl.diffusion.schedule import CosineSchedule


def add_noise(
    x0: Float[Tensor, "b l 3"], t: Int[Tensor, " b"], noise: Float[Tensor, "b l 3"], schedule: CosineSchedule
) -> Float[Tensor, "b l 3"]:
    """x_t = √ᾱ x0 + √(1 − ᾱ) ε, for a centred x0 and noise."""
    signal, sigma = _factors(x0, t, schedule)
    return signal * x0 + sigma * noise


def x0_to_eps(
    x_t: Float[Tensor, "b l 3"], t: Int[Tensor, " b"], x0: Float[Tensor, "b l 3"], schedule: CosineSchedule
) -> Float[Tensor, "b l 3"]:
    """The noise that an x̂0 implies, ε = (x_t − √ᾱ x̂0) / √(1 − ᾱ); t ≥ 1."""
    signal, sigma = _factors(x_t, t, schedule)
    return (x_t - signal * x0) / sigma


def eps_to_x0(
    x_t: Float[Tensor, "b l 3"], t: Int[Tensor, " b"], eps: Float[Tensor, "b l 3"], schedule: CosineSchedule
) -> Float[Tensor, "b l 3"]:
    """The clean chain that a noise implies, x0 = (x_t − √(1 − ᾱ) ε̂) / √ᾱ; t < T.

    An error of ε̂ comes back √(1/ᾱ − 1) times as large: 642 times at t = 999 of 1000.
    """
    signal, sigma = _factors(x_t, t, schedule)
    return (x_t - sigma * eps) / signal


def _factors(
    like: Float[Tensor, "b l 3"], t: Int[Tensor, " b"], schedule: CosineSchedule
) -> tuple[Float[Tensor, "b 1 1"], Float[Tensor, "b 1 1"]]:
    signal, noise = schedule.signal(t, like.dtype), schedule.noise(t, like.dtype)
    return signal[:, None, None], noise[:, None, None]
