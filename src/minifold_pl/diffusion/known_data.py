"""Ideal denoisers of data that is known: what a sampler must do with them is known too."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minifold_pl.diffusion.schedule import CosineSchedule
from minifold_pl.types import Denoised


@dataclass(frozen=True)
class Oracle:
    """Knows each chain's truth."""

    truth: Float[Tensor, "b l 3"]
    """Model units, centred."""

    def __call__(
        self, x_t: Float[Tensor, "b l 3"], t: Int[Tensor, " b"], previous: Denoised | None = None
    ) -> Denoised:
        """The truth, whatever the noise."""
        return Denoised(self.truth, _no_rotation(x_t))


@dataclass(frozen=True)
class LibraryPosterior:
    """The ideal denoiser where the truth is one of ``library``, each in its own fixed pose: E[x0 | x_t], exactly.

    A ``scale`` other than 1 and ``mirrored`` make its answer wrong: a sampler that still ends at structures of the
    library would not follow its denoiser.
    """

    library: Float[Tensor, "k l 3"]
    """Model units, centred."""
    schedule: CosineSchedule
    scale: float = 1.0
    mirrored: bool = False

    def __call__(
        self, x_t: Float[Tensor, "b l 3"], t: Int[Tensor, " b"], previous: Denoised | None = None
    ) -> Denoised:
        """The mean of the posterior."""
        signal = self.schedule.signal(t, torch.float64)[:, None, None, None]
        noise = self.schedule.noise(t, torch.float64)[:, None]
        residual = x_t[:, None].double() - signal * self.library
        log_posterior = -residual.square().sum((-1, -2)) / (2 * noise**2)
        x0 = torch.einsum("bk,klx->blx", log_posterior.softmax(-1), self.library.double()) * self.scale
        if self.mirrored:
            x0 = x0 * torch.tensor([-1.0, 1.0, 1.0], dtype=x0.dtype)
        return Denoised(x0.to(x_t.dtype), _no_rotation(x_t))


def _no_rotation(x: Float[Tensor, "b l 3"]) -> Float[Tensor, "b l 3 3"]:
    return torch.eye(3, dtype=x.dtype, device=x.device).expand(*x.shape[:2], 3, 3)
