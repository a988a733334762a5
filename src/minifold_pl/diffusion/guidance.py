"""Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) around any denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minifold_pl.diffusion.process import eps_to_x0, x0_to_eps
from minifold_pl.diffusion.schedule import CosineSchedule
from minifold_pl.types import Condition, Denoised, Denoiser, map_tensors

GuidanceSpace = Literal["eps", "x0"]


class GuidedEstimate(NamedTuple):
    """A guided prediction, and what each half predicted: its own ``previous`` at the next step."""

    x0: Float[Tensor, "b l 3"]
    rotation: Float[Tensor, "b l 3 3"]
    conditional: Denoised | None
    unconditional: Denoised | None
    stacked: Denoised | None = None
    """Both in one batch of 2b, conditional first, as the next step takes them."""

    @property
    def local_atoms(self) -> Float[Tensor, "b l 4 3"] | None:
        """N, Cα, C and O in the frames of the half that the rotations come from."""
        half = self.conditional or self.unconditional
        return None if half is None else half.local_atoms


@dataclass(frozen=True, kw_only=True)
class GuidedDenoiser:
    r"""A denoiser bound to its condition and guided away from the unconditional one.

    .. math:: \epsilon = \epsilon_u + w (\epsilon_c - \epsilon_u)

    Both halves run as one batch of 2b. With ``weight`` 1 only the conditional half runs, with 0 only the
    unconditional one, so these two are bit for bit the plain samplers (a batch of 2b rounds differently).
    It keeps no state: the halves' estimates travel in ``previous``. What is made of the conditions is made once, at
    the first step.

    Rotations are not extrapolated: they are those of the conditional half unless ``weight`` is 0.

    Raises:
        ValueError: an unknown space, a weight that is not finite, no unconditional condition where one is
            needed, or conditions whose masks differ.
    """

    denoiser: Denoiser
    schedule: CosineSchedule
    conditional: Condition
    unconditional: Condition | None = None
    """The condition of the null tokens (residues replaced by MASK). Not needed when ``weight`` is 1."""
    weight: float = 1.0
    """w: 0 unconditional, 1 conditional, above 1 guided."""
    space: GuidanceSpace = "x0"
    """Where the halves are combined. In exact arithmetic both give the same x̂0; in ``eps`` every rounding
    error comes back √(1/ᾱ − 1) times as large, 642 times at t = 999."""

    prepare: Callable[[Condition], Condition] = lambda condition: condition
    """What the denoiser computes of a condition alone, see ``StructureDenoiser.prepare``."""

    def __post_init__(self) -> None:
        if self.space not in get_args(GuidanceSpace):
            raise ValueError(f"guidance space is {self.space!r}; choose one of {get_args(GuidanceSpace)}")
        if not math.isfinite(self.weight):
            raise ValueError(f"guidance weight is {self.weight}; give a finite number (1 = no guidance)")
        if self.unconditional is None and self.weight != 1:
            raise ValueError(
                f"guidance weight {self.weight} needs the unconditional condition (null tokens); "
                "without it only weight 1"
            )
        if self.unconditional is not None and not torch.equal(self.unconditional.mask, self.conditional.mask):
            raise ValueError(
                "the masks of the two conditions differ; "
                "null tokens replace residues by MASK and keep CLS, EOS and PAD"
            )

    def __call__(
        self, x_t: Float[Tensor, "b l 3"], t: Int[Tensor, " b"], previous: GuidedEstimate | None = None
    ) -> GuidedEstimate:
        """One estimate of the clean chain; all coordinates in model units."""
        if self.weight == 1:
            conditional = self.denoiser(x_t, t, self._with_sequence, previous and previous.conditional)
            return GuidedEstimate(conditional.x0, conditional.rotation, conditional, None)
        if self.weight == 0:
            unconditional = self.denoiser(x_t, t, self._without, previous and previous.unconditional)
            return GuidedEstimate(unconditional.x0, unconditional.rotation, None, unconditional)
        stacked = self.denoiser(
            torch.cat([x_t, x_t]), torch.cat([t, t]), self._both, previous and previous.stacked
        )
        conditional, unconditional = (map_tensors(half, stacked) for half in (_first_half, _second_half))
        return GuidedEstimate(
            self._combine(x_t, t, conditional.x0, unconditional.x0),
            conditional.rotation,
            conditional,
            unconditional,
            stacked,
        )

    @cached_property
    def _with_sequence(self) -> Condition:
        return self.prepare(self.conditional)

    @cached_property
    def _without(self) -> Condition:
        assert self.unconditional is not None  # checked above
        return self.prepare(self.unconditional)

    @cached_property
    def _both(self) -> Condition:
        assert self.unconditional is not None
        one, other = self.conditional, self.unconditional
        single, pair = torch.cat([one.single, other.single]), torch.cat([one.pair, other.pair])
        mask, bonded = torch.cat([one.mask, other.mask]), torch.cat([one.bonded, other.bonded])
        return self.prepare(Condition(single, pair, mask, bonded))

    def _combine(
        self,
        x_t: Float[Tensor, "b l 3"],
        t: Int[Tensor, " b"],
        conditional: Float[Tensor, "b l 3"],
        unconditional: Float[Tensor, "b l 3"],
    ) -> Float[Tensor, "b l 3"]:
        # x_t is float32 or better while a network under autocast may answer in half precision.
        conditional, unconditional = conditional.to(x_t.dtype), unconditional.to(x_t.dtype)
        if self.space == "x0":
            return unconditional + self.weight * (conditional - unconditional)
        eps_c = x0_to_eps(x_t, t, conditional, self.schedule)
        eps_u = x0_to_eps(x_t, t, unconditional, self.schedule)
        return eps_to_x0(x_t, t, eps_u + self.weight * (eps_c - eps_u), self.schedule)


def _first_half(x: Tensor) -> Tensor:
    return x[: len(x) // 2]


def _second_half(x: Tensor) -> Tensor:
    return x[len(x) // 2 :]
