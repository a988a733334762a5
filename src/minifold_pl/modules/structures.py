"""Samples as they are written: Cα traces, or backbones closed to chains that can exist."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minifold_pl.constants import AMINO_ACIDS, CA_ATOM, FIRST_RESIDUE
from minifold_pl.geometry.frames import to_global
from minifold_pl.geometry.ideal_backbone import cis_peptides, nearest_ideal_backbones
from minifold_pl.types import Denoised, Frames, ProteinBatch

_PROLINE = FIRST_RESIDUE + AMINO_ACIDS.index("P")


class SampledChain(NamedTuple):
    """One sampled chain, without padding, on the CPU."""

    coords: Float[Tensor, "l a 3"]
    """Å; Cα alone, or N, Cα, C and O."""
    ca_moved: float | None
    """Å, root mean square: how far Cα moved when the backbone was closed; None of a Cα trace."""
    confidence: Float[Tensor, " l"] | None = None
    """Expected lDDT-Cα of each residue, 0…1, as the model's confidence head has it; None of a model without one."""

    @property
    def ca(self) -> Float[Tensor, "l 3"]:
        """Cα positions."""
        return self.coords[:, 0 if self.ca_moved is None else CA_ATOM]


def predicted_atoms(sampled: Denoised) -> Float[Tensor, "b l 4 3"] | None:
    """N, Cα, C and O as the model places them, Å; None of a model of Cα alone.

    Lengths and angles inside a residue are nearly ideal; those of the peptides between them are what the frames of
    neighbours make them.
    """
    if sampled.local_atoms is None:
        return None
    frames = Frames(sampled.rotation.unsqueeze(2), sampled.x0.unsqueeze(2))
    return to_global(frames, sampled.local_atoms)


@torch.no_grad()
def final_structures(sampled: Denoised, batch: ProteinBatch) -> list[SampledChain]:
    """What is written of a sample (Å) of the sequences in ``batch``, chain by chain; see :func:`closed`."""
    atoms = predicted_atoms(sampled)
    structures = (sampled.x0.unsqueeze(2) if atoms is None else atoms).float().cpu()
    lengths = batch.lengths.tolist()
    chains = all_closed(
        [structure[:length] for structure, length in zip(structures, lengths, strict=True)],
        batch.tokens,
        [bonded[:length] for bonded, length in zip(batch.bonded, lengths, strict=True)],
    )
    if sampled.confidence is None:
        return chains
    confidence = sampled.confidence.float().cpu()
    return [
        chain._replace(confidence=row[:length])
        for chain, row, length in zip(chains, confidence, lengths, strict=True)
    ]


def closed(
    structure: Float[Tensor, "l a 3"], tokens: Int[Tensor, " n"], bonded: Bool[Tensor, " l"]
) -> SampledChain:
    """What is written of one predicted chain, Å: a Cα trace as it is, N, Cα, C and O as a chain that can exist.

    A predicted backbone is replaced by the nearest one of ideal bond lengths, angles and planar peptides
    (:func:`~minifold_pl.geometry.ideal_backbone.nearest_ideal_backbone`): trans, but for peptides before proline that
    were predicted as cis. One that is not finite stays as it is.
    """
    return all_closed([structure], tokens[None], [bonded])[0]


def all_closed(
    structures: Sequence[Float[Tensor, "_ a 3"]],
    tokens: Int[Tensor, "b n"],
    bonded: Sequence[Bool[Tensor, " _"]],
) -> list[SampledChain]:
    """:func:`closed` of several chains, which are fitted side by side."""
    chains = [SampledChain(x, None if x.shape[1] == 1 else math.nan) for x in structures]
    whole = [i for i, x in enumerate(structures) if x.shape[1] > 1 and bool(x.isfinite().all())]
    cis = []
    for i in whole:
        before_proline = (
            tokens[i].cpu()[2 : 2 + len(structures[i])] == _PROLINE
        )  # of residue i + 1, after CLS
        cis.append(cis_peptides(structures[i], before_proline))
    ideal = nearest_ideal_backbones([structures[i] for i in whole], [bonded[i] for i in whole], cis)
    for i, found in zip(whole, ideal, strict=True):
        shift = (found - structures[i])[:, CA_ATOM].square().sum(-1).mean().sqrt()
        chains[i] = SampledChain(found, float(shift))
    return chains
