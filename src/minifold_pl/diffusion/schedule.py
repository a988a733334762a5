"""How much of the signal is left at each timestep.

The index convention of the whole project: ``t = 0`` is the clean chain, ``t = 1 … T`` are the noised ones,
and ᾱ(t) = f(t) / f(0). It is the one convention that gives the write-up's figures: 57.7 % of the timesteps
1 … 1000 have a frame confidence above 0.5, SNR < 1 from t = 497 on, confidence 0 from t = 731 on. At t = T
nothing of the chain is left (ᾱ = 0), so training and sampling use t = 1 … T − 1, and a table over
``arange(T)`` covers every timestep that a network meets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CosineSchedule:
    r"""The cosine schedule of Nichol & Dhariwal 2021 (arXiv:2102.09672), eq. 17.

    .. math::
        \bar\alpha(t) = f(t) / f(0), \quad f(t) = \cos^2\left(\frac{t/T + s}{1 + s} \cdot \frac\pi2\right)

    Values are computed in float64 and returned as ``dtype``. We never multiply up the β of single steps,
    so their clip at 0.999, which acts on t = T alone, is not needed.
    """

    timesteps: int = 1000
    """T."""
    s: float = 0.008
    """Offset that keeps the first steps from being too small."""

    def __post_init__(self) -> None:
        if self.timesteps < 2:
            raise ValueError(f"timesteps is {self.timesteps}; a schedule needs at least 2")
        if not 0 <= self.s < 1:
            raise ValueError(f"s is {self.s}; the offset of the cosine schedule lies in [0, 1)")

    @property
    def last(self) -> int:
        """The noisiest timestep that is trained on and sampled from, T − 1."""
        return self.timesteps - 1

    def alpha_bar(
        self, t: Int[Tensor, "*shape"], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "*shape"]:
        """ᾱ(t), the share of the variance that is signal: 1 at t = 0, 0 at t = T."""
        return self._alpha_bar(t).to(dtype)

    def signal(self, t: Int[Tensor, "*shape"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "*shape"]:
        """√ᾱ(t), the factor of x0 in x_t."""
        return self._alpha_bar(t).sqrt().to(dtype)

    def noise(self, t: Int[Tensor, "*shape"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "*shape"]:
        """√(1 − ᾱ(t)), the factor of ε in x_t."""
        return (1 - self._alpha_bar(t)).sqrt().to(dtype)

    def snr(self, t: Int[Tensor, "*shape"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "*shape"]:
        """Signal-to-noise ratio ᾱ / (1 − ᾱ); infinite at t = 0."""
        alpha_bar = self._alpha_bar(t)
        return (alpha_bar / (1 - alpha_bar)).to(dtype)

    def sigma(self, t: Int[Tensor, "*shape"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "*shape"]:
        """√((1 − ᾱ) / ᾱ): the noise of x_t / √ᾱ = x0 + σε, 0 at t = 0."""
        alpha_bar = self._alpha_bar(t)
        return ((1 - alpha_bar) / alpha_bar).sqrt().to(dtype)

    def frame_confidence(
        self, t: Int[Tensor, "*shape"], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "*shape"]:
        """How far frames built from x_t are to be trusted: clamp((SNR − 0.2) / 0.8, 0, 1)."""
        return ((self.snr(t, torch.float64) - 0.2) / (1.0 - 0.2)).clamp(0, 1).to(dtype)

    def _alpha_bar(self, t: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        start = self.s / (1 + self.s) * math.pi / 2
        angle = (t.double() / self.timesteps + self.s) / (1 + self.s) * math.pi / 2
        # Rounding may put the ratio above 1 at t = 0, and the root of 1 − ᾱ would be NaN.
        return torch.where(t == 0, 1.0, (angle.cos() / math.cos(start)).square())
