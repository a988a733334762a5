"""Is a model right about how right it is: its confidence in samples beside their true lDDT, and a calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from minifold_pl.metrics.calibration import (
    FOLDS,
    CalibrationMap,
    ReliabilityBin,
    calibration_error,
    cross_calibrated,
    reliability,
)
from minifold_pl.metrics.lddt import lddt_ca_per_residue
from minifold_pl.types import ProteinBatch

CONFIDENCE: Final = "confidence"
"""Its part of ``summary.json``, and its score."""
_ROUND: Final = 6


class ConfidenceOfSamples:
    """Collects the confidence in every residue of all samples, and what its lDDT-Cα turned out to be."""

    def __init__(self) -> None:
        self._predicted: list[np.ndarray] = []
        self._real: list[np.ndarray] = []
        self._chain: list[np.ndarray] = []
        self._groups: list[str] = []

    def add(
        self,
        batch: ProteinBatch,
        samples: Float[Tensor, "s b l 3"],
        confidence: Float[Tensor, "s b l"],
        clusters: Sequence[str | None],
    ) -> dict[str, Float[Tensor, "s b"]]:
        """Keep one batch; the mean over a chain's observed residues is its score.

        Args:
            batch: With its truth.
            samples: Cα positions, Å, as they are written.
            confidence: In these, 0…1.
            clusters: Of the chains: those of one are not taken for different ones. None: by itself.
        """
        real = torch.stack([lddt_ca_per_residue(ca, batch.ca, batch.ca_mask) for ca in samples])
        counted = batch.ca_mask & real.isfinite()
        first = len(self._groups)
        self._groups += [
            f"chain {name}" if cluster is None else f"cluster {cluster}"
            for name, cluster in zip(batch.names, clusters, strict=True)
        ]
        places = torch.arange(first, first + len(batch))[None, :, None].expand_as(counted)
        for kept, values in ((self._predicted, confidence), (self._real, real), (self._chain, places)):
            kept.append(values[counted].cpu().numpy())
        kept_residues = batch.ca_mask.sum(-1).clamp(min=1)
        return {CONFIDENCE: ((confidence * batch.ca_mask).sum(-1) / kept_residues).double()}

    def results(self, seed: int) -> tuple[dict[str, Any], CalibrationMap | None]:
        """What stands in the summary, and the calibration by all chains; none from those of a single cluster."""
        predicted, real, chain = (
            np.concatenate(kept) if kept else np.zeros(0)
            for kept in (self._predicted, self._real, self._chain)
        )
        if not len(predicted):
            return {}, None
        predicted, real = predicted.clip(0, 1).astype(np.float64), real.astype(np.float64)
        chain = chain.astype(int)
        names, group = np.unique(self._groups, return_inverse=True)
        calibrated = cross_calibrated(predicted, real, group[chain], seed=seed)
        told: dict[str, Any] = {
            "residues": len(predicted),
            "chains": len(np.unique(chain)),
            "correlation": _correlation(predicted, real),
            "correlation_of_chains": _correlation(*(_chain_means(x, chain) for x in (predicted, real))),
            "mean_absolute_error_of_the_mean": float(np.abs(real - real.mean()).mean()),
            "raw": _told(predicted, real),
            "calibrated": None if calibrated is None else _told(calibrated, real),
            "note": "Of every residue of every sample. calibrated: each residue by a map that was fitted to other "
            f"chains ({min(FOLDS, len(names))} folds, clusters kept together). mean_absolute_error_of_the_mean: of "
            "saying the mean lDDT for every residue.",
        }  # fmt: skip
        if calibrated is None:
            return {CONFIDENCE: told}, None
        return {CONFIDENCE: told}, CalibrationMap.fit(predicted, real)


def told(content: dict[str, Any]) -> str:
    """The line below the tables."""
    raw, calibrated = content["raw"], content["calibrated"]
    after = "" if calibrated is None else (
        f"; calibrated on other chains {calibrated['calibration_error']:.3f} and "
        f"{calibrated['mean_absolute_error']:.3f}"
    )  # fmt: skip
    correlation = content["correlation"]
    return (
        f"confidence: calibration error {raw['calibration_error']:.3f}, mean absolute error "
        f"{raw['mean_absolute_error']:.3f}{after}; the mean for every residue has "
        f"{content['mean_absolute_error_of_the_mean']:.3f}; correlation "
        f"{'–' if correlation is None else f'{correlation:.2f}'} over {content['residues']:,} residues of "
        f"{content['chains']} chains"
    )


def _told(predicted: np.ndarray, real: np.ndarray) -> dict[str, Any]:
    table = reliability(predicted, real)
    return {
        "calibration_error": round(calibration_error(table), _ROUND),
        "mean_absolute_error": round(float(np.abs(predicted - real).mean()), _ROUND),
        "table": [_rounded(one) for one in table],
    }


def _rounded(one: ReliabilityBin) -> dict[str, float]:
    return {name: value if name == "n" else round(value, _ROUND) for name, value in one._asdict().items()}


def _chain_means(values: np.ndarray, chain: np.ndarray) -> np.ndarray:
    count = np.bincount(chain)
    return np.bincount(chain, values)[count > 0] / count[count > 0]


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Pearson's; None of a single value or where one of them is the same everywhere."""
    if len(a) < 2 or np.ptp(a) < 1e-9 or np.ptp(b) < 1e-9:
        return None
    return round(float(np.corrcoef(a, b)[0, 1]), _ROUND)
