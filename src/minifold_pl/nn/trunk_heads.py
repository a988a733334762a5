"""Heads that make encoder and pair stack say what they know of the structure, so that losses can teach them."""

from __future__ import annotations

from typing import Final

from jaxtyping import Float
from torch import Tensor, nn

from minifold_pl.constants import AMINO_ACIDS
from minifold_pl.nn.linear import residual_linear
from minifold_pl.types import TrunkPrediction

SECONDARY_STRUCTURES: Final = 3
"""Coil, helix, strand."""


class TrunkHeads(nn.Module):
    """A distogram of the pair features, secondary structure and hidden residues of the single features.

    Each is one linear map, started at 0 (AlphaFold 2, suppl. 1.9.8 to 1.9.10): what is to be known of the structure has
    to be in the features, and that is where their gradient goes. A head that is not asked for has no parameters.

    Args:
        d_single: channels of the single features.
        d_pair: channels of the pair features.
        distogram_bins: bins of the distance, one logit each; 0 for no distogram.
        secondary_structure: whether there is a head for coil, helix and strand.
        residues: whether there is a head for the residues that were hidden.
    """

    def __init__(
        self,
        d_single: int,
        d_pair: int,
        *,
        distogram_bins: int = 0,
        secondary_structure: bool = False,
        residues: bool = False,
    ) -> None:
        super().__init__()
        self.distogram = residual_linear(d_pair, distogram_bins) if distogram_bins else None
        self.secondary_structure = (
            residual_linear(d_single, SECONDARY_STRUCTURES) if secondary_structure else None
        )
        self.residues = residual_linear(d_single, len(AMINO_ACIDS)) if residues else None

    def forward(self, single: Float[Tensor, "b l d"], pair: Float[Tensor, "b l l p"]) -> TrunkPrediction:
        """Logits; those of a pair are the same for (i, j) and (j, i)."""
        distogram = secondary_structure = residues = None
        if self.distogram is not None:
            distogram = self.distogram(pair + pair.transpose(1, 2))
        if self.secondary_structure is not None:
            secondary_structure = self.secondary_structure(single)
        if self.residues is not None:
            residues = self.residues(single)
        return TrunkPrediction(distogram, secondary_structure, residues)
