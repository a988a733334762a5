"""Scores of sampled backbones: what N, C and O add to the scores of the Cα trace."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from minifold_pl.metrics.comparison import TRUTH
from minifold_pl.metrics.dihedrals import PHI_PSI_BASINS, basin_share, jensen_shannon, sampling_distance
from minifold_pl.metrics.ramachandran import phi_psi, phi_psi_error, phi_psi_pairs
from minifold_pl.metrics.rmsd import rmsd
from minifold_pl.types import ProteinBatch

COLUMNS: Final[tuple[str, ...]] = (
    "backbone_rmsd", "phi_psi_error", "share_alpha", "share_beta", "share_left", "ca_moved",
)  # fmt: skip
"""Scores of a backbone in the order of the table."""
NOTE: Final = (
    "Of N, Cα, C and O as `sample` writes them: closed to ideal bond lengths, angles and planar peptides, which moved "
    "Cα by ca_moved Å (root mean square) from where the model put it. phi_psi_error: mean absolute error in degrees, "
    "90 by chance. share_…: share of a chain's residues in each region of the Ramachandran plot; compare with the "
    "truth's."
)


class BackboneScores:
    """Scores of each chain, and φ and ψ of all of them."""

    def __init__(self) -> None:
        self._model: list[np.ndarray] = []
        self._truth: list[np.ndarray] = []

    def of_model(
        self, batch: ProteinBatch, backbones: Float[Tensor, "s b l 4 3"], moved: Float[Tensor, "s b"]
    ) -> dict[str, Tensor]:
        """Score → (s, b), and their φ and ψ are kept."""
        known, scores = batch.atom_mask & batch.residue_mask[..., None], []
        for backbone in backbones:
            self._model.append(_known_pairs(backbone, known, batch.bonded))
            scores.append(
                {
                    "backbone_rmsd": rmsd(
                        backbone.flatten(1, 2), batch.coords.flatten(1, 2), known.flatten(1, 2)
                    ),
                    "phi_psi_error": phi_psi_error(backbone, batch.coords, known, batch.bonded),
                    **_shares(backbone, known, batch.bonded),
                }
            )
        found = {name: torch.stack([score[name] for score in scores]).double() for name in scores[0]}
        return {**found, "ca_moved": moved.double()}

    def of_truth(self, batch: ProteinBatch) -> dict[str, Tensor]:
        """Score → (b), and its φ and ψ are kept."""
        known = batch.atom_mask & batch.residue_mask[..., None]
        self._truth.append(_known_pairs(batch.coords, known, batch.bonded))
        return {name: share.double() for name, share in _shares(batch.coords, known, batch.bonded).items()}

    def summary(self) -> dict[str, Any]:
        """The Ramachandran plots of model and truth as numbers."""
        model, truth = np.concatenate(self._model), np.concatenate(self._truth)
        shares = {
            row: {basin.name: basin_share(angles, basin) for basin in PHI_PSI_BASINS}
            for row, angles in (("model", model), (TRUTH, truth))
        }
        return {
            "pairs": {"model": len(model), TRUTH: len(truth)},
            "shares": shares,
            "jensen_shannon_distance": jensen_shannon(model, truth),
            "jensen_shannon_distance_of_as_many_true_pairs": sampling_distance(truth, len(model)),
        }


def told(ramachandran: dict[str, Any]) -> str:
    """One line of :meth:`BackboneScores.summary`."""
    shares = ", ".join(
        f"{name} {share:.0%} (truth {ramachandran['shares'][TRUTH][name]:.0%})"
        for name, share in ramachandran["shares"]["model"].items()
    )
    return (
        f"Ramachandran: {shares}; Jensen–Shannon distance to the truth "
        f"{ramachandran['jensen_shannon_distance']:.3f}, of as many residues of the truth itself "
        f"{ramachandran['jensen_shannon_distance_of_as_many_true_pairs']:.3f}"
    )


def _known_pairs(backbone: Tensor, known: Tensor, bonded: Tensor) -> np.ndarray:
    """φ and ψ without those of a sample that is not finite, which lie nowhere."""
    pairs = phi_psi_pairs(backbone, known, bonded)
    return pairs[np.isfinite(pairs).all(-1)]


def _shares(backbone: Tensor, known: Tensor, bonded: Tensor) -> dict[str, Tensor]:
    angles, defined = phi_psi(backbone, known, bonded)
    degrees = torch.rad2deg(angles)
    count = defined.sum(1)
    shares = {}
    for column, basin in zip(COLUMNS[2:-1], PHI_PSI_BASINS, strict=True):
        inside = torch.from_numpy(basin.holds(degrees.double().numpy())) & defined
        shares[column] = (inside.sum(1) / count).where(count > 0, torch.nan)
    return shares
