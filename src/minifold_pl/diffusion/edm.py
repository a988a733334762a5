"""The samplers of Karras et al. 2022 on this project's process: Heun's or Euler's method, ODE or SDE."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from minifold_pl.diffusion.draws import centered_noise
from minifold_pl.diffusion.samplers import E, SampleResult
from minifold_pl.diffusion.schedule import CosineSchedule
from minifold_pl.geometry.units import center

SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0
"""Karras et al. 2022, table 1; σ in model units."""
_MOST_CHURN = math.sqrt(2) - 1
"""At most as much new noise as there is already (Karras et al. 2022, section 4)."""


def edm_timesteps(
    schedule: CosineSchedule,
    steps: int,
    *,
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = SIGMA_MAX,
    rho: float = RHO,
) -> tuple[int, ...]:
    r"""``steps`` falling timesteps whose σ follow Karras et al. 2022, eq. 5; the step after the last one is t = 0.

    .. math::
        \sigma_i = \left(\sigma_{max}^{1/\rho} + \frac{i}{N-1}
        (\sigma_{min}^{1/\rho} - \sigma_{max}^{1/\rho})\right)^\rho

    Networks know whole timesteps alone: each σ becomes that of the timestep nearest to it in log σ, as Karras et al.
    do with models of discrete levels (their section C.3.4), and where several would fall on one, those above move up.
    A σ beyond the schedule's ends is that of its end: 0.0064 (t = 1) and 642 (t = 999) of 1000 timesteps.

    Raises:
        ValueError: the range is empty, ``rho`` is not above 0, or there are fewer timesteps between than ``steps``.
    """
    if not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"sigma_min is {sigma_min} and sigma_max {sigma_max}; give 0 < sigma_min < sigma_max"
        )
    if not 0 < rho < math.inf:
        raise ValueError(f"rho is {rho}; give a number above 0 (Karras et al. 7)")
    levels = _levels(schedule)
    low, high = (min(max(sigma, float(levels[1])), float(levels[-1])) for sigma in (sigma_min, sigma_max))
    first, last = _nearest(levels, high), _nearest(levels, low)
    if not 1 <= steps <= first - last + 1:
        raise ValueError(
            f"steps is {steps}; sigma_min {sigma_min:g} to sigma_max {sigma_max:g} of a schedule of "
            f"{schedule.timesteps} timesteps allow 1 to {first - last + 1}"
        )
    ends = high ** (1 / rho), low ** (1 / rho)
    shares = [k / max(steps - 1, 1) for k in range(steps)]
    times = [_nearest(levels, (ends[0] + share * (ends[1] - ends[0])) ** rho) for share in shares]
    for k in range(steps - 2, -1, -1):
        times[k] = max(times[k], times[k + 1] + 1)
    # What had to move up may have passed the first one.
    return tuple(min(t, first - k) for k, t in enumerate(times))


@torch.no_grad()
def edm(
    denoise: Callable[[Tensor, Tensor, E | None], E],
    schedule: CosineSchedule,
    mask: Bool[Tensor, "b l"],
    *,
    generators: Sequence[torch.Generator],
    times: Sequence[int],
    order: Literal[1, 2] = 2,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    noise_scale: float = 1.0,
    step_scale: float = 1.0,
    self_condition: bool = True,
    keep_trajectory: bool = False,
) -> SampleResult:
    r"""Algorithm 2 of Karras et al. 2022 (arXiv:2206.00364); without churn it is their Algorithm 1.

    It integrates in y = x_t / √ᾱ = x0 + σε with σ = √((1 − ᾱ) / ᾱ), in which the probability-flow ODE has the slope
    (y − x̂0) / σ. A step from σ to σ' first adds noise up to σ̂ = (1 + γ) σ, then follows the slope there:

    .. math::
        \hat y &= y + S\sqrt{\hat\sigma^2 - \sigma^2}\,z, \quad
        d = (\hat y - \hat x_0(\hat y)) / \hat\sigma, \quad y' = \hat y + \eta\,(\sigma' - \hat\sigma)\,d
        \\ y' &\leftarrow \hat y + (\sigma' - \hat\sigma)\,(d + d') / 2, \quad
        d' = (y' - \hat x_0(y')) / \sigma'

    The second line is Heun's correction, of ``order`` 2 alone. σ̂ is that of the timestep nearest to it, too, so that
    x_t always has exactly the noise of the timestep that the network is told. The last step returns x̂0. Without
    churn, order 1 is DDIM at η = 0. x̂0 and z are centred, and all noise of chain ``i`` comes from ``generators[i]``,
    as in :func:`~minifold_pl.diffusion.samplers.ddim`.

    The sampler of AlphaFold 3 (suppl., Algorithm 18) is order 1 with ``noise_scale`` λ = 1.003 and ``step_scale``
    η = 1.5; its γ of 0.8 above a σ is beyond the √2 − 1 that Karras et al. allow.

    Args:
        denoise: ``(x_t, t, previous) -> estimate``; ``x_t`` in model units, ``previous`` the estimate of the last
            call or ``None``.
        schedule: ᾱ of every timestep.
        mask: valid residues; gives the lengths and the device.
        generators: one CPU generator a chain, see :func:`minifold_pl.diffusion.draws.keyed_generator`.
        times: falling timesteps, 1 … T − 1, see :func:`edm_timesteps`. They cost as many network calls with order 1,
            twice as many less one with order 2.
        order: 2 Heun, 1 Euler.
        churn: S_churn, over all steps: γ is ``churn`` / steps, at most √2 − 1. 0 is the ODE, above it is an SDE.
        churn_min: S_tmin; below this σ nothing is added.
        churn_max: S_tmax; above this σ nothing is added.
        noise_scale: S_noise, S above.
        step_scale: η above, of order 1; not in the last step.
        self_condition: hand each estimate to the next call.
        keep_trajectory: also return every x_t.

    Raises:
        ValueError: ``times`` do not fall within 1 … T − 1, an option is out of range, or not one generator a chain.
    """
    if (
        not times
        or any(s >= t for t, s in zip(times, (*times[1:], 0), strict=True))
        or times[0] > schedule.last
    ):
        raise ValueError(f"times are {tuple(times)}; give timesteps that fall within {schedule.last} … 1")
    if not 0 <= churn < math.inf:
        raise ValueError(f"churn is {churn}; give 0 (deterministic) or more")
    if order == 2 and step_scale != 1:
        raise ValueError(f"step_scale is {step_scale}; Heun's correction (order 2) allows 1 alone")
    levels = _levels(schedule)
    sigma = levels.tolist()
    gamma = min(churn / len(times), _MOST_CHURN)
    previous: E | None = None

    def x0_from(y: Tensor, t: int) -> Tensor:
        nonlocal previous
        # √ᾱ = 1 / √(1 + σ²): x_t has the scale that the network was trained at.
        x_t = y / (1 + sigma[t] ** 2) ** 0.5
        known = previous if self_condition else None
        previous = denoise(x_t, torch.full((len(y),), t, device=y.device), known)
        return center(previous.x0.to(y.dtype), mask)

    y = sigma[times[0]] * centered_noise(mask, generators)
    trajectory = []
    for t, s in zip(times, (*times[1:], 0), strict=True):
        trajectory.append(y / (1 + sigma[t] ** 2) ** 0.5)
        hat = t
        if gamma > 0 and churn_min <= sigma[t] <= churn_max:
            hat = _nearest(levels, (1 + gamma) * sigma[t])
        if hat > t:
            added = noise_scale * (sigma[hat] ** 2 - sigma[t] ** 2) ** 0.5
            y = y + added * centered_noise(mask, generators, y.dtype)
        x0 = x0_from(y, hat)
        if s == 0:
            y = x0
            break
        stepped = y + step_scale * (1 - sigma[s] / sigma[hat]) * (x0 - y)
        if order == 2:
            slopes = (y - x0) / sigma[hat] + (stepped - x0_from(stepped, s)) / sigma[s]
            stepped = y + (sigma[s] - sigma[hat]) / 2 * slopes
        y = stepped
    assert previous is not None  # there is a timestep
    kept = torch.stack([*trajectory, y]) if keep_trajectory else None
    return SampleResult(y, previous.rotation, kept, previous.local_atoms)


def _levels(schedule: CosineSchedule) -> Tensor:
    """σ of t = 0 … T − 1, float64."""
    return schedule.sigma(torch.arange(schedule.timesteps), torch.float64)


def _nearest(levels: Tensor, sigma: float) -> int:
    """The timestep from 1 on whose σ is nearest by its logarithm."""
    return 1 + int((levels[1:].log() - math.log(sigma)).abs().argmin())
