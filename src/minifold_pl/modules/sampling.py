"""How structures are drawn from a model: the settings that every reported figure carries."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from minifold_pl.diffusion.edm import RHO, SIGMA_MAX, SIGMA_MIN, edm, edm_timesteps
from minifold_pl.diffusion.samplers import E, SampleResult, ddim, sampling_timesteps
from minifold_pl.diffusion.schedule import CosineSchedule

SamplerKind = Literal["ddim", "heun", "euler"]
_LEVELS = ("sigma_max", "sigma_min", "rho", "churn", "churn_min", "churn_max", "noise_scale")
_OWN: Final[dict[str, tuple[str, ...]]] = {
    "ddim": ("eta", "step_scale"),
    "heun": _LEVELS,
    "euler": (*_LEVELS, "step_scale"),
}
"""The settings that mean something to one kind of sampler and not to all."""
OWN_SETTINGS: Final = tuple(dict.fromkeys(name for names in _OWN.values() for name in names))
"""All of them."""


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Settings of the sampler. One that means nothing to its ``kind`` keeps its default."""

    kind: SamplerKind = "ddim"
    """``ddim`` (Song et al. 2020), or ``heun`` or ``euler``, second and first order (Karras et al. 2022)."""
    steps: int = 50
    """Denoising steps, each one call of the network; of ``heun`` two, and one in the last step. Those of ``ddim`` are
    spread evenly over the timesteps, the others' by ``rho`` between ``sigma_max`` and ``sigma_min``."""
    eta: float = 0.0
    """ddim: share of fresh noise at each step: 0 is deterministic DDIM, 1 is ancestral sampling."""
    sigma_max: float = SIGMA_MAX
    """heun, euler: σ = √((1 − ᾱ)/ᾱ) to begin at, the noise of x0 + σε in model units."""
    sigma_min: float = SIGMA_MIN
    """heun, euler: σ before the last step; below that of t = 1 (0.0064) it is that of t = 1."""
    rho: float = RHO
    """heun, euler: the higher, the more of the steps are at little noise."""
    churn: float = 0.0
    """heun, euler: S_churn, fresh noise over all steps: 0 is deterministic, the ODE; above it is an SDE."""
    churn_min: float = 0.0
    """heun, euler: S_tmin; at less noise than this none is added."""
    churn_max: float | None = None
    """heun, euler: S_tmax; at more noise than this none is added; null for no limit."""
    noise_scale: float = 1.0
    """heun, euler: S_noise, factor of the fresh noise; λ = 1.003 in AlphaFold 3 (suppl., Algorithm 18)."""
    step_scale: float = 1.0
    """ddim, euler: factor of each step but the last; η = 1.5 in AlphaFold 3, for fewer and more certain structures."""
    guidance: float = 1.0
    """Weight w of classifier-free guidance; 1 is the conditional model, 0 the unconditional one. Any other doubles the
    batch of each call."""
    guidance_space: Literal["eps", "x0"] = "x0"
    """Whether guidance combines noise estimates or structures; equal in exact arithmetic, ``x0`` rounds less."""
    self_condition: bool = True
    """Feed each call's estimate to the next."""
    compile: Literal["off", "graphs", False] = "off"
    """``graphs`` compiles the denoiser and replays it as a CUDA graph: for many chains in few padded lengths, as each
    new shape costs a compilation first. It acts on a GPU alone."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(SamplerKind):
            raise ValueError(
                f"kind of sampler is {self.kind!r}; allowed are {', '.join(get_args(SamplerKind))}"
            )
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.compile not in ("off", "graphs", False):
            raise ValueError(f"compile is {self.compile!r}; allowed are 'off' and 'graphs'")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"sigma_min is {self.sigma_min} and sigma_max {self.sigma_max}; give 0 < sigma_min < sigma_max"
            )
        for name in ("churn", "churn_min"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.churn_max is not None and not self.churn_min <= self.churn_max < math.inf:
            raise ValueError(
                f"churn_max is {self.churn_max}; give a number from churn_min {self.churn_min} on, or null"
            )
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance is {self.guidance}; give a finite number (1: none)")
        for name in ("rho", "noise_scale", "step_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        defaults = {f.name: f.default for f in fields(self)}
        idle = [
            name
            for name in OWN_SETTINGS
            if name not in _OWN[self.kind] and getattr(self, name) != defaults[name]
        ]
        if idle:
            kinds = " and ".join(kind for kind, own in _OWN.items() if idle[0] in own)
            raise ValueError(
                f"{idle[0]} is {getattr(self, idle[0])}, but the sampler (kind) is {self.kind}: "
                f"it is a setting of {kinds}"
            )

    @property
    def network_calls(self) -> int:
        """Calls of the network for one sample, with guidance each of a batch twice as large."""
        return 2 * self.steps - 1 if self.kind == "heun" else self.steps

    @property
    def title(self) -> str:
        """Its name in the words of figures and tables."""
        return {"ddim": "DDIM", "heun": "Heun", "euler": "Euler"}[self.kind]

    def told(self) -> dict[str, Any]:
        """What a record says of how samples were drawn: the settings that meant something, and what they cost."""
        shared = ("guidance", "guidance_space", "self_condition")
        return {
            "sampler": self.kind,
            "steps": self.steps,
            **{name: getattr(self, name) for name in (*_OWN[self.kind], *shared)},
            "network_calls": self.network_calls,
        }

    def in_words(self) -> str:
        """The same in a line of a figure."""
        scaled = f", step scale {self.step_scale:g}" if self.step_scale != 1 else ""
        if self.kind == "ddim":
            return f"DDIM, {self.steps} steps, η {self.eta:g}{scaled}, guidance {self.guidance:g}"
        return (
            f"{self.title}, {self.steps} steps ({self.network_calls} network calls), σ {self.sigma_max:g} to "
            f"{self.sigma_min:g}, churn {self.churn:g}{scaled}, guidance {self.guidance:g}"
        )

    def changed(self, **given: Any) -> SamplerConfig:
        """This one with other settings; those that mean nothing to another ``kind`` go back to their defaults.

        Raises:
            ValueError: a setting is out of range, or one of those given means nothing to the kind.
        """
        kind = given.get("kind", self.kind)
        if kind == self.kind or kind not in _OWN:
            return replace(self, **given)
        defaults = {f.name: f.default for f in fields(self)}
        dropped = {name: defaults[name] for name in OWN_SETTINGS if name not in _OWN[kind]}
        return replace(self, **{**dropped, **given})

    def times(self, schedule: CosineSchedule) -> tuple[int, ...]:
        """The timesteps of its steps.

        Raises:
            ValueError: the schedule has not as many.
        """
        if self.kind == "ddim":
            return sampling_timesteps(schedule.timesteps, self.steps)
        return edm_timesteps(
            schedule, self.steps, sigma_min=self.sigma_min, sigma_max=self.sigma_max, rho=self.rho
        )

    def draw(
        self,
        denoise: Callable[[Tensor, Tensor, E | None], E],
        schedule: CosineSchedule,
        mask: Bool[Tensor, "b l"],
        generators: Sequence[torch.Generator],
    ) -> SampleResult:
        """Run it: see :func:`~minifold_pl.diffusion.samplers.ddim` and :func:`~minifold_pl.diffusion.edm.edm`."""
        if self.kind == "ddim":
            return ddim(
                denoise, schedule, mask, generators=generators, steps=self.steps, eta=self.eta,
                step_scale=self.step_scale, self_condition=self.self_condition,
            )  # fmt: skip
        return edm(
            denoise, schedule, mask, generators=generators, times=self.times(schedule),
            order=2 if self.kind == "heun" else 1, churn=self.churn, churn_min=self.churn_min,
            churn_max=math.inf if self.churn_max is None else self.churn_max, noise_scale=self.noise_scale,
            step_scale=self.step_scale, self_condition=self.self_condition,
        )  # fmt: skip
