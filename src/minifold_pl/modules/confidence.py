"""Confidence in sampled structures: what the head is shown, and which samples it learns from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minifold_pl.diffusion.draws import centered_noise, keyed_generator
from minifold_pl.geometry.units import to_angstrom
from minifold_pl.losses.confidence import confidence_per_chain
from minifold_pl.losses.reduction import PerChain, chain_mean
from minifold_pl.metrics.lddt import kept_shares, lddt_ca_per_residue
from minifold_pl.nn.confidence import AGREEMENT_TOLERANCES, ConfidenceHead, expected_lddt
from minifold_pl.nn.structure_denoiser import StructureDenoiser
from minifold_pl.types import Condition, ProteinBatch

CONFIDENCE = "confidence"
"""Name of its loss, and of the option that there is one."""


class Judgement(NamedTuple):
    """How right a head's confidence in structures of known chains is."""

    loss: PerChain
    """Cross-entropy of the true bins, nats."""
    error: PerChain
    """Absolute error of the expected lDDT of a residue."""


def confidence_logits(
    head: ConfidenceHead,
    denoiser: StructureDenoiser,
    condition: Condition,
    ca: Float[Tensor, "b l 3"],
    unit: Float[Tensor, " b"] | None,
    generators: Sequence[torch.Generator],
) -> Float[Tensor, "b l n"]:
    """What the head makes of structures (Å); a gradient reaches the head alone.

    It is shown a second guess at the same chains, in one step from noise alone: the denoiser's features there, and how
    far the structure agrees with it. Noise of the last timestep is the one input that looks the same whether its chain
    is a true one or a sample, so that nothing there can be too good to be true. How a structure was drawn (steps,
    sampler, guidance) is not asked. Measured on held-out chains of the quickstart's model, 25 steps: correlation with
    the true lDDT of a residue 0.80; 0.58 from the features of the sampler's own last step, 0.57 from those of the
    second guess without the agreement.

    Args:
        head: judges.
        denoiser: that the structures came from.
        condition: of their sequences.
        ca: Cα positions.
        unit: Å in a model unit of each chain; None: 10.
        generators: noise of the second guess, one a chain.
    """
    with torch.no_grad():
        noise = centered_noise(condition.mask, generators, ca.dtype)
        last = torch.full((len(ca),), denoiser.timesteps - 1, device=ca.device)
        guess, single = denoiser.with_features(noise, last, condition)
        second, first, mask = map(_measurable, (to_angstrom(guess.x0, unit), ca, condition.mask))
        agreement = kept_shares(second, first, mask, AGREEMENT_TOLERANCES).to(ca.device)
    logits: Tensor = head(single.detach(), agreement)
    return logits


def judge(logits: Float[Tensor, "b l n"], ca: Float[Tensor, "b l 3"], batch: ProteinBatch) -> Judgement:
    """``logits`` of structures ``ca`` (Å) beside their lDDT-Cα to the chains of ``batch``."""
    # What is no number in a truth must not end the training; guards see it in the other losses.
    known = batch.ca_mask & batch.ca.isfinite().all(-1)
    truth = batch.ca.float().nan_to_num()
    lddt = lddt_ca_per_residue(*map(_measurable, (ca, truth, known))).to(logits.device)
    error = (expected_lddt(logits.detach()) - lddt).abs()
    return Judgement(confidence_per_chain(logits, lddt, known), chain_mean(error, known & lddt.isfinite()))


def _measurable(x: Tensor) -> Tensor:
    """On a device that has double precision, which distances are measured in; Apple's GPUs have none."""
    return x.cpu() if x.device.type == "mps" else x


def some_chains(batch: ProteinBatch, count: int, *key: int | str) -> ProteinBatch:
    """``count`` chains of ``batch``, or all if it has no more, drawn by ``key`` and their names."""
    draws = [float(torch.rand((), generator=keyed_generator(*key, name))) for name in batch.names]
    return batch.chains(sorted(range(len(batch)), key=lambda place: (draws[place], place))[:count])


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """All of ``module`` in evaluation mode; each part goes back to its own afterwards."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
