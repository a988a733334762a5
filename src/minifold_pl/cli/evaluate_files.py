"""Sampled structures of an evaluation as PDB files, superposed on their truths, which are written beside them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from minifold_pl.checkpoint.atomic import atomic_write_text
from minifold_pl.cli.errors import UserError
from minifold_pl.constants import CA_ATOM
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.data.records import ChainRecord
from minifold_pl.export.agreement import sample_agreement
from minifold_pl.export.names import safe_file_name
from minifold_pl.export.observed import ObservedChain, observed_pdb_text
from minifold_pl.export.plddt import b_factor_remark, plddt, plddt_told
from minifold_pl.export.structure import PredictedChain, closed_remark, pdb_text
from minifold_pl.metrics.tm_search import tm_superposition
from minifold_pl.modules.structures import SampledChain

SAMPLES: Final = "samples"
TRUTHS: Final = "truths"
STRUCTURES: Final = "structures"
"""Their part of ``summary.json``."""
DEFAULT: Final = 24
"""Chains whose samples are written where nobody says otherwise."""
_FEWEST: Final = 3
"""Residues that fix a superposition."""


class StructureFiles:
    """Writes the samples of some chains, spread evenly over the lengths of all.

    Args:
        out: Folder of the evaluation; the files go into ``samples/`` and ``truths/`` in it.
        dataset: The chains that are evaluated.
        count: As many chains at most.
        made_by: What stands in each file about how it was made.
    """

    def __init__(self, out: Path, dataset: ChainDataset, count: int, made_by: str) -> None:
        self._out = out
        self._made_by = made_by
        order = sorted(range(len(dataset)), key=lambda i: (int(dataset.lengths[i]), i))
        chosen = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
        self._store = dataset.store
        self._places = {
            dataset.store.name(int(dataset.indices[order[k]])): int(dataset.indices[order[k]])
            for k in chosen.tolist()
        }
        self._taken: set[str] = set()
        self._told: list[dict[str, Any]] = []
        self._failed: dict[str, str] = {}
        _remove_those_of_an_earlier_evaluation(out)

    def add(
        self,
        names: Sequence[str],
        drawn: Sequence[Sequence[SampledChain]],
        scores: Mapping[str, Tensor],
    ) -> None:
        """Write those of one batch that were chosen.

        Args:
            names: Of the chains.
            drawn: Samples by number, then chain.
            scores: Score → (s, b), those that stand in the evaluation.
        """
        for place, name in enumerate(names):
            if name not in self._places:
                continue
            samples = [row[place] for row in drawn]
            scored = [
                {score: _plain(values[k, place]) for score, values in scores.items()}
                for k in range(len(samples))
            ]
            try:
                self._write(self._store[self._places[name]], samples, scored)
            except ValueError as error:
                self._failed[name] = str(error)
            except OSError as error:
                raise UserError(
                    f"cannot write structures to {self._out}: {error.strerror or error}"
                ) from error

    def results(self) -> dict[str, Any]:
        """What stands in the summary: every file, what it is superposed on, and its scores."""
        found: dict[str, Any] = {STRUCTURES: self._told}
        return {**found, "structures_left_out": self._failed} if self._failed else found

    def _write(
        self, record: ChainRecord, samples: Sequence[SampledChain], scored: Sequence[dict[str, float | None]]
    ) -> None:
        agreement = sample_agreement(torch.stack([sample.ca for sample in samples]))
        mean = agreement.mean(-1).tolist()
        ranking = sorted(range(len(samples)), key=lambda k: -mean[k])
        stem = safe_file_name(record.name, self._taken)
        truth = ObservedChain(
            name=record.name, sequence=record.sequence, coords=record.coords,
            title=f"{record.name} as observed, residues numbered from 1",
        )  # fmt: skip
        files = {f"{TRUTHS}/{stem}.pdb": observed_pdb_text(truth)}
        told = []
        for rank, k in enumerate(ranking, start=1):
            file = f"{SAMPLES}/{stem}{_suffix(rank, len(samples))}.pdb"
            coords, superposed = _on_truth(samples[k], record)
            remarks = [self._made_by]
            if superposed:
                remarks.append(f"Superposed on {TRUTHS}/{stem}.pdb for the highest TM-score.")
            if (moved := samples[k].ca_moved) is not None:
                remarks.append(closed_remark(moved))
            factors = (100 * agreement[k]).clamp(0, 100).numpy()
            if (confidence := samples[k].confidence) is not None:
                factors = plddt(confidence.numpy())
                remarks.append(b_factor_remark(plddt_told(None)))
            chain = PredictedChain(
                name=record.name, sequence=record.sequence, coords=coords,
                confidence=factors,
                title=f"{record.name}: sample {k + 1} of {len(samples)}", remarks=remarks,
            )  # fmt: skip
            files[file] = pdb_text(chain)
            told.append(
                {
                    "chain": record.name, "sample": k, "rank": rank, "file": file, "truth": f"{TRUTHS}/{stem}.pdb",
                    "superposed": superposed, "scores": scored[k],
                }
            )  # fmt: skip
        for file, text in files.items():
            (self._out / file).parent.mkdir(parents=True, exist_ok=True)
            atomic_write_text(self._out / file, text)
        self._told += told


def _suffix(rank: int, count: int) -> str:
    """As ``sample`` names several structures of a chain."""
    return "" if count == 1 else "_best" if rank == 1 else f"_{rank}"


def _on_truth(sample: SampledChain, record: ChainRecord) -> tuple[np.ndarray, bool]:
    """The sample's atoms in the pose of the highest TM-score, and whether there is one."""
    coords = sample.coords.double()
    true = torch.from_numpy(record.coords[:, CA_ATOM].copy())
    mask = true.isfinite().all(-1)
    if mask.sum() < _FEWEST:
        return coords.float().numpy(), False
    pose = tm_superposition(sample.ca[None].float(), true.nan_to_num()[None], mask[None]).pose
    moved = torch.einsum("xd,lad->lax", pose.rotation[0], coords) + pose.translation[0]
    return moved.float().numpy(), True


def _remove_those_of_an_earlier_evaluation(out: Path) -> None:
    """Files that its summary lists, and no others; who replaces results must not find old ones among them."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        listed = json.loads((out / "summary.json").read_text(encoding="utf-8"))[STRUCTURES]
        for one in listed:
            for file in (str(one["file"]), str(one["truth"])):
                path = out / file
                if path.suffix == ".pdb" and path.resolve().parent.parent == out.resolve():
                    path.unlink(missing_ok=True)


def _plain(value: Tensor) -> float | None:
    number = float(value)
    return number if number == number else None
