"""How structures are drawn from a model: the settings that every reported figure carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Settings of the DDIM sampler."""

    steps: int = 50
    """Denoising steps, spread evenly over the timesteps."""
    eta: float = 0.0
    """Share of fresh noise at each step: 0 is deterministic DDIM, 1 is ancestral sampling."""
    guidance: float = 1.0
    """Weight w of classifier-free guidance; 1 is the conditional model, 0 the unconditional one."""
    guidance_space: Literal["eps", "x0"] = "x0"
    """Whether guidance combines noise estimates or structures; equal in exact arithmetic, ``x0`` rounds less."""
    self_condition: bool = True
    """Feed each step's estimate to the next."""
    compile: Literal["off", "graphs", False] = "off"
    """``graphs`` compiles the denoiser and replays it as a CUDA graph: for many chains in few padded lengths, as each
    new shape costs a compilation first. It acts on a GPU alone."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.compile not in ("off", "graphs", False):
            raise ValueError(f"compile is {self.compile!r}; allowed are 'off' and 'graphs'")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")
