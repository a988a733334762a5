"""``calibration.json`` of an evaluation: what the confidence of one set of weights turned out to mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from minifold_pl.metrics.calibration import CalibrationMap

CALIBRATION: Final = "calibration.json"


class NoCalibration(ValueError):
    """There is none, or it is damaged; the reason is one line."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A calibration and where it comes from."""

    map: CalibrationMap
    sha256: str
    """Of the checkpoint."""
    weights: str
    """``ema`` or ``raw``."""
    split: str
    """Whose chains it was fitted on."""
    chains: int
    settings: Mapping[str, Any]
    """How their samples were drawn."""
    path: str

    @property
    def told(self) -> str:
        """The chains it was fitted on, in words."""
        return f"{self.chains} chains of {self.split}"


def calibration_content(
    found: CalibrationMap,
    *,
    checkpoint: Mapping[str, Any],
    data: Mapping[str, Any],
    settings: Mapping[str, Any],
    chains: int,
    residues: int,
) -> dict[str, Any]:
    """What stands in the file."""
    return {
        "checkpoint": dict(checkpoint),
        "data": dict(data),
        "settings": dict(settings),
        "chains": chains,
        "residues": residues,
        "map": {"predicted": list(found.predicted), "real": list(found.real)},
        "note": "Expected lDDT-Cα of a residue, 0 to 1: as the head says it, and what it turned out to be on these "
        "chains. Linear between the knots, level beyond them.",
    }


def read_calibration(path: str | Path) -> Calibration:
    """The calibration in a file, or in the folder of an evaluation.

    Raises:
        NoCalibration: There is none, or it is damaged.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / CALIBRATION).is_file():
            raise NoCalibration(
                f"{path} holds no {CALIBRATION}: evaluate writes it for a model with a confidence head "
                "(model.init_args.confidence), from chains of two clusters on"
            )
        path /= CALIBRATION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NoCalibration(f"cannot read the calibration {path}: {error.strerror}") from error
    except ValueError as error:
        raise NoCalibration(f"{path} is damaged: {error}") from error
    try:
        return Calibration(
            map=CalibrationMap(
                predicted=tuple(map(float, content["map"]["predicted"])),
                real=tuple(map(float, content["map"]["real"])),
            ),
            sha256=str(content["checkpoint"]["sha256"]),
            weights=str(content["checkpoint"]["weights"]),
            split=str(content["data"]["split"]),
            chains=int(content["chains"]),
            settings=dict(content["settings"]),
            path=str(path),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NoCalibration(f"{path} is no calibration that evaluate wrote: {error!s}") from error
