"""What the figures of an evaluation are drawn from: ``figures.npz``, and the numbers in its ``summary.json``.

A figure takes every number that stands in it from ``summary.json``; the arrays say where its points lie.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float

from minifold_pl.metrics.calibration import ReliabilityBin
from minifold_pl.plots.contacts import ContactPanel
from minifold_pl.plots.embedding import Labelling
from minifold_pl.plots.ramachandran import DihedralNumbers, DihedralSet
from minifold_pl.plots.reliability import ReliabilitySet

SUMMARY: Final = "summary.json"
ARRAYS: Final = "figures.npz"
DIHEDRALS: Final = "dihedrals"
EMBEDDING: Final = "embedding"
CONTACTS: Final = "contact_maps"
CONFIDENCE: Final = "confidence"
"""Their parts of ``summary.json``."""
CLASS: Final = "CATH class"
ARCHITECTURE: Final = "architecture"
"""Labellings of embeddings."""
_DISTANCE: Final = "jensen_shannon_distance"
_SAMPLING: Final = "jensen_shannon_distance_of_as_many_true_pairs"


class NoFigureData(ValueError):
    """An evaluation without what a figure needs; the reason is one line."""


@dataclass(frozen=True, kw_only=True)
class MapArrays:
    """One chain's contact map."""

    contact: Bool[np.ndarray, "l l"]
    probability: Float[np.ndarray, "l l"]
    observed: Bool[np.ndarray, " l"]


@dataclass(frozen=True, kw_only=True)
class EmbeddingData:
    """Embeddings with what is known of their chains, and what was measured of them."""

    vectors: Float[np.ndarray, "n d"]
    labellings: tuple[Labelling, ...]
    explained: tuple[float, float]
    """Share of the variance along the first two principal components."""


def is_evaluation(path: Path) -> bool:
    """Whether ``path`` is the folder of an evaluation, and of no run, or the summary in one."""
    if path.is_dir():
        return (path / SUMMARY).is_file() and not (path / "checkpoints").is_dir()
    return path.name == SUMMARY and path.is_file()


class FigureData:
    """What an evaluation left for its figures.

    Args:
        path: The folder of an ``evaluate``, or the summary in it.

    Raises:
        NoFigureData: There is no evaluation, or its summary is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.folder = path.parent if path.name == SUMMARY else path
        self.summary: dict[str, Any] = _read_summary(self.folder / SUMMARY)

    def has(self, part: str) -> bool:
        """Whether it measured ``part`` (:data:`DIHEDRALS`, :data:`EMBEDDING`, :data:`CONTACTS`)."""
        return bool(self.summary.get(part)) and (self.folder / ARRAYS).is_file()

    def kinds(self) -> tuple[str, ...]:
        """Of dihedrals: ``pseudo``, and ``phi_psi`` of models of the whole backbone."""
        return tuple(self.summary.get(DIHEDRALS) or ()) if self.has(DIHEDRALS) else ()

    def dihedrals(self, kind: str) -> tuple[list[DihedralSet], tuple[DihedralNumbers, ...]]:
        """The sets of a figure, the truth first, and their numbers.

        Raises:
            NoFigureData: They were not measured.
        """
        told = self._part(DIHEDRALS).get(kind)
        if not told:
            what = "φ and ψ: the model predicts Cα alone" if kind == "phi_psi" else "Cα dihedrals"
            raise NoFigureData(f"{self.folder / SUMMARY} holds no {what}")
        arrays = self._arrays()
        sets = [
            DihedralSet(
                name=name,
                angles=_array(arrays, f"{DIHEDRALS}/{kind}/{name}", self.folder),
                told=one.get("told", ""),
            )
            for name, one in told.items()
        ]
        numbers = [
            DihedralNumbers(
                name=name, pairs=int(one["pairs"]), shares={basin: _number(x) for basin, x in one["shares"].items()},
                distance=one.get(_DISTANCE), sampling=one.get(_SAMPLING),
            )
            for name, one in told.items()
        ]  # fmt: skip
        return sets, tuple(numbers)

    def embedding(self) -> EmbeddingData:
        """The embeddings of the chains.

        Raises:
            NoFigureData: They were not measured.
        """
        told, arrays = self._part(EMBEDDING), self._arrays()
        vectors = _array(arrays, f"{EMBEDDING}/vectors", self.folder)
        labellings = [
            Labelling(
                name=name,
                labels=[str(label) or None for label in _array(arrays, f"{EMBEDDING}/{name}", self.folder)],
                silhouette=_number(told["silhouette"][name]),
            )
            for name in (CLASS, ARCHITECTURE)
        ]
        first, second = told["explained"]
        return EmbeddingData(vectors=vectors, labellings=tuple(labellings), explained=(first, second))

    def reliability(self) -> list[ReliabilitySet]:
        """The confidence as the model says it, and calibrated on other chains where there were any.

        Raises:
            NoFigureData: It was not measured: the model has no confidence head.
        """
        told = self.summary.get(CONFIDENCE)
        if not told:
            raise NoFigureData(
                f"{self.folder / SUMMARY} holds no confidence: its model has no confidence head "
                "(model.init_args.confidence)"
            )
        names = {"raw": "as the model says it", "calibrated": "calibrated on other chains"}
        return [
            ReliabilitySet(
                name=name, table=[ReliabilityBin(**one) for one in told[part]["table"]],
                calibration_error=_number(told[part]["calibration_error"]),
                mean_absolute_error=_number(told[part]["mean_absolute_error"]),
            )
            for part, name in names.items()
            if told.get(part)
        ]  # fmt: skip

    def contact_panels(self, names: Sequence[str] = ()) -> list[ContactPanel]:
        """The maps of some chains, as drawn beside their truth.

        Raises:
            NoFigureData: They were not kept.
        """
        told, arrays = self._part(CONTACTS), self._arrays()
        missing = [name for name in names if name not in told]
        if missing:
            raise NoFigureData(
                f"{self.folder} holds no contact map of {', '.join(missing)}; there are {', '.join(told)}: give a "
                "checkpoint instead"
            )
        panels = []
        for place, (name, one) in enumerate(told.items()):
            if names and name not in names:
                continue
            maps = {
                part: _array(arrays, f"{CONTACTS}/{place}/{part}", self.folder)
                for part in MapArrays.__annotations__
            }
            panels.append(
                ContactPanel(
                    name=name, told=one["told"], scores={k: _number(x) for k, x in one["scores"].items()},
                    counts=one["counts"], **maps,
                )
            )  # fmt: skip
        return panels

    @property
    def about(self) -> str:
        """Which weights, and on what."""
        return about(self.summary)

    def _part(self, part: str) -> dict[str, Any]:
        told = self.summary.get(part)
        if not isinstance(told, dict) or not told:
            raise NoFigureData(
                f"{self.folder / SUMMARY} holds no {part.replace('_', ' ')}: an older version wrote it, it had too "
                "few chains, or its model has none"
            )
        return told

    def _arrays(self) -> Mapping[str, np.ndarray]:
        path = self.folder / ARRAYS
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
            why = getattr(error, "strerror", None) or "it is damaged"
            raise NoFigureData(
                f"{path} cannot be read ({why}); evaluate writes it beside {SUMMARY}"
            ) from error


def about(content: Mapping[str, Any]) -> str:
    """Which weights, and on what; of a summary, or of what ``plot`` measured itself."""
    checkpoint, data = content["checkpoint"], content["data"]
    synthetic = "SYNTHETIC data, " if "synthetic" in data["provenance"] else ""
    return (
        f"{checkpoint['path']}, step {checkpoint['step']}, "
        f"{checkpoint['weights']} weights {checkpoint['sha256'][:12]}; "
        f"{synthetic}{data['chains']} chains of {data['split']}"
    )


def arrays_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of :data:`ARRAYS`: single precision, packed."""
    out = io.BytesIO()
    packed: Any = {name: x.astype(np.float32) if x.dtype.kind == "f" else x for name, x in arrays.items()}
    np.savez_compressed(out, **packed)
    return out.getvalue()


def dihedral_summary(
    sets: Sequence[DihedralSet], numbers: Sequence[DihedralNumbers]
) -> dict[str, dict[str, Any]]:
    """What stands in ``summary.json`` of a kind of dihedrals."""
    found: dict[str, dict[str, Any]] = {}
    for one, counted in zip(sets, numbers, strict=True):
        compared = counted.distance is not None
        found[one.name] = {
            "pairs": counted.pairs,
            "shares": counted.shares,
            **({_DISTANCE: counted.distance, _SAMPLING: counted.sampling} if compared else {}),
            "told": one.told,
        }
    return found


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NoFigureData(f"no evaluation in {path.parent}: {error.strerror} ({path.name})") from error
    except ValueError as error:
        raise NoFigureData(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict) or not {"checkpoint", "data"} <= content.keys():
        raise NoFigureData(f"{path} is not what evaluate writes")
    return content


def _array(arrays: Mapping[str, np.ndarray], name: str, folder: Path) -> np.ndarray:
    if name not in arrays:
        raise NoFigureData(
            f"{folder / ARRAYS} does not belong to the {SUMMARY} beside it: it holds no {name}"
        )
    return arrays[name]


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
