"""The structures of a report: samples as files, the truth, and the motion of one onto the other."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import gemmi
import numpy as np
import torch
from torch import Tensor

from minifold_pl.constants import BACKBONE_ATOMS, CA_ATOM
from minifold_pl.data.records import ChainRecord, peptide_bonds
from minifold_pl.data.store import ChainStore
from minifold_pl.export.names import safe_file_name
from minifold_pl.export.observed import ObservedChain, observed_pdb_text
from minifold_pl.metrics.lddt import lddt_ca
from minifold_pl.metrics.rmsd import rmsd
from minifold_pl.metrics.tm_search import searched_scores
from minifold_pl.report.evaluated import EvaluatedFile

_EPOCH: Final = re.compile(r"epoch-(\d+)")
_RANK: Final = re.compile(r"_(best|\d+)$")
"""What ``sample`` puts behind the name of a chain of which there are several structures."""
_BATCH: Final = 64
_MARGIN: Final = 200
"""Residues without coordinates that a file may have; more, and it is numbered otherwise."""
_FEWEST: Final = 3
"""Residues that fix a superposition."""
_EVALUATED: Final = 1 << 31
"""Shown first of a chain's structures: they are the ones that the scores are of."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A structure that a model made."""

    chain: str
    made: str
    """When or by what: ``epoch 10``, ``predict``, a folder."""
    order: tuple[int, str]
    """Of the structures of a chain, the last one is shown first."""
    file: str
    """Name of its file in downloads."""
    pdb: str
    ca: np.ndarray
    """(l 3) Å, by residue number from 1; NaN where missing."""
    motion: tuple[float, ...] = ()
    """Rotation by rows, then translation in Å, onto the truth; empty without one."""
    scores: dict[str, float] = field(default_factory=dict)
    """``tm_score``, ``gdt_ts``, ``lddt_ca``, ``rmsd`` (Å) of this file; empty without a truth."""


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A chain with its samples, oldest first."""

    name: str
    length: int
    samples: tuple[Sample, ...]
    file: str
    """The chain's name as part of a file's name."""
    shape: np.ndarray
    """(l 3) Cα in Å of the truth, else of the newest sample; NaN where missing."""
    bonded: np.ndarray
    """(l) True where a residue is joined to the next."""
    factors: bool = False
    """Whether the samples have B-factors other than 0: a confidence."""
    truth: str = ""
    """A PDB file numbered from 1, as the samples are; empty where the truth is not at hand."""


@dataclass(frozen=True, kw_only=True)
class _Read:
    sample: Sample
    sequence: str
    factors: bool
    evaluated: EvaluatedFile | None = None

    @property
    def ca(self) -> np.ndarray:
        return self.sample.ca


def read_structures(
    folders: Iterable[Path],
    store: ChainStore | None,
    limit: int,
    *,
    evaluated: Sequence[EvaluatedFile] = (),
) -> tuple[tuple[Chain, ...], list[str]]:
    """PDB files of models in ``folders`` and below, each superposed on its chain of ``store`` for the highest TM-score.

    Args:
        folders: Folders of PDB files; ``epoch-010`` says when they were made.
        store: Where the truths are; a truth has the file's name and sequence.
        limit: Structures at most. The newest of each chain come first.
        evaluated: Files of evaluations, besides, with the scores of their summaries and truths of their own.

    Returns:
        Chains by name, and what has to be said about files that are left out.
    """
    listed = {one.path: one for one in evaluated}
    known = {path.resolve() for path in listed}
    paths = [
        path for folder in folders for path in sorted(folder.rglob("*.pdb")) if path.resolve() not in known
    ]
    paths += listed
    told: list[str] = []
    chosen = _newest_of_each(paths, limit)
    if len(chosen) < len(paths):
        told.append(
            f"{len(paths)} structures lie in the run folder; {len(chosen)} are shown, the newest of each chain first."
        )
    read: list[_Read] = []
    damaged = []
    for path in chosen:
        try:
            read.append(_read(path, listed.get(path)))
        except (ValueError, RuntimeError, OSError, IndexError):
            damaged.append(path.name)
    if damaged:
        files = "structure file" if len(damaged) == 1 else "structure files"
        names = ", ".join(damaged[:5]) + (", …" if len(damaged) > 5 else "")
        told.append(f"{len(damaged)} {files} without a chain that can be read: {names}")
    truths = None if store is None else _Truths(store)
    records: dict[str, ChainRecord] = {}
    named: list[_Read] = []
    for one in read:
        record = None if truths is None else truths.find(one)
        if record is None and one.evaluated is not None:
            record = _truth_of_file(one)
        if record is not None:
            records[record.name] = record
            one = replace(one, sample=replace(one.sample, chain=record.name))
        named.append(one)
    scored = _superposed(named, records)
    by_chain: dict[str, list[_Read]] = {}
    for one in scored:
        by_chain.setdefault(one.sample.chain, []).append(one)
    taken: set[str] = set()
    chains = [
        _chain(name, by_chain[name], records.get(name), safe_file_name(name, taken))
        for name in sorted(by_chain)
    ]
    return tuple(chains), told


def _chain(name: str, read: list[_Read], record: ChainRecord | None, file: str) -> Chain:
    newest_last = sorted(read, key=lambda one: one.sample.order)
    return Chain(
        name=name,
        length=len(newest_last[-1].sequence),
        samples=tuple(one.sample for one in newest_last),
        file=file,
        shape=newest_last[-1].ca if record is None else record.coords[:, CA_ATOM],
        bonded=np.ones(len(newest_last[-1].ca), dtype=bool)
        if record is None
        else peptide_bonds(record.coords, record.breaks),
        factors=any(one.factors for one in read),
        truth="" if record is None else _truth(record),
    )


def _newest_of_each(paths: Sequence[Path], limit: int) -> list[Path]:
    """At most ``limit`` paths, taken in turns: the newest of every chain, then the second newest of each."""
    by_stem: dict[str, list[Path]] = {}
    for path in paths:
        by_stem.setdefault(_RANK.sub("", path.stem), []).append(path)
    ranked = [
        (age, stem, path)
        for stem, ones in sorted(by_stem.items())
        for age, path in enumerate(sorted(ones, key=_made, reverse=True))
    ]
    return [path for _, _, path in sorted(ranked, key=lambda item: item[:2])[:limit]]


def _made(path: Path) -> tuple[int, str]:
    found = _EPOCH.fullmatch(path.parent.name)
    # The best of several samples is the one to show first.
    last = "~" if path.stem.endswith("_best") else path.stem
    return (int(found[1]) if found else 1 << 30, last)


def _read(path: Path, evaluated: EvaluatedFile | None = None) -> _Read:
    text = path.read_text(encoding="ascii", errors="replace")
    structure = gemmi.read_pdb_string(text)
    structure.setup_entities()
    polymer = structure[0][0].get_polymer()
    numbers = [residue.seqid.num or 0 for residue in polymer]
    if not numbers or min(numbers) < 1 or max(numbers) > len(polymer) + _MARGIN:
        raise ValueError(f"{path} holds no chain numbered from 1")
    ca = np.full((max(numbers), 3), np.nan)
    letters, factors = ["X"] * len(ca), False
    for residue, number in zip(polymer, numbers, strict=True):
        letters[number - 1] = gemmi.find_tabulated_residue(residue.name).fasta_code()
        if (atom := residue.find_atom("CA", "*")) is not None:
            ca[number - 1] = atom.pos.tolist()
            factors |= atom.b_iso > 0
    found = _EPOCH.fullmatch(path.parent.name)
    epoch = f"epoch {int(found[1])}" if found else path.parent.name
    rank = _RANK.search(path.stem)
    made = f"{epoch}, {'best' if rank[1] == 'best' else 'rank ' + rank[1]}" if rank and not found else epoch
    if evaluated is not None:
        sample = Sample(
            chain=evaluated.chain, made=evaluated.made, order=(_EVALUATED, "~" if evaluated.best else path.stem),
            file=f"{path.stem}_{path.parent.parent.name}.pdb", pdb=text, ca=ca,
        )  # fmt: skip
        return _Read(sample=sample, sequence="".join(letters), factors=factors, evaluated=evaluated)
    sample = Sample(
        chain=path.stem if found else _RANK.sub("", path.stem),
        made=made,
        order=_made(path),
        file=f"{path.stem}_{path.parent.name}.pdb",
        pdb=text,
        ca=ca,
    )
    return _Read(sample=sample, sequence="".join(letters), factors=factors)


class _Truths:
    """Finds the chain of a store that a file is of: by its name, or by what its name becomes as a file's."""

    def __init__(self, store: ChainStore) -> None:
        self.store = store
        self._stems: dict[str, int] | None = None

    def find(self, one: _Read) -> ChainRecord | None:
        """The record of the same name and sequence; crops, and chains of other data, may share the name alone."""
        chain = self._place(one.sample.chain)
        if chain is None:
            return None
        record = self.store[chain]
        known = np.isfinite(record.coords[:, CA_ATOM]).all(-1).sum()
        return record if record.sequence == one.sequence and known >= _FEWEST else None

    def _place(self, name: str) -> int | None:
        try:
            return self.store.find(name)
        except KeyError:
            if self._stems is None:
                self._stems = {}
                for chain, other in enumerate(self.store.names):
                    self._stems.setdefault(safe_file_name(other, set()).lower(), chain)
            return self._stems.get(name.lower())


def _superposed(read: list[_Read], records: dict[str, ChainRecord]) -> list[_Read]:
    """Scores and motions of those that have a truth."""
    done = [one for one in read if one.sample.chain not in records]
    known = sorted((one for one in read if one.sample.chain in records), key=lambda one: len(one.ca))
    for start in range(0, len(known), _BATCH):
        part = known[start : start + _BATCH]
        longest = len(part[-1].ca)
        pred, true = torch.zeros(len(part), longest, 3), torch.zeros(len(part), longest, 3)
        mask = torch.zeros(len(part), longest, dtype=torch.bool)
        for row, one in enumerate(part):
            truth = records[one.sample.chain].coords[:, CA_ATOM]
            both = np.isfinite(truth).all(-1) & np.isfinite(one.ca).all(-1)
            mask[row, : len(both)] = torch.from_numpy(both)
            pred[row, : len(both)] = torch.from_numpy(np.nan_to_num(one.ca)).float()
            true[row, : len(both)] = torch.from_numpy(np.nan_to_num(truth)).float()
        searched = searched_scores(pred, true, mask)
        columns: dict[str, Tensor] = {
            "tm_score": searched.tm,
            "gdt_ts": searched.gdt_ts,
            "lddt_ca": lddt_ca(pred, true, mask),
            "rmsd": rmsd(pred, true, mask),
        }
        motions = torch.cat([searched.pose.rotation.flatten(-2), searched.pose.translation], -1).tolist()
        for row, one in enumerate(part):
            scores = {name: float(column[row]) for name, column in columns.items()}
            if one.evaluated is not None:
                # A search for the best pose finds a little more or less from another start: these are the ones told.
                scores = dict(one.evaluated.scores)
            usable = all(math.isfinite(value) for value in motions[row])
            sample = replace(
                one.sample,
                motion=tuple(round(value, 6) for value in motions[row]) if usable else (),
                scores={name: value for name, value in scores.items() if math.isfinite(value)},
            )
            done.append(replace(one, sample=sample))
    return done


def _truth_of_file(one: _Read) -> ChainRecord | None:
    """The truth that the evaluation wrote beside its sample, for where the data set is not at hand."""
    assert one.evaluated is not None
    try:
        polymer = gemmi.read_structure(str(one.evaluated.truth))[0][0]
        coords = np.full((len(one.sequence), len(BACKBONE_ATOMS), 3), np.nan, dtype=np.float32)
        for residue in polymer:
            for slot, name in enumerate(BACKBONE_ATOMS):
                if (atom := residue.find_atom(name, "*")) is not None:
                    coords[(residue.seqid.num or 0) - 1, slot] = atom.pos.tolist()
        record = ChainRecord(name=one.sample.chain, sequence=one.sequence, coords=coords)
    except (ValueError, RuntimeError, OSError, IndexError):
        return None
    return record if np.isfinite(coords[:, CA_ATOM]).all(-1).sum() >= _FEWEST else None


def _truth(record: ChainRecord) -> str:
    """The truth as a PDB file, numbered from 1 as samples are; empty where the format cannot hold it."""
    try:
        return observed_pdb_text(
            ObservedChain(
                name=record.name,
                sequence=record.sequence,
                coords=record.coords,
                title=f"{record.name} as observed, residues numbered from 1",
            )
        )
    except ValueError:
        return ""
