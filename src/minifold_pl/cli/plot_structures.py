"""Structures and their truths for ``plot structure``, matched and scored as ``score`` does it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from minifold_pl.cli.errors import UserError
from minifold_pl.cli.score_chains import Choice, MatchedPair, PairError, read_pair
from minifold_pl.cli.score_files import FilePair
from minifold_pl.cli.score_metrics import MODEL, score_pairs
from minifold_pl.data.store import ChainStore
from minifold_pl.export.names import safe_file_name
from minifold_pl.export.observed import ObservedChain, observed_pdb_text
from minifold_pl.geometry.secondary_structure import ca_secondary_structure
from minifold_pl.metrics.tm_search import tm_superposition
from minifold_pl.plots.structure import Superposed, Trace
from minifold_pl.report.evaluated import evaluated_files

if TYPE_CHECKING:
    from minifold_pl.data.records import ChainRecord

_EPOCH: Final = re.compile(r"epoch-(\d+)")
_STRUCTURES: Final = (".pdb", ".cif")


def of_files(pred: Path, ref: Path) -> Superposed:
    """A structure file on another one.

    Raises:
        UserError: One cannot be read, or they have too little in common.
    """
    return _superposed(_pair(FilePair(name=pred.stem, pred=pred, ref=ref)), pred.stem, "")


def of_evaluation(folder: Path, names: Sequence[str], count: int) -> list[Superposed]:
    """The samples that an evaluation wrote, on the truths beside them, with the scores of its summary.

    Raises:
        UserError: It wrote none, or none of ``names``.
    """
    files = [one for one in evaluated_files(folder) if one.best]
    if not files:
        raise UserError(
            f"the evaluation in {folder} wrote no structures (--structures 0, or an older version)"
        )
    there = {one.chain for one in files}
    if missing := sorted(set(names) - there):
        raise UserError(
            f"no sample of {', '.join(missing)} in {folder}; there are {', '.join(sorted(there)[:6])}",
            exit_code=2,
        )
    wanted = [one for one in files if not names or one.chain in names]
    # They are in the order of their lengths: short and long ones, not the shortest alone.
    chosen = [
        wanted[k]
        for k in np.unique(np.linspace(0, len(wanted) - 1, min(count, len(wanted))).round().astype(int))
    ]
    return [
        replace(
            _superposed(_pair(FilePair(name=one.chain, pred=one.path, ref=one.truth)), one.chain, one.made),
            scores=one.scores,
        )
        for one in chosen
    ]


def of_samples(folder: Path, store: ChainStore, names: Sequence[str], count: int) -> list[Superposed]:
    """Samples in a folder, or of the newest epoch of a run's ``samples``, on the chains of a data set.

    Args:
        folder: Of structure files, or of folders ``epoch-<n>`` of them.
        store: Where the truths are, by name.
        names: The chains that are wanted; all that are there, by their names, where empty.
        count: As many at most.

    Raises:
        UserError: There are no samples, or none has a truth.
    """
    folder, told = _newest(folder)
    files = sorted(path for path in folder.iterdir() if path.suffix in _STRUCTURES)
    if not files:
        raise UserError(f"{folder} holds no structure files (.pdb, .cif)")
    places = {safe_file_name(name, set()): name for name in (store.name(i) for i in range(len(store)))}
    known = {
        path: name
        for path in files
        if (name := places.get(path.stem, places.get(_base(path.stem)))) is not None
    }
    if names:
        missing = sorted(set(names) - set(known.values()))
        if missing:
            there = ", ".join(sorted(set(known.values()))[:6])
            raise UserError(
                f"no sample of {', '.join(missing)} in {folder}; there are {there or 'none'}", exit_code=2
            )
        known = {path: name for path, name in known.items() if name in names}
    if not known:
        raise UserError(f"the chains of {folder} are not in the store {store.path}: give theirs with --data")
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for path, name in list(known.items())[:count]:
            truth = Path(scratch) / "truth.pdb"
            truth.write_text(_truth(store[store.find(name)]), encoding="utf-8")
            found.append(_superposed(_pair(FilePair(name=name, pred=path, ref=truth)), name, told))
    return found


def _base(stem: str) -> str:
    """Without what ``sample`` puts behind a name."""
    return re.sub(r"_(best|\d+)$", "", stem)


def _newest(folder: Path) -> tuple[Path, str]:
    """The folder of the last evaluation, and when that was."""
    epochs = {
        int(match[1]): path
        for path in folder.iterdir()
        if path.is_dir() and (match := _EPOCH.fullmatch(path.name))
    }
    if not epochs:
        return folder, ""
    last = max(epochs)
    return epochs[last], f"after epoch {last}"


def _truth(record: ChainRecord) -> str:
    """Numbered from 1, as samples are."""
    return observed_pdb_text(
        ObservedChain(name=record.name, sequence=record.sequence, coords=record.coords, title=record.name)
    )


def _pair(files: FilePair) -> MatchedPair:
    try:
        return read_pair(files, Choice())[0]
    except PairError as error:
        raise UserError(str(error)) from error


def _superposed(pair: MatchedPair, name: str, told: str) -> Superposed:
    scores = score_pairs([pair], with_baselines=False)[0][MODEL]
    pred, true, matched = (torch.from_numpy(x)[None] for x in (pair.pred, pair.true, pair.matched))
    pose = tm_superposition(pred, true, matched, torch.tensor([len(pair.true)])).pose
    rotation, translation = pose.rotation[0].numpy(), pose.translation[0].numpy()
    moved = pair.trace.astype(np.float64) @ rotation.T + translation
    return Superposed(
        name=name,
        truth=_trace(pair.true, pair.true_bonded),
        sample=_trace(moved, pair.bonded),
        scores=scores,
        told=told,
    )


def _trace(ca: np.ndarray, bonded: np.ndarray) -> Trace:
    x, joined = torch.from_numpy(np.asarray(ca, dtype=np.float32))[None], torch.from_numpy(bonded)[None]
    kinds = ca_secondary_structure(x, torch.ones_like(joined), joined)[0].numpy()
    return Trace(ca=np.asarray(ca, dtype=np.float64), bonded=bonded, kinds=kinds)
