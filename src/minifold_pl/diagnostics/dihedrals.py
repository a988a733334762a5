"""Dihedrals of the truth, of samples and of one-step estimates of the same chains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.data.dataset import ChainDataset
from minifold_pl.diagnostics.chains import batches
from minifold_pl.geometry.measures import pseudo_dihedrals, quartet_mask
from minifold_pl.metrics.ramachandran import phi_psi_pairs
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.one_step import one_step
from minifold_pl.modules.sampling import SamplerConfig
from minifold_pl.modules.structures import final_structures

TRUTH: Final = "truth"
SAMPLES: Final = "samples"
ONE_STEP: Final = "one step"
_TRUTH_AT_ONCE: Final = 32

Pairs = Float[np.ndarray, "n 2"]
"""Two dihedrals, degrees."""


def true_pseudo_pairs(chains: ChainDataset) -> Pairs:
    """Consecutive Cα dihedrals of every chain as it was observed."""
    found = [
        pseudo_pairs(batch.ca, batch.ca_mask, batch.bonded)
        for batch in batches(chains, _TRUTH_AT_ONCE, torch.device("cpu"))
    ]
    return np.concatenate(found)


def true_phi_psi_pairs(chains: ChainDataset) -> Pairs:
    """φ and ψ of every residue whose neighbours are joined to it and observed."""
    found = [
        phi_psi_pairs(batch.coords, batch.atom_mask, batch.bonded)
        for batch in batches(chains, _TRUTH_AT_ONCE, torch.device("cpu"))
    ]
    return np.concatenate(found)


def predicted_pseudo_pairs(
    module: DiffusionModule,
    chains: ChainDataset,
    sampler: SamplerConfig,
    *,
    t: int,
    seed: int,
    batch_size: int,
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, Pairs]:
    """Consecutive Cα dihedrals of a sample of every chain, and of the structure guessed in one step from ``t``.

    At the places at which the truth was observed. Samples are those that ``evaluate`` scores for the same seed; what
    is not finite is left out.

    Raises:
        ValueError: ``t`` is out of range.
    """
    found: dict[str, list[Pairs]] = {SAMPLES: [], ONE_STEP: []}
    for batch in batches(chains, batch_size, module.device):
        mask, bonded = batch.ca_mask.cpu(), batch.bonded.cpu()
        with torch.inference_mode():
            keys = [f"{name}/0" for name in batch.names]
            chains_drawn = final_structures(
                module.sample(batch, sampler, seed=seed, keys=keys, confidence=False), batch
            )
            guessed = one_step(module, batch, (t,), seed=seed).x0[0].float().cpu()
        for row, chain in enumerate(chains_drawn):
            length = len(chain.ca)
            found[SAMPLES].append(
                pseudo_pairs(chain.ca[None], mask[row, None, :length], bonded[row, None, :length])
            )
        found[ONE_STEP].append(pseudo_pairs(guessed, mask, bonded))
        advance(len(batch))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def predicted_phi_psi_pairs(
    module: DiffusionModule,
    chains: ChainDataset,
    sampler: SamplerConfig,
    *,
    t: int,
    seed: int,
    batch_size: int,
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, Pairs]:
    """φ and ψ of a sample of every chain, as it is written, and of the backbone guessed in one step from ``t``.

    At the residues at which those of the truth are known. The guess is taken as the model places its atoms, not closed
    to ideal peptides. Samples are those that ``evaluate`` scores for the same seed; what is not finite is left out.

    Raises:
        ValueError: The model predicts Cα alone, or ``t`` is out of range.
    """
    if module.needs != "backbone":
        raise ValueError("this model predicts Cα alone, which has no φ and ψ; draw its Cα dihedrals instead")
    found: dict[str, list[Pairs]] = {SAMPLES: [], ONE_STEP: []}
    for batch in batches(chains, batch_size, module.device):
        keys = [f"{name}/0" for name in batch.names]
        with torch.inference_mode():
            drawn = final_structures(
                module.sample(batch, sampler, seed=seed, keys=keys, confidence=False), batch
            )
            guessed = one_step(module, batch, (t,), seed=seed).atoms
        assert guessed is not None  # a model that needs backbones predicts them
        mask, bonded_all = batch.atom_mask.cpu(), batch.bonded.cpu()
        for row, chain in enumerate(drawn):
            length = len(chain.coords)
            known, bonded = mask[row, None, :length], bonded_all[row, None, :length]
            found[SAMPLES].append(finite_pairs(phi_psi_pairs(chain.coords[None], known, bonded)))
        found[ONE_STEP].append(finite_pairs(phi_psi_pairs(guessed[0].float().cpu(), mask, bonded_all)))
        advance(len(batch))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def pseudo_pairs(ca: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"], bonded: Bool[Tensor, "b l"]) -> Pairs:
    """Cα dihedrals of (i … i + 3) and (i + 1 … i + 4), where all five residues are there and joined; Å."""
    if ca.shape[1] < 5:
        return np.zeros((0, 2))
    angles = torch.rad2deg(pseudo_dihedrals(ca.double()))
    whole = quartet_mask(mask, bonded)
    pairs = torch.stack((angles[:, :-1], angles[:, 1:]), -1)
    return finite_pairs(pairs[whole[:, :-1] & whole[:, 1:]].numpy())


def finite_pairs(pairs: Pairs) -> Pairs:
    """Those of which both angles are numbers."""
    return pairs[np.isfinite(pairs).all(-1)]
