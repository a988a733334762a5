"""Scores of one-step estimates, by timestep and chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from minifold_pl.metrics.rmsd import rmsd
from minifold_pl.metrics.tm import tm_kabsch
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.one_step import OneStep, structure_loss
from minifold_pl.types import ProteinBatch

TM: Final = "tm_kabsch"
RMSD: Final = "rmsd"
LOSS: Final = "loss"
"""The weighted sum of the terms that look at the structure, at final weights."""

Scores = dict[str, Float[Tensor, "k c"]]
"""Score → one number a timestep and chain."""


class StepScores(NamedTuple):
    """Several rows of one-step estimates of the same chains from the same noise."""

    times: tuple[int, ...]
    chains: tuple[str, ...]
    rows: dict[str, Scores]


def step_scores(module: DiffusionModule, batch: ProteinBatch, step: OneStep) -> Scores:
    """TM and RMSD (Å) at the pose of least RMSD, the structural loss and its terms (``loss/…``), float64, CPU.

    A term that a chain has nothing to count for is NaN there.
    """
    true, mask = batch.ca.float(), batch.ca_mask
    scores = {
        TM: torch.stack([tm_kabsch(x0, true, mask) for x0 in step.x0]),
        RMSD: torch.stack([rmsd(x0, true, mask) for x0 in step.x0]),
        LOSS: structure_loss(module, step),
    }
    for name in step.structural:
        value, counted = step.terms[name]
        scores[f"{LOSS}/{name}"] = value.where(counted, torch.nan)
    return {name: value.double().cpu() for name, value in scores.items()}


def joined(times: tuple[int, ...], names: Sequence[str], parts: Sequence[Mapping[str, Scores]]) -> StepScores:
    """The rows of several batches, chains one after the other."""
    rows = {
        row: {score: torch.cat([part[row][score] for part in parts], 1) for score in parts[0][row]}
        for row in parts[0]
    }
    return StepScores(times, tuple(names), rows)
