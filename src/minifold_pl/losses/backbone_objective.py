"""The objective of a model that predicts N, Cα, C and O: the terms on the Cα trace, and those on the backbone."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from minifold_pl.constants import C_ATOM, CA_ATOM, N_ATOM
from minifold_pl.geometry.frames import to_global
from minifold_pl.losses.backbone_geometry import (
    backbone_angle_per_chain,
    backbone_bond_per_chain,
    omega_per_chain,
    phi_psi_per_chain,
)
from minifold_pl.losses.fape import fape_per_chain
from minifold_pl.losses.objective import DiffusionObjective, LinearRamp, LossWeights, check_weight
from minifold_pl.losses.reduction import PerChain
from minifold_pl.types import Frames, StructurePrediction, StructureTarget


@dataclass(frozen=True, kw_only=True)
class BackboneWeights:
    """Weights of the terms on N, Cα, C and O, once the ramp is over; 0 leaves a term out but still logs it.

    The write-up names the terms but gives no weights. With 1, and the ramp, its two printed epochs of v14 recompute.
    """

    bb_fape: float = 1.0
    """Frame-aligned point error of all four atoms, in model units (10 Å)."""
    bb_bond: float = 1.0
    """Squared deviation of N–Cα, Cα–C, C–N and C=O from ideal lengths, (10 Å)²."""
    bb_angle: float = 1.0
    """Squared deviation of the cosines of N–Cα–C, Cα–C–N and C–N–Cα from ideal angles."""
    omega: float = 1.0
    """1 - cos of the error of ω."""
    phi_psi: float = 0.5
    """1 - cos of the errors of φ and ψ."""
    ramp_epochs: int = 5
    """All of them grow from 0 over so many epochs: 0.2, 0.4, … 1 of their weight."""

    def __post_init__(self) -> None:
        for f in fields(self):
            if f.name != "ramp_epochs":
                check_weight(f.name, getattr(self, f.name))
        if self.ramp_epochs < 1:
            raise ValueError(f"ramp_epochs is {self.ramp_epochs}: give at least 1, which is no ramp")


@dataclass(frozen=True, kw_only=True)
class BackboneLossWeights(LossWeights):
    """Weight of each term of :class:`BackboneObjective`."""

    bb_fape: LinearRamp
    """See :class:`BackboneWeights`, as all that follow."""
    bb_bond: LinearRamp
    bb_angle: LinearRamp
    omega: LinearRamp
    phi_psi: LinearRamp


def with_backbone(trace: LossWeights, backbone: BackboneWeights) -> BackboneLossWeights:
    """The weights of both kinds of terms together."""
    ramps: dict[str, Any] = {
        f.name: LinearRamp(start=0.0, end=getattr(backbone, f.name), epochs=backbone.ramp_epochs)
        for f in fields(backbone)
        if f.name != "ramp_epochs"
    }
    return BackboneLossWeights(**{f.name: getattr(trace, f.name) for f in fields(LossWeights)}, **ramps)


@dataclass(frozen=True)
class BackboneObjective(DiffusionObjective):
    """The terms of :class:`DiffusionObjective`, with frames of N, Cα and C as the truth, and those of v14.

    A residue of which N or C was not observed is a point of FAPE, not a frame.
    """

    def framed(self, target: StructureTarget) -> Bool[Tensor, "b l"]:
        """Residues of which N, Cα and C are known."""
        known = _known(target)
        return known[..., N_ATOM] & known[..., CA_ATOM] & known[..., C_ATOM]

    def per_chain(self, prediction: StructurePrediction, target: StructureTarget) -> dict[str, PerChain]:
        """See :meth:`DiffusionObjective.per_chain`.

        Raises:
            ValueError: prediction or target has no backbone atoms.
        """
        if prediction.local_atoms is None or target.atoms is None:
            raise ValueError(
                "a backbone objective needs predicted and true N, Cα, C and O: give the denoiser a backbone_head"
            )
        known, mask, bonded = _known(target), target.mask, target.bonded
        frames = Frames(prediction.rotation, prediction.x0)
        spread = Frames(frames.rotation.unsqueeze(2), frames.translation.unsqueeze(2))
        atoms = to_global(spread, prediction.local_atoms)
        return super().per_chain(prediction, target) | {
            "bb_fape": fape_per_chain(
                frames,
                atoms.flatten(1, 2),
                Frames(target.rotation, target.x0),
                target.atoms.flatten(1, 2),
                self.framed(target),
                known.flatten(1, 2),
                clamp=self.fape_clamp,
                length_scale=None,  # one model unit
                clamped=self.clamped(target),
            ),
            "bb_bond": backbone_bond_per_chain(atoms, mask, bonded),
            "bb_angle": backbone_angle_per_chain(atoms, mask, bonded),
            "omega": omega_per_chain(atoms, target.atoms, mask, known, bonded),
            "phi_psi": phi_psi_per_chain(atoms, target.atoms, mask, known, bonded),
        }


def _known(target: StructureTarget) -> Bool[Tensor, "b l 4"]:
    assert target.atom_mask is not None  # it comes with the atoms
    return target.atom_mask & target.mask.unsqueeze(-1)
