"""The objective of the second stage: which terms there are, what each weighs, and their total."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.geometry.frames import ca_frame_mask
from minifold_pl.geometry.units import to_angstrom
from minifold_pl.losses.ca_geometry import (
    CLASH_THRESHOLD,
    bond_angle_per_chain,
    bond_length_per_chain,
    chirality_per_chain,
    clash_per_chain,
)
from minifold_pl.losses.denoising import (
    MIN_SNR,
    DenoisingWeights,
    SNRWeighting,
    aligned_mse_per_chain,
    smooth_lddt_per_chain,
)
from minifold_pl.losses.distance import (
    distance_edges,
    distance_mse_per_chain,
    distogram_per_chain,
    ordinal_distance_per_chain,
)
from minifold_pl.losses.fape import fape_per_chain
from minifold_pl.losses.frame_rotation import frame_rotation_per_chain
from minifold_pl.losses.radius_of_gyration import log_rg_per_chain
from minifold_pl.losses.reduction import PerChain
from minifold_pl.losses.trunk import TrunkLosses
from minifold_pl.types import Frames, StructurePrediction, StructureTarget


def check_weight(name: str, weight: float) -> None:
    """Refuse what is no weight: not finite, or negative."""
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"loss weight {name} is {weight}: give a finite number, 0 or more")


@dataclass(frozen=True, kw_only=True)
class LinearRamp:
    r"""A weight that moves with the epoch e, counted from 1: :math:`s + (f - s) \min(e/E, 1)`."""

    start: float = 1.0
    """s: what the weight would be at epoch 0; epoch 1 is already one step up."""
    end: float = 3.0
    """f: the weight from epoch ``epochs`` on. Equal to ``start``, the weight is constant."""
    epochs: int = 10
    """E: the length of the ramp."""

    def __post_init__(self) -> None:
        check_weight("ramp start", self.start)
        check_weight("ramp end", self.end)
        if self.epochs < 1:
            raise ValueError(
                f"ramp epochs is {self.epochs}: give at least 1; for a constant weight, start = end"
            )

    def at(self, epoch: int) -> float:
        """The weight in ``epoch``, counted from 1."""
        if epoch < 1:
            raise ValueError(f"epoch {epoch}: epochs of a ramp are counted from 1")
        return self.start + (self.end - self.start) * min(epoch / self.epochs, 1.0)


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weight of each term; 0 leaves it out of the total but still logs it."""

    fape: float = 1.0
    """Frame-aligned point error, in model units (10 Å)."""
    frame_rot: float = 0.5
    """1 - cosθ between predicted and true frames."""
    dist: float = 1.0
    """Squared error of pairwise Cα distances, (10 Å)²."""
    bond: LinearRamp = LinearRamp()
    """Squared deviation of Cα–Cα bonds from 3.80 Å, (10 Å)²; weak at first, so that the fold can move."""
    chirality: float = 0.1
    """Squared error of normalised signed volumes of Cα quartets."""
    angle: float = 0.5
    """Squared error of the cosines of Cα angles."""
    rg: float = 0.5
    """Squared error of log Rg."""
    aux: float = 0.03
    """Ordinal cross-entropy of the auxiliary distance head."""
    clash: float = 0.0
    """Squared overlap of residues that no bond joins, (10 Å)²."""

    def __post_init__(self) -> None:
        for f in fields(self):
            weight = getattr(self, f.name)
            if not isinstance(weight, LinearRamp):  # a ramp checks itself
                check_weight(f.name, weight)


TermWeights = Mapping[str, float | LinearRamp]
"""The weight of each term by the term's name, where terms of several kinds are together."""


def by_term(weights: LossWeights | DenoisingWeights | TermWeights) -> dict[str, float | LinearRamp]:
    """The weight, or its ramp, of every term."""
    if isinstance(weights, Mapping):
        return dict(weights)
    return {f.name: getattr(weights, f.name) for f in fields(weights)}


def weights_at(weights: LossWeights | TermWeights, epoch: int) -> dict[str, float]:
    """The weight of every term in ``epoch``, counted from 1."""
    values = by_term(weights)
    return {name: w.at(epoch) if isinstance(w, LinearRamp) else w for name, w in values.items()}


def final_weights(weights: LossWeights | TermWeights) -> dict[str, float]:
    """The weight of every term once every ramp is over: totals with these compare across epochs."""
    ramps = [w.epochs for w in by_term(weights).values() if isinstance(w, LinearRamp)]
    return weights_at(weights, max(ramps, default=1))


def weighted_total(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Float[Tensor, ""]:
    """Weighted sum of exactly the terms that are logged.

    A term of weight 0 stays out of the sum, so that not even an infinity in it reaches the total.

    Raises:
        ValueError: a term without a weight, or a weight without a term.
    """
    if terms.keys() != weights.keys():
        raise ValueError(
            f"loss terms and weights differ in {sorted(terms.keys() ^ weights.keys())}: "
            f"every term needs a weight (0 to log it only) and every weight a term"
        )
    weighted = [weights[name] * term for name, term in terms.items() if weights[name] != 0]
    if not weighted:
        raise ValueError(f"every loss weight is 0 ({', '.join(sorted(weights))}): raise at least one")
    return torch.stack(weighted).sum()


@dataclass(frozen=True)
class DiffusionObjective:
    """The terms of v8 to v13, named as the fields of :class:`LossWeights`, each unweighted.

    Computed in model units, as in the write-up: its tables compare directly. At the fixed scale that is 10 Å, at the
    other the chain's own radius of gyration (a bond of v10 is 3.8/Rg). The true frames are those of the
    true Cα trace; a residue in a segment of fewer than three has none: it is a point of FAPE, not a frame.
    The total of an epoch is ``weighted_total(terms, weights_at(weights, epoch))``. With ``denoising`` the terms of
    :class:`~minifold_pl.losses.denoising.DenoisingWeights` stand beside them.
    """

    weights: LossWeights = LossWeights()
    """Weight of each term."""
    _: KW_ONLY
    fape_clamp: float | None = None
    """Å; None for no clamp, which is what the write-up's values above 1.0 show it had."""
    fape_clamp_share: float = 1.0
    """Share of the chains whose FAPE is clamped. Which ones ``target.clamped`` says; where it does not, each counts
    with what is expected of it."""
    distance_bins: int = 32
    """Bins of the auxiliary distance head, which has one output fewer."""
    distance_first: float = 2.0
    """Å; where the first distance bin starts."""
    distance_last: float = 40.0
    """Å; where the last distance bin ends."""
    clash_threshold: float = CLASH_THRESHOLD
    """Å; nearer residues clash."""
    clash_unit: Literal["angstrom", "model"] = "angstrom"
    """What ``clash_threshold`` is given in. ``model`` takes it as so many model units: v9's mistake, where 3.0 meant
    three radii of gyration, kept for the comparison."""
    clash_contacts: bool = False
    """Weigh the overlap of a pair by 1 + 2c, c its predicted probability of a contact."""
    distance_head: Literal["ordinal", "distogram"] = "ordinal"
    """What the auxiliary head's logits are: one for each edge between bins, or one for each bin."""
    denoising: bool = False
    """Compute the terms of :class:`~minifold_pl.losses.denoising.DenoisingWeights` too."""
    x0_weighting: SNRWeighting = MIN_SNR
    """Weight of a timestep: a part of what the term ``x0`` is, not of its weight in the total."""
    trunk: TrunkLosses | None = None
    """Terms of heads on encoder and pair stack; they are there where ``prediction.trunk`` is."""

    def __post_init__(self) -> None:
        if self.fape_clamp is not None and not self.fape_clamp > 0:
            raise ValueError(f"fape_clamp is {self.fape_clamp}: give a length in Å, or null for no clamp")
        if not 0 <= self.fape_clamp_share <= 1:
            raise ValueError(f"fape_clamp_share is {self.fape_clamp_share}: give a share, from 0 to 1")
        if self.fape_clamp is None and self.fape_clamp_share != 1:
            raise ValueError(
                f"fape_clamp_share is {self.fape_clamp_share}, but fape_clamp is null and clamps nothing: give "
                "fape_clamp a length in Å, or leave fape_clamp_share out"
            )
        if not self.clash_threshold > 0:
            raise ValueError(f"clash_threshold is {self.clash_threshold}: give a length in Å")
        distance_edges(self.distance_bins, self.distance_first, self.distance_last)

    def framed(self, target: StructureTarget) -> Bool[Tensor, "b l"]:
        """Residues whose true frame is known."""
        return ca_frame_mask(target.mask, target.bonded)

    def clamped(self, target: StructureTarget) -> Float[Tensor, " b"] | None:
        """Share of each chain's FAPE that is clamped; None for all of all."""
        if self.fape_clamp_share == 1:
            return None
        expected = target.x0.new_full((len(target.x0),), self.fape_clamp_share)
        return expected if target.clamped is None else target.clamped

    def per_chain(self, prediction: StructurePrediction, target: StructureTarget) -> dict[str, PerChain]:
        """Every term of every chain, and which chains have anything that counts for it."""
        x0, true, mask, bonded = prediction.x0, target.x0, target.mask, target.bonded
        framed, unit = self.framed(target), target.unit
        true_angstrom = to_angstrom(true.float() if true.dtype.itemsize < 4 else true, unit)
        clash, clash_unit = self.clash_threshold, unit
        if self.clash_unit == "model":
            clash, clash_unit = to_angstrom(clash), None
        terms = {
            "fape": fape_per_chain(
                Frames(prediction.rotation, x0),
                x0,
                Frames(target.rotation, true),
                true,
                framed,
                mask,
                clamp=self.fape_clamp,
                length_scale=None,  # one model unit
                unit=unit,
                clamped=self.clamped(target),
            ),
            "frame_rot": frame_rotation_per_chain(prediction.rotation, target.rotation, framed),
            "dist": distance_mse_per_chain(x0, true, mask),
            "bond": bond_length_per_chain(x0, mask, bonded, unit=unit),
            "chirality": chirality_per_chain(x0, true, mask, bonded),
            "angle": bond_angle_per_chain(x0, true, mask, bonded),
            "rg": log_rg_per_chain(prediction.log_rg, true_angstrom, mask),
            "aux": self._aux(prediction.distance_logits, true_angstrom, mask),
            "clash": clash_per_chain(
                x0,
                mask,
                bonded,
                threshold=clash,
                unit=clash_unit,
                contacts=prediction.contacts if self.clash_contacts else None,
            ),
        }
        if self.denoising:
            terms |= self._denoising(x0, target)
        if self.trunk is not None and prediction.trunk is not None:
            terms |= self.trunk.per_chain(prediction.trunk, target)
        return terms

    def _aux(self, logits: Tensor, true_angstrom: Tensor, mask: Tensor) -> PerChain:
        """The head reads sequences alone: once for all noised copies of a chain."""
        entropy = ordinal_distance_per_chain if self.distance_head == "ordinal" else distogram_per_chain
        edges = distance_edges(self.distance_bins, self.distance_first, self.distance_last)
        once = entropy(logits, true_angstrom[: len(logits)], mask[: len(logits)], edges)
        return once.repeated(len(mask) // len(logits))

    def _denoising(self, x0: Tensor, target: StructureTarget) -> dict[str, PerChain]:
        if target.snr is None:
            raise ValueError("the term x0 needs target.snr, the signal-to-noise ratio of the noised chain")
        error, counted = aligned_mse_per_chain(x0, target.x0, target.mask)
        weight = self.x0_weighting(target.snr).to(error.dtype)
        return {
            "x0": PerChain(weight * error, counted),
            "lddt": smooth_lddt_per_chain(x0, target.x0, target.mask, unit=target.unit),
        }

    def per_example(
        self, prediction: StructurePrediction, target: StructureTarget
    ) -> dict[str, Float[Tensor, " b"]]:
        """Every term of every chain; 0 where nothing of it is valid (see :meth:`per_chain`)."""
        return {name: term.value for name, term in self.per_chain(prediction, target).items()}

    def __call__(
        self, prediction: StructurePrediction, target: StructureTarget
    ) -> dict[str, Float[Tensor, ""]]:
        """Every term: the mean over the chains that have anything valid, each chain counting the same."""
        return {name: term.mean() for name, term in self.per_chain(prediction, target).items()}
