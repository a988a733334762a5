"""Is a model wired so that it could learn: symmetry, sampler, and a gradient for every part."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import get_total_norm

from minifold_pl.callbacks.early_checks import LITTLE, MIDDLE, EarlyLimits, Finding, scaled
from minifold_pl.diffusion.draws import centered_noise, keyed_generator
from minifold_pl.diffusion.process import add_noise
from minifold_pl.geometry.measures import radius_of_gyration
from minifold_pl.geometry.precision import without_autocast
from minifold_pl.losses.objective import final_weights, weighted_total
from minifold_pl.metrics.tm import tm_kabsch
from minifold_pl.modules.diffusion import DiffusionModule, Draws
from minifold_pl.modules.sequence_controls import masked_tokens
from minifold_pl.nn.pair_attention import repeat_rows
from minifold_pl.nn.structure_denoiser import StructureDenoiser
from minifold_pl.types import Condition, Denoised, ProteinBatch

EQUIVARIANCE: Final = "equivariance"
SAMPLER: Final = "sampler"
GRADIENT: Final = "gradient"

_TURNED: Final = (100, 500, 900)
"""Timesteps of 1000 at which the denoiser is given a turned chain."""
_ORACLE_STEPS: Final = 10
_TAUGHT: Final = (
    "encoder", "pair_stack", "denoiser", "aux", "rg_head", "trunk_heads", "recycling", "null_condition",
)  # fmt: skip
"""Parts that the objective teaches; what learns in a way of its own, such as the confidence head, is not asked."""


def turns_along(module: DiffusionModule) -> bool:
    """Whether the denoiser claims f(Qx) = Q f(x), in a precision that could show it.

    Blending residue frames with the identity gives that up, blending them with the chain's own does not.
    """
    denoiser = module.denoiser
    exact = all(parameter.dtype in (torch.float32, torch.float64) for parameter in denoiser.parameters())
    return exact and (denoiser.frame_confidence is None or getattr(denoiser, "place", None) is not None)


@torch.no_grad()
def equivariance(module: DiffusionModule, batch: ProteinBatch, limits: EarlyLimits, seed: int) -> Finding:
    """f(Qx) against Q f(x) at t = 100, 500 and 900, each followed by a pass with its own estimate to start from."""
    with without_autocast(batch.coords), _exact_products():
        features = module.encode(batch.tokens)
        condition = module.condition(batch, features)
        target = module.target(batch)
        turn = _rotation(seed).to(target.x0)
        size = _size(target.x0, batch.residue_mask)
        errors = []
        for t in scaled(module, _TURNED):
            x_t = add_noise(target.x0, *_draws(batch, (t,), seed)[:2], module.noise_schedule)
            straight, turned = (
                _two_passes(module, x, t, condition) for x in (x_t, torch.einsum("ij,blj->bli", turn, x_t))
            )
            errors += [
                _size(b.x0.float() - torch.einsum("ij,blj->bli", turn, a.x0.float()), batch.residue_mask)
                / size
                for a, b in zip(straight, turned, strict=True)
            ]
    # The median chain: one whose axes are drawn by lot (a chain of two residues) says nothing.
    worst = max(float(error.median()) for error in errors)
    wrong = not worst <= limits.equivariance
    told = f"a turned chain is predicted {worst:.2g} of its size off the turned prediction"
    if wrong:
        told += ": the denoiser depends on how a chain lies in space (a fixed axis, coordinates as plain features?)"
    return Finding(EQUIVARIANCE, wrong, told, {"equivariance_error": worst})


@torch.no_grad()
def sampler_wiring(module: DiffusionModule, batch: ProteinBatch, limits: EarlyLimits, seed: int) -> Finding:
    """The module's own sampler around a denoiser that knows the answer, and looks at the noise that it is shown."""
    target = module.target(batch)
    oracle = _Oracle(module, target.x0, target.rotation)
    wired = copy.copy(module)
    wired._modules = {**module._modules, "denoiser": oracle}
    steps = min(module.sampler.steps, _ORACLE_STEPS, module.noise_schedule.timesteps - 1)
    # What is set to leave the schedule on purpose is no mistake.
    settings = replace(module.sampler, steps=steps, compile="off", noise_scale=1.0, step_scale=1.0)
    wired._trunks = None
    sampled = wired.sample(batch, settings, seed=seed, keys=batch.names, confidence=False).x0.float()
    true = batch.ca.float()
    if module.scale == "rg":  # the size is another head's to say, which has learned nothing yet
        ratio = radius_of_gyration(true, batch.ca_mask) / radius_of_gyration(sampled, batch.ca_mask)
        sampled = sampled * ratio[:, None, None]
    tm = float(tm_kabsch(sampled, true, batch.ca_mask).mean())
    noise = oracle.noise()
    wrong = not tm >= limits.oracle_tm or not 0.8 <= noise <= 1.25
    told = (
        f"with a denoiser that knows the answer samples have TM {tm:.4f}, and {noise:.3f} times the due noise"
    )
    if wrong:
        told += ": sampler, schedule or units are wired wrongly, and no training will show in samples"
    return Finding(SAMPLER, wrong, told, {"oracle_tm": tm, "oracle_noise": noise})


def gradients(module: DiffusionModule, batch: ProteinBatch, seed: int, *, trained: bool) -> Finding:
    """Which parts of the model the losses reach.

    Before training a part counts as reached where its parameters take part at all: output layers that begin at 0
    send exactly nothing back. Once ``trained``, its gradient must differ from 0. A part that is reached only by terms
    of weight 0 is left to whoever set that weight.
    """
    norms = _gradients(module, batch, seed, weighted=True)
    dead = [
        part for part, norm in norms.items() if part in _TAUGHT and (norm is None or (trained and norm == 0))
    ]
    if dead:
        reached = _gradients(module, batch, seed, weighted=False)
        dead = [part for part in dead if reached[part] is None or (trained and reached[part] == 0)]
    well = [part for part, norm in norms.items() if norm is not None and part not in dead]
    told = f"the losses reach {', '.join(well) or 'nothing'}"
    if dead:
        told += f", but not {', '.join(dead)}: a detached path, or a part that nothing uses"
    figures = {f"gradient/{part}": norm for part, norm in norms.items() if norm is not None}
    return Finding(GRADIENT, bool(dead), told, figures)


class _Oracle(StructureDenoiser):
    """Answers with the truth, and notes the variance of what was added to it."""

    def __init__(self, module: DiffusionModule, x0: Tensor, rotation: Tensor) -> None:
        super().__init__(module.noise_schedule.timesteps)
        self.schedule, self.x0, self.rotation = module.noise_schedule, x0, rotation
        self.seen: list[tuple[float, int]] = []

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        condition: Condition,
        previous: Denoised | None = None,
        use_previous: Tensor | None = None,
    ) -> Denoised:
        """The truth; of both halves where guidance asks for two."""
        x0, rotation = repeat_rows(self.x0, len(x_t)), repeat_rows(self.rotation, len(x_t))
        alpha_bar = self.schedule.alpha_bar(t, torch.float64)[:, None, None]
        rest = (x_t.double() - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()
        mask = condition.mask
        self.seen.append((float(rest[mask].square().sum()), 3 * int(mask.sum()) - 3 * len(mask)))
        return Denoised(x0, rotation)

    def noise(self) -> float:
        """Root mean square of the noise over what the schedule says; the mean of a chain's is taken out."""
        squares, count = (sum(part) for part in zip(*self.seen, strict=True))
        return float((squares / max(count, 1)) ** 0.5)


@contextmanager
def _exact_products() -> Iterator[None]:
    """Without TF32 and its like, whose rounding is no sign of anything."""
    chosen = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(chosen)


def _two_passes(
    module: DiffusionModule, x_t: Tensor, t: int, condition: Condition
) -> tuple[Denoised, Denoised]:
    times = torch.full((len(x_t),), t, device=x_t.device)
    first = module.denoiser(x_t, times, condition)
    return first, module.denoiser(x_t, times, condition, first)


def _gradients(
    module: DiffusionModule, batch: ProteinBatch, seed: int, *, weighted: bool
) -> dict[str, float | None]:
    """The norm of each top-level part's gradient; None where none of its parameters takes part.

    It is that of the total at final weights, or of all terms that have one, each counted once.
    """
    draws = _draws(batch, scaled(module, (LITTLE, MIDDLE, 900)), seed)
    tokens = batch.tokens.clone()
    tokens[:1] = masked_tokens(batch)[:1]  # what stands for no sequence is a part as well
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    # Half precision would let small gradients underflow to the 0 that is looked for.
    with torch.enable_grad(), without_autocast(batch.coords):
        prediction, target = module.predict_structure(batch, tokens, module.target(batch), draws, True)
        terms = module.objective(prediction, target)
        # Not backward: the gradients of the step to come are left alone.
        found = torch.autograd.grad(
            weighted_total(terms, final_weights(module.loss_weights))
            if weighted
            else torch.stack([term for term in terms.values() if bool(term.isfinite())]).sum(),
            tuple(parameters.values()),
            allow_unused=True,
        )
    parts: dict[str, list[Tensor]] = {}
    for name, gradient in zip(parameters, found, strict=True):
        part = parts.setdefault(name.split(".")[0], [])
        if gradient is not None:
            part.append(gradient.detach())
    return {part: float(get_total_norm(many)) if many else None for part, many in parts.items()}


def _rotation(seed: int) -> Float[Tensor, "3 3"]:
    drawn = torch.randn(3, 3, generator=keyed_generator(seed, "early_signs", "turn"))
    q = torch.linalg.qr(drawn).Q
    return q * torch.linalg.det(q).sign()  # a proper one


def _size(x: Tensor, mask: Tensor) -> Float[Tensor, " b"]:
    """Root mean square length over the residues."""
    return (x.square().sum(-1) * mask).sum(1).div(mask.sum(1).clamp(min=1)).sqrt()


def _draws(batch: ProteinBatch, times: Sequence[int], seed: int) -> Draws:
    noise = [
        centered_noise(
            batch.residue_mask, [keyed_generator(seed, "early_signs", t, name) for name in batch.names]
        )
        for t in times
    ]
    device = batch.tokens.device
    t = torch.tensor(times, device=device).repeat_interleave(len(batch))
    return Draws(t, torch.cat(noise).to(device))
