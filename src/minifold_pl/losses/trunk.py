"""What encoder and pair stack are taught beside the denoiser's errors: distances, secondary structure, residues."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from minifold_pl.constants import CONTACT_CUTOFF, NO_LABEL
from minifold_pl.geometry.precision import full_precision
from minifold_pl.geometry.secondary_structure import MASKED, ca_secondary_structure
from minifold_pl.geometry.units import to_angstrom
from minifold_pl.losses.classification import contact_bce_per_chain
from minifold_pl.losses.distance import distance_edges, distogram_per_chain
from minifold_pl.losses.reduction import PerChain, chain_mean
from minifold_pl.types import StructureTarget, TrunkPrediction, map_tensors

DISTOGRAM: Final = "distogram"
SECONDARY_STRUCTURE: Final = "secondary_structure"
CONTACTS: Final = "contacts"
HIDDEN_RESIDUES: Final = "hidden_residues"


@dataclass(frozen=True, kw_only=True)
class TrunkLosses:
    """Losses of heads on encoder and pair stack. One with weight 0 is left out, and its head with it."""

    distogram: float = 0.0
    """Cross-entropy of binned Cα distances, from the pair features (AlphaFold 2: 0.3); reaches the pair stack, and the
    encoder where that is trained."""
    secondary_structure: float = 0.0
    """Cross-entropy of coil, helix and strand (P-SEA's, of the true Cα trace), from the encoder's single features."""
    contacts: float = 0.0
    """Binary cross-entropy of the encoder's own contact map, as in stage 1."""
    hidden_residues: float = 0.0
    """Cross-entropy of residues that were replaced by MASK, from the encoder's single features."""
    distogram_bins: int = 64
    """Bins of the distogram."""
    distogram_first: float = 2.0
    """Å; where the first bin starts."""
    distogram_last: float = 22.0
    """Å; where the last bin would end, which holds all that is farther too."""
    contact_pos_weight: float = 8.0
    """Weight of a contact beside a pair without one."""
    hidden_share: float = 0.15
    """Share of the residues that are replaced by MASK in training where they are to be guessed (BERT's)."""

    def __post_init__(self) -> None:
        for name in (DISTOGRAM, SECONDARY_STRUCTURE, CONTACTS, HIDDEN_RESIDUES):
            weight = getattr(self, name)
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"trunk_losses.{name} is {weight}: give a finite number, 0 or more")
        if not 0 < self.hidden_share < 1:
            raise ValueError(
                f"trunk_losses.hidden_share is {self.hidden_share}: give a share between 0 and 1, or set "
                "hidden_residues to 0"
            )
        distance_edges(self.distogram_bins, self.distogram_first, self.distogram_last)

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term that there is."""
        names = (DISTOGRAM, SECONDARY_STRUCTURE, CONTACTS, HIDDEN_RESIDUES)
        return {name: getattr(self, name) for name in names if getattr(self, name) > 0}

    @property
    def edges(self) -> Float[Tensor, " k"]:
        """Å; the inner edges of the distogram's bins."""
        return distance_edges(self.distogram_bins, self.distogram_first, self.distogram_last)

    def per_chain(self, prediction: TrunkPrediction, target: StructureTarget) -> dict[str, PerChain]:
        """Every term of every chain.

        The heads see a chain once, however many noised copies of it ``target`` holds (all chains, then all again):
        their errors are those of the chains, repeated.
        """
        chains = next((len(logits) for logits in prediction if logits is not None), 0)
        copies = len(target.x0) // max(chains, 1)
        one = map_tensors(lambda x: x[:chains], target)
        found = self._of_chains(prediction, one)
        return {name: term.repeated(copies) for name, term in found.items()}

    def _of_chains(self, prediction: TrunkPrediction, target: StructureTarget) -> dict[str, PerChain]:
        true = to_angstrom(target.x0, target.unit)
        terms = {}
        if prediction.distogram is not None:
            terms[DISTOGRAM] = distogram_per_chain(prediction.distogram, true, target.mask, self.edges)
        if prediction.secondary_structure is not None:
            terms[SECONDARY_STRUCTURE] = secondary_structure_per_chain(
                prediction.secondary_structure, true, target.mask, target.bonded
            )
        if prediction.contacts is not None:
            terms[CONTACTS] = contact_bce_per_chain(
                prediction.contacts, true, target.mask, pos_weight=self.contact_pos_weight
            )
        if prediction.residues is not None:
            assert target.hidden is not None  # whoever asks for guesses says what was hidden
            terms[HIDDEN_RESIDUES] = residues_per_chain(prediction.residues, target.hidden)
        return terms

    def contact_probability(self, logits: Float[Tensor, "b l l k"]) -> Float[Tensor, "b l l"]:
        """Share of a distogram below 8 Å; of the bin that the cutoff falls into, what lies below it."""
        inner = self.edges.to(logits.device)
        edges = torch.cat((inner.new_tensor([self.distogram_first]), inner, inner.new_tensor([math.inf])))
        below = ((CONTACT_CUTOFF - edges[:-1]) / edges.diff()).clamp(0, 1)
        return logits.float().softmax(-1) @ below


@full_precision
def secondary_structure_per_chain(
    logits: Float[Tensor, "b l 3"],
    true_ca: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    bonded: Bool[Tensor, "b l"],
) -> PerChain:
    """Cross-entropy, in nats, of coil, helix and strand as the true Cα trace (Å) has them."""
    kinds = ca_secondary_structure(true_ca, mask, bonded)
    return _residue_cross_entropy(logits, kinds, MASKED)


@full_precision
def residues_per_chain(logits: Float[Tensor, "b l v"], hidden: Int[Tensor, "b l"]) -> PerChain:
    """Cross-entropy, in nats, of the residues that were hidden; ``NO_LABEL`` for all others."""
    return _residue_cross_entropy(logits, hidden, NO_LABEL)


def _residue_cross_entropy(logits: Tensor, labels: Tensor, ignored: int) -> PerChain:
    entropy = cross_entropy(logits.transpose(1, 2), labels, ignore_index=ignored, reduction="none")
    return chain_mean(entropy, labels.ne(ignored))
