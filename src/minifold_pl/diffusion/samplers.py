"""From noise to a chain: one pure function per algorithm."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.diffusion.draws import centered_noise
from minifold_pl.diffusion.schedule import CosineSchedule
from minifold_pl.geometry.units import center


class Estimate(Protocol):
    """What a denoiser bound to its condition answers (``Denoised`` or ``GuidedEstimate``)."""

    @property
    def x0(self) -> Tensor:
        """Clean Cα positions, model units."""

    @property
    def rotation(self) -> Tensor:
        """One rotation a residue."""

    @property
    def local_atoms(self) -> Tensor | None:
        """N, Cα, C and O seen from each residue's frame, or None."""


E = TypeVar("E", bound=Estimate)


class SampleResult(NamedTuple):
    """A sampled batch, in model units, centred; masked residues are 0."""

    x0: Float[Tensor, "b l 3"]
    rotation: Float[Tensor, "b l 3 3"]
    trajectory: Float[Tensor, "s b l 3"] | None
    """x_t at each timestep of :func:`sampling_timesteps`, then the result; ``None`` unless asked for."""
    local_atoms: Float[Tensor, "b l 4 3"] | None = None
    """N, Cα, C and O seen from each residue's frame, where the denoiser predicts them."""


def sampling_timesteps(timesteps: int, steps: int) -> tuple[int, ...]:
    """``steps`` timesteps from T − 1 down, evenly spaced; the step after the last one is t = 0.

    Raises:
        ValueError: ``steps`` is not in 1 … T − 1.
    """
    last = timesteps - 1
    if not 1 <= steps <= last:
        raise ValueError(f"steps is {steps}; a schedule of {timesteps} timesteps allows 1 to {last}")
    return tuple(round(last * (steps - k) / steps) for k in range(steps))


@torch.no_grad()
def ddim(
    denoise: Callable[[Tensor, Tensor, E | None], E],
    schedule: CosineSchedule,
    mask: Bool[Tensor, "b l"],
    *,
    generators: Sequence[torch.Generator],
    steps: int = 50,
    eta: float = 0.0,
    step_scale: float = 1.0,
    self_condition: bool = True,
    keep_trajectory: bool = False,
) -> SampleResult:
    r"""Denoising diffusion implicit models (Song et al. 2020, arXiv:2010.02502, eqs. 12 and 16).

    .. math::
        x_s &= \sqrt{\bar\alpha_s}\,\hat x_0 + \sqrt{1 - \bar\alpha_s - \sigma^2}\,\hat\epsilon + \sigma z
        \\ \sigma &= \eta \sqrt{(1-\bar\alpha_s)/(1-\bar\alpha_t)} \sqrt{1 - \bar\alpha_t/\bar\alpha_s}

    ``step_scale`` makes the steps of x/√ᾱ, in which DDIM is Euler's method for σ = √((1 − ᾱ)/ᾱ), longer by that
    factor, at most to x̂0: η of AlphaFold 3 (suppl., Algorithm 18), for fewer and more certain structures.
    The last step returns x̂0. x̂0 and z are centred over the valid residues, because the process lives on
    centred chains. The start and every z of chain ``i`` come from ``generators[i]`` alone, drawn at the
    chain's own length, so its sample depends neither on the rest of the batch nor on padding (beyond the
    rounding of the network itself).

    Args:
        denoise: ``(x_t, t, previous) -> estimate``; ``x_t`` in model units, ``previous`` the last
            estimate or ``None``.
        schedule: ᾱ of every timestep.
        mask: valid residues; gives the lengths and the device.
        generators: one CPU generator a chain, see :func:`minifold_pl.diffusion.draws.keyed_generator`.
        steps: network calls, 1 … T − 1.
        eta: 0 is deterministic given the start, 1 has the noise of ancestral sampling.
        step_scale: factor of each step but the last; 1 is DDIM as published.
        self_condition: hand each estimate to the next step.
        keep_trajectory: also return every x_t.

    Raises:
        ValueError: ``steps``, ``eta`` or ``step_scale`` out of range, or not one generator per chain.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; DDIM takes 0 (deterministic) to 1 (ancestral)")
    if not 0 < step_scale < math.inf:
        raise ValueError(f"step_scale is {step_scale}; give a number above 0")
    times = sampling_timesteps(schedule.timesteps, steps)
    x = centered_noise(mask, generators)
    trajectory = [x]
    previous: E | None = None
    for t, s in zip(times, (*times[1:], 0), strict=True):
        estimate = denoise(x, torch.full((len(x),), t, device=x.device), previous if self_condition else None)
        previous = estimate
        x0 = center(estimate.x0.to(x.dtype), mask)
        alpha_t, alpha_s = schedule.alpha_bar(torch.tensor([t, s]), torch.float64).tolist()
        sigma = eta * ((1 - alpha_s) / (1 - alpha_t) * (1 - alpha_t / alpha_s)) ** 0.5
        eps = (x - alpha_t**0.5 * x0) / (1 - alpha_t) ** 0.5
        # max: rounding may leave a variance of -1e-17. At s = 0 every factor but that of x0 is exactly 0.
        left = max(1 - alpha_s - sigma**2, 0.0) ** 0.5
        if step_scale != 1 and s > 0:
            before, after = ((1 - alpha_t) / alpha_t) ** 0.5, left / alpha_s**0.5
            left = alpha_s**0.5 * max(before + step_scale * (after - before), 0.0)
        x = alpha_s**0.5 * x0 + left * eps
        if sigma > 0:
            x = x + sigma * centered_noise(mask, generators, x.dtype)
        trajectory.append(x)
    assert previous is not None  # steps >= 1
    kept = torch.stack(trajectory) if keep_trajectory else None
    return SampleResult(x, previous.rotation, kept, previous.local_atoms)
