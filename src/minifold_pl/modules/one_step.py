"""What a model makes of a noised chain in a single step, at given timesteps and from fixed noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minifold_pl.diffusion.draws import centered_noise, keyed_generator
from minifold_pl.diffusion.process import add_noise
from minifold_pl.geometry.frames import ca_frames, to_global
from minifold_pl.geometry.units import center, to_angstrom, to_model_units
from minifold_pl.losses.objective import final_weights
from minifold_pl.losses.reduction import PerChain
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.draws import Draws
from minifold_pl.types import Frames, ProteinBatch, StructurePrediction, StructureTarget

DASHBOARD: Final = (25, 75, 225, 475, 725, 975)
"""Timesteps of 1000 at which models are compared: nearly clean, up to nearly pure noise."""
MOSTLY_NOISE: Final = 0.7
"""From this share of the timesteps on x_t says so little that a good guess must come from the sequence."""

Estimate = Callable[
    [Float[Tensor, "b l 3"], Float[Tensor, " b"], Bool[Tensor, "b l"], Float[Tensor, " b"] | None],
    Float[Tensor, "b l 3"],
]
"""x̂0 (Å) from x_t (Å), ᾱ, the mask of residues and the chains' units (Å; None: 10): what a guess that knows no
sequence makes of the noise."""


class OneStep(NamedTuple):
    """x̂0 of ``k`` timesteps, each from one noised copy of each chain."""

    times: tuple[int, ...]
    x0: Float[Tensor, "k b l 3"]
    """Å, centred."""
    noised: Float[Tensor, "k b l 3"]
    """x_t = √ᾱ x0 + √(1 − ᾱ) ε, Å."""
    unit: Float[Tensor, " b"] | None
    """Å in a model unit of each chain, in which ε has variance 1; None: 10."""
    terms: dict[str, PerChain]
    """Every loss term, (k b)."""
    structural: tuple[str, ...]
    """The terms that look at x̂0 or its rotations; the others depend on the sequence alone."""
    atoms: Float[Tensor, "k b l 4 3"] | None = None
    """N, Cα, C and O as the model places them (not closed to ideal peptides), Å; None of a model of Cα alone."""

    def structure_loss(self, weights: Mapping[str, float]) -> Float[Tensor, "k b"]:
        """Weighted sum of the structural terms of each chain; one that a chain has nothing to count for adds 0."""
        parts = [weights[name] * self.terms[name].value for name in self.structural if weights[name] != 0]
        return torch.stack(parts).sum(0) if parts else self.x0.new_zeros(self.x0.shape[:2])


def dashboard_times(timesteps: int) -> tuple[int, ...]:
    """:data:`DASHBOARD` on a schedule of ``timesteps``, each within 1 … T − 1."""
    scaled = (round(t * timesteps / 1000) for t in DASHBOARD)
    return tuple(sorted({min(max(t, 1), timesteps - 1) for t in scaled}))


def check_times(times: Sequence[int], timesteps: int) -> tuple[int, ...]:
    """``times`` in order, each once.

    Raises:
        ValueError: none, or one outside 1 … T − 1.
    """
    wrong = [t for t in times if not 1 <= t < timesteps]
    if wrong or not times:
        raise ValueError(
            f"timesteps {wrong or list(times)}: give at least one, each from 1 to {timesteps - 1}"
        )
    return tuple(sorted(set(times)))


@torch.no_grad()
def one_step(
    module: DiffusionModule,
    batch: ProteinBatch,
    times: Sequence[int],
    *,
    seed: int,
    tokens: Int[Tensor, "b n"] | None = None,
    estimate: Estimate | None = None,
    chains_at_once: int = 64,
) -> OneStep:
    """Noise every chain to each of ``times`` and predict it again, without self-conditioning.

    The noise of a chain is a function of ``seed``, its name and the timestep, so that two models, or one model given
    other ``tokens``, are compared on the same x_t.

    Args:
        module: Ready to evaluate; its mode is left as it is.
        batch: Chains with coordinates.
        times: Timesteps 1 … T − 1.
        seed: Key of the noise.
        tokens: Read instead of the batch's own.
        estimate: Takes the place of the denoiser's x̂0; the rotations are then those of its Cα frames.
        chains_at_once: Noised copies in one call; they share its pass through encoder and pair stack.

    Raises:
        ValueError: a timestep out of range.
    """
    times = check_times(times, module.noise_schedule.timesteps)
    truth = module.target(batch)
    found: list[tuple[Tensor, Tensor, dict[str, PerChain]]] = []
    backbones: list[Tensor] = []
    structural: tuple[str, ...] = ()
    for part in _parts(times, max(1, chains_at_once // len(batch))):
        draws = _draws(batch, part, seed)
        prediction, target = module.predict_structure(
            batch, batch.tokens if tokens is None else tokens, truth, draws, False
        )
        unit = target.unit
        noised = add_noise(target.x0, draws.t, draws.noise, module.noise_schedule)
        mask = batch.residue_mask.repeat(len(part), 1)
        if estimate is not None:
            alpha_bar = module.noise_schedule.alpha_bar(draws.t, torch.float64)
            guess = center(
                to_model_units(estimate(to_angstrom(noised, unit), alpha_bar, mask, unit), unit), mask
            )
            rotation = ca_frames(guess, target.mask, target.bonded).rotation
            prediction = prediction._replace(x0=guess, rotation=rotation)
        terms = module.objective.per_chain(prediction, target)
        if not structural:
            structural = _structural(module, prediction, target, terms, draws.noise)
        x0 = center(prediction.x0.float(), mask)
        found.append((to_angstrom(x0, unit), to_angstrom(noised, unit), terms))
        if prediction.local_atoms is not None and estimate is None:
            frames = Frames(prediction.rotation.float().unsqueeze(2), x0.unsqueeze(2))
            backbones.append(to_angstrom(to_global(frames, prediction.local_atoms.float()), unit))
    shape = (len(times), len(batch))
    return OneStep(
        times,
        torch.cat([x0 for x0, _, _ in found]).unflatten(0, shape),
        torch.cat([noised for _, noised, _ in found]).unflatten(0, shape),
        truth.unit,
        {
            name: PerChain(
                *(torch.cat([terms[name][i] for *_, terms in found]).view(shape) for i in range(2))
            )
            for name in found[0][2]
        },
        structural,
        torch.cat(backbones).unflatten(0, shape) if backbones else None,
    )


def noised_chains(
    module: DiffusionModule, batch: ProteinBatch, times: Sequence[int], *, seed: int
) -> Float[Tensor, "k b l 3"]:
    """The x_t of :func:`one_step`, Å: all that a predictor without sequence has to go by."""
    times = check_times(times, module.noise_schedule.timesteps)
    target = module.target(batch)
    unit = None if target.unit is None else target.unit.repeat(len(times))
    draws = _draws(batch, times, seed)
    x0 = target.x0.repeat(len(times), 1, 1)
    noised = add_noise(x0, draws.t, draws.noise, module.noise_schedule)
    return to_angstrom(noised, unit).unflatten(0, (len(times), len(batch)))


def structure_loss(module: DiffusionModule, step: OneStep) -> Float[Tensor, "k b"]:
    """The structural part of the module's total at final weights, of each chain."""
    return step.structure_loss(final_weights(module.loss_weights))


def mostly_noise(times: Sequence[int], timesteps: int) -> Bool[Tensor, " k"]:
    """Which of ``times`` are at :data:`MOSTLY_NOISE` or above."""
    return torch.tensor(times) >= MOSTLY_NOISE * timesteps


def _parts(times: tuple[int, ...], size: int) -> Iterator[tuple[int, ...]]:
    for start in range(0, len(times), size):
        yield times[start : start + size]


def _draws(batch: ProteinBatch, times: Sequence[int], seed: int) -> Draws:
    device = batch.tokens.device
    noise = [
        centered_noise(
            batch.residue_mask, [keyed_generator(seed, "one_step", t, name) for name in batch.names]
        )
        for t in times
    ]
    t = torch.tensor(times, device=device).repeat_interleave(len(batch))
    return Draws(t, torch.cat(noise).to(device))


def _structural(
    module: DiffusionModule,
    prediction: StructurePrediction,
    target: StructureTarget,
    terms: Mapping[str, PerChain],
    noise: Tensor,
) -> tuple[str, ...]:
    """The terms that change when x̂0 collapses to a point, almost, and the rotations turn."""
    turn = prediction.rotation.new_tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    other = prediction._replace(x0=0.05 * noise, rotation=prediction.rotation @ turn)
    changed = module.objective.per_chain(other, target)
    return tuple(name for name in terms if not torch.equal(terms[name].value, changed[name].value))
