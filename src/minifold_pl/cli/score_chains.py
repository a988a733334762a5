"""From two files to two Cα traces whose residues are matched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int

from minifold_pl.cli.score_files import FilePair
from minifold_pl.constants import CA_ATOM
from minifold_pl.data.records import peptide_bonds, split_residue_id
from minifold_pl.data.residue_match import AUTO, ResidueMatch, match_residues
from minifold_pl.data.structure_file import (
    StructureChain,
    StructureFile,
    StructureFileError,
    read_models,
    read_structure,
)

FEWEST: Final = 3
"""Matched residues: fewer have no pose."""
ALL: Final = "all"


class PairError(ValueError):
    """A pair that cannot be scored; the reason is one line."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What of the files is scored; None chooses."""

    pred_chain: str | None = None
    ref_chain: str | None = None
    pred_model: int | str | None = None
    """From 1, or ``all``."""
    ref_model: int | None = None
    way: str = AUTO
    """How residues are matched: ``auto``, ``number`` or ``alignment``."""


@dataclass(frozen=True, kw_only=True)
class MatchedPair:
    """A model's chain beside its reference; coordinates in Å, residues without Cα left out."""

    name: str
    files: FilePair
    pred_chain: str
    ref_chain: str
    pred_model: int
    ref_model: int
    match: ResidueMatch
    """Over all residues of both chains, observed or not."""
    true: Float[np.ndarray, "l 3"]
    """Cα of the whole reference."""
    true_bonded: Bool[np.ndarray, " l"]
    true_sequence: str
    matched: Bool[np.ndarray, " l"]
    """Residues of the reference that the prediction has, too."""
    pred: Float[np.ndarray, "l 3"]
    """The prediction's Cα in the reference's places; 0 where not matched."""
    trace: Float[np.ndarray, "p 3"]
    """Cα of the whole prediction."""
    bonded: Bool[np.ndarray, " p"]
    """Residues i and i + 1 of the prediction are neighbours in the chain, however far apart it puts them."""
    notes: tuple[str, ...]

    @property
    def coverage(self) -> float:
        """Matched share of the reference."""
        return float(self.matched.mean())


def read_pair(files: FilePair, choice: Choice) -> list[MatchedPair]:
    """The pair of two files: one, or with all models of the prediction as many.

    Raises:
        PairError: A file cannot be read, has not what was asked for, or the two have too little in common.
    """
    ref = _read(files.ref, choice.ref_model)[0]
    preds = _read(files.pred, choice.pred_model)
    notes = []
    if choice.ref_model is None and ref.models > 1:
        notes.append(f"the reference has {ref.models} models, model 1 is used (--ref-model)")
    if choice.pred_model is None and preds[0].models > 1:
        notes.append(
            f"the prediction has {preds[0].models} models, model 1 is scored (--model N, --model all)"
        )
    return [_matched(files, pred, ref, choice, notes) for pred in preds]


def _read(path: Path, model: int | str | None) -> tuple[StructureFile, ...]:
    try:
        if model == ALL:
            return read_models(path)
        return (read_structure(path, None if model is None else int(model)),)
    except StructureFileError as error:
        raise PairError(f"{path} {error}") from error


def _matched(
    files: FilePair, pred_file: StructureFile, ref_file: StructureFile, choice: Choice, notes: Sequence[str]
) -> MatchedPair:
    preds = _candidates(files.pred, pred_file, choice.pred_chain)
    refs = _candidates(files.ref, ref_file, choice.ref_chain)
    pred, ref, match = _best(preds, refs, choice.way)
    notes = list(notes)
    for what, chains, chosen, option in (
        ("prediction", preds, pred, "--pred-chain"),
        ("reference", refs, ref, "--ref-chain"),
    ):
        if len(chains) > 1:
            names = ", ".join(chain.name for chain in chains)
            notes.append(f"of the {what}'s chains {names} the best match is {chosen.name} ({option})")

    true_ca, pred_ca = ref.coords[:, CA_ATOM], pred.coords[:, CA_ATOM]
    observed, predicted = _known(true_ca), _known(pred_ca)
    both = observed[match.ref] & predicted[match.pred]
    if both.sum() < FEWEST:
        raise PairError(
            f"only {both.sum()} residues of chain {pred.name or '(unnamed)'} of {files.pred.name} are in chain "
            f"{ref.name or '(unnamed)'} of {files.ref.name}; at least {FEWEST} are needed"
        )
    placed = np.zeros_like(true_ca)
    matched = np.zeros(len(ref), dtype=bool)
    placed[match.ref[both]] = pred_ca[match.pred[both]]
    matched[match.ref[both]] = True
    if match.doubtful:
        notes.append(_doubt(match))
    return MatchedPair(
        name=files.name,
        files=files,
        pred_chain=pred.name,
        ref_chain=ref.name,
        pred_model=pred_file.model,
        ref_model=ref_file.model,
        match=match,
        true=true_ca[observed],
        true_bonded=_neighbours(ref, observed),
        true_sequence="".join(letter for letter, seen in zip(ref.sequence, observed, strict=True) if seen),
        matched=matched[observed],
        pred=placed[observed],
        trace=pred_ca[predicted],
        bonded=_neighbours(pred, predicted),
        notes=tuple(notes),
    )


def _candidates(path: Path, file: StructureFile, wanted: str | None) -> list[StructureChain]:
    if wanted is not None:
        chosen = [chain for chain in file.chains if chain.name == wanted]
        if not chosen:
            dropped = [reason for name, reason in file.dropped if name == wanted]
            names = ", ".join(chain.name or "(unnamed)" for chain in file.chains) or "none"
            why = f"chain {wanted} is left out: {dropped[0]}" if dropped else f"has no chain {wanted}"
            raise PairError(f"{path}: {why}; protein chains: {names}")
        return chosen
    if not file.chains:
        reasons = "; ".join(f"chain {name}: {reason}" for name, reason in file.dropped[:3])
        raise PairError(f"{path} holds no protein chain" + (f" ({reasons})" if reasons else ""))
    # A chain too short to be scored is a ligand peptide or a fragment; it is not chosen while there is another.
    long_enough = [chain for chain in file.chains if _known(chain.coords[:, CA_ATOM]).sum() >= FEWEST]
    if not long_enough:
        raise PairError(f"{path} holds no protein chain with {FEWEST} Cα atoms")
    return long_enough


def _best(
    preds: Sequence[StructureChain], refs: Sequence[StructureChain], way: str
) -> tuple[StructureChain, StructureChain, ResidueMatch]:
    """The two chains that have most identical residues in common; of equals those of one name, then the first."""
    best: tuple[tuple[int, int, bool], StructureChain, StructureChain, ResidueMatch] | None = None
    for pred in preds:
        for ref in refs:
            match = match_residues(pred.sequence, pred.residue_ids, ref.sequence, ref.residue_ids, way=way)
            rank = (match.identical, len(match), pred.name == ref.name)
            if best is None or rank > best[0]:
                best = (rank, pred, ref, match)
    assert best is not None, "there is at least one chain on either side"
    return best[1:]


def _doubt(match: ResidueMatch) -> str:
    if not match.comparable:
        return f"matched by {match.way}, and no amino acids to compare"
    advice = "" if match.way == "alignment" else ", and no alignment of them is convincing"
    return f"matched by {match.way}, though only {match.identity:.0%} of the amino acids agree{advice}"


def _known(ca: Float[np.ndarray, "l 3"]) -> Bool[np.ndarray, " l"]:
    return np.isfinite(ca).all(-1)


def _neighbours(chain: StructureChain, kept: Bool[np.ndarray, " l"]) -> Bool[np.ndarray, " k"]:
    """Which of the kept residues are joined to the next: by number or, where numbers jump, by distance.

    Distance alone would call a broken bond of a prediction the end of a chain, and not count it.
    """
    places = np.flatnonzero(kept)
    joined = np.zeros(len(places), dtype=bool)
    next_place = np.diff(places) == 1
    joined[:-1] = next_place & (peptide_bonds(chain.coords)[places[:-1]] | _consecutive(chain, places))
    return joined


def _consecutive(chain: StructureChain, places: Int[np.ndarray, " k"]) -> Bool[np.ndarray, " k-1"]:
    ids = [split_residue_id(i) if i else None for i in np.array(chain.residue_ids, dtype=object)[places]]
    return np.array(
        [a is not None and b is not None and 0 <= b[0] - a[0] <= 1 for a, b in pairwise(ids)],
        dtype=bool,
    )
