"""One chain of a store, in words and figures."""

from __future__ import annotations

import difflib
import textwrap
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from minifold_pl.constants import (
    BACKBONE_ATOMS,
    CA_ATOM,
    CATH_CLASSES,
    CONTACT_CUTOFF,
    MEDIUM_RANGE,
    NO_LABEL,
)
from minifold_pl.data.cath import architecture, cath_class
from minifold_pl.data.records import ChainRecord, peptide_bonds
from minifold_pl.data.store import ChainStore
from minifold_pl.data.structure_content import plain

_LINE: Final = 60
_GROUP: Final = 10
_BREAKS_SHOWN: Final = 12
_UNOBSERVED: Final = "-"


class NoSuchChain(ValueError):
    """A name that no chain of the store has."""


@dataclass(frozen=True, kw_only=True)
class ChainFacts:
    """The figures of :func:`chain_facts`."""

    name: str
    place: int
    """In the store, from 0."""
    length: int
    split: str
    cluster: str | None
    representative: bool
    cath: tuple[str, ...]
    cath_class: str | None
    architecture: str | None
    numbers: tuple[str, str] | None
    """The author's numbers of the first and the last residue; None where unknown."""
    observed: dict[str, int]
    """Residues that have an atom, by atom."""
    breaks: list[str]
    """Between which residues the chain is broken, ``34–38``, by the author's numbers, else counted from 1."""
    radius_of_gyration: float | None
    """Of the Cα, Å; None where none is known."""
    contacts: int | None
    """Pairs of Cα closer than 8 Å with 12 or more places between them; None where no Cα is known."""
    sequence: str

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)


def find_chain(store: ChainStore, name: str) -> int:
    """Place of the chain of this name.

    Raises:
        NoSuchChain: there is none; names the most similar ones.
    """
    try:
        return store.find(name)
    except KeyError:
        near = difflib.get_close_matches(name, store.names, n=3, cutoff=0.6)
        hint = f"did you mean {plain(', '.join(near))}?" if near else f"the first one is {store.name(0)!r}"
        raise NoSuchChain(f"store {store.path} has no chain named {name!r}; {hint}") from None


def chain_facts(store: ChainStore, place: int) -> ChainFacts:
    """What is known of a chain."""
    record = store[place]
    observed = ~np.isnan(record.coords).any(-1)
    ca = record.coords[observed[:, CA_ATOM], CA_ATOM].astype(np.float64)
    label = cath_class(record.cath)
    return ChainFacts(
        name=record.name,
        place=place,
        length=len(record),
        split=record.split,
        cluster=record.cluster,
        representative=record.representative,
        cath=record.cath,
        cath_class=None if label == NO_LABEL else CATH_CLASSES[label],
        architecture=architecture(record.cath),
        numbers=(record.residue_ids[0], record.residue_ids[-1]) if record.residue_ids else None,
        observed={atom: int(observed[:, slot].sum()) for slot, atom in enumerate(BACKBONE_ATOMS)},
        breaks=_breaks(record),
        radius_of_gyration=float(np.sqrt(((ca - ca.mean(0)) ** 2).sum(-1).mean())) if len(ca) else None,
        contacts=_contacts(record) if len(ca) else None,
        sequence=record.sequence,
    )


def _breaks(record: ChainRecord) -> list[str]:
    """Broken places, a run of residues without Cα as one."""
    if record.sequence_only:
        return []
    bonded = peptide_bonds(record.coords, record.breaks)
    known = ~np.isnan(record.coords[:, CA_ATOM]).any(-1)
    places = np.flatnonzero(known)
    return [
        f"{_number(record, int(i))}–{_number(record, int(j))}"
        for i, j in pairwise(places)
        if j != i + 1 or not bonded[i]
    ]


def _number(record: ChainRecord, place: int) -> str:
    return record.residue_ids[place] if record.residue_ids else str(place + 1)


def _contacts(record: ChainRecord) -> int:
    ca = record.coords[:, CA_ATOM].astype(np.float64)
    near = np.linalg.norm(ca[:, None] - ca[None], axis=-1) < CONTACT_CUTOFF  # NaN compares as no contact
    return int(np.triu(near, k=MEDIUM_RANGE[0]).sum())


def chain_text(facts: ChainFacts, observed: np.ndarray) -> str:
    """The facts as a few lines, and the sequence with a dash below each residue without Cα.

    Args:
        facts: Of the chain.
        observed: True where a residue's Cα is known.
    """
    labels = " · ".join(facts.cath) or "none"
    named = " · ".join(name for name in (facts.cath_class, facts.architecture) if name)
    atoms = " · ".join(f"{atom} {count}" for atom, count in facts.observed.items())
    numbers = f", numbered {facts.numbers[0]}…{facts.numbers[1]} by its author" if facts.numbers else ""
    cluster = facts.cluster or "unknown"
    lines = [
        f"{facts.name}  ({facts.length} residues{numbers}; chain {facts.place} of the store)",
        f"split          {facts.split}",
        f"cluster        {cluster}{', its representative' if facts.representative else ''}",
        f"CATH           {labels}{f' ({named})' if named else ''}",
        f"observed       {atoms}",
    ]
    if facts.radius_of_gyration is None:
        lines.append("coordinates    none, the sequence only")
    else:
        shown = ", ".join(facts.breaks[:_BREAKS_SHOWN]) or "none"
        more = len(facts.breaks) - _BREAKS_SHOWN
        breaks = f"{shown}{f' and {more} more' if more > 0 else ''}"
        lines += textwrap.wrap(f"breaks         {breaks}", 90, subsequent_indent=" " * 15)
        lines += [
            f"shape          radius of gyration {facts.radius_of_gyration:.1f} Å",
            f"contacts       {facts.contacts:,} at |i−j| ≥ {MEDIUM_RANGE[0]}",
        ]
    return "\n".join([*map(plain, lines), "", *_sequence_lines(facts.sequence, observed)])


def _sequence_lines(sequence: str, observed: np.ndarray) -> list[str]:
    lines = []
    for start in range(0, len(sequence), _LINE):
        end = min(start + _LINE, len(sequence))
        lines.append(f"{start + 1:>6} {_grouped(sequence[start:end])}")
        if observed.any() and not observed[start:end].all():
            marks = "".join(" " if known else _UNOBSERVED for known in observed[start:end])
            lines.append(f"{'':>6} {_grouped(marks)}".rstrip())
    return lines


def _grouped(text: str) -> str:
    return " ".join(text[i : i + _GROUP] for i in range(0, len(text), _GROUP))
