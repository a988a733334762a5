"""What crops of a given length take from a store: residues, and contacts between residues too far apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float

from minifold_pl.constants import CA_ATOM, CONTACT_CUTOFF, LONG_RANGE, MEDIUM_RANGE
from minifold_pl.data.store import ChainStore

SAMPLE: Final = 1000
"""Of more chains that are cropped, this many are looked at for their contacts, drawn with a fixed seed."""


@dataclass(frozen=True, kw_only=True)
class CropLosses:
    """The figures of :func:`crop_losses`; contacts have Cα closer than 8 Å and 12 or more places between them."""

    max_length: int
    cropped_chains: int
    """Chains that are longer."""
    cropped_share: float
    """Of all chains with coordinates."""
    residues_outside_share: float
    """Share of all residues that one crop of each chain leaves out."""
    contacts_lost_share: float | None
    """Of the contacts of cropped chains, the share that a crop leaves out, on average over where it may begin;
    None where no chain is cropped."""
    long_contacts_lost_share: float | None
    """The same of contacts with 24 or more places between them."""
    contacts_out_of_reach_share: float | None
    """Of the contacts of cropped chains, those that no crop can hold."""
    chains_looked_at: int
    """Cropped chains whose contacts were counted."""


def crop_losses(store: ChainStore, max_length: int) -> CropLosses:
    """Count what crops of ``max_length`` residues leave out; chains without coordinates are not counted.

    A crop may begin anywhere, all places equally likely: as in training, but for chains with long gaps.

    Raises:
        ValueError: ``max_length`` below 1.
    """
    if max_length < 1:
        raise ValueError(f"max_length is {max_length}; give at least 1 residue")
    chains = np.flatnonzero(store.has_coords)
    lengths = store.lengths[chains]
    long = chains[lengths > max_length]
    looked_at = long
    if len(long) > SAMPLE:
        looked_at = np.sort(np.random.default_rng(0).choice(long, SAMPLE, replace=False))
    counts = np.zeros(5)
    for chain in looked_at.tolist():
        counts += _contacts(store.coords(chain)[:, CA_ATOM], max_length)
    total, inside, long_total, long_inside, unreachable = counts.tolist()
    outside = int(np.maximum(lengths - max_length, 0).sum())
    return CropLosses(
        max_length=max_length,
        cropped_chains=len(long),
        cropped_share=len(long) / max(len(chains), 1),
        residues_outside_share=outside / max(int(lengths.sum()), 1),
        contacts_lost_share=1 - inside / total if total else None,
        long_contacts_lost_share=1 - long_inside / long_total if long_total else None,
        contacts_out_of_reach_share=unreachable / total if total else None,
        chains_looked_at=len(looked_at),
    )


def contacts_cut(ca: Float[np.ndarray, "l 3"], observed: Bool[np.ndarray, " l"], piece: slice) -> float:
    """Of the contacts of a piece's residues, the share whose other end lies outside the piece; 0 without contacts.

    Contacts have Cα closer than 8 Å and 12 or more places between them; residues that were not observed have none.
    """
    inside = np.arange(len(ca))[piece]
    inside, places = inside[observed[inside]], np.flatnonzero(observed)
    apart = np.abs(inside[:, None] - places[None]) >= MEDIUM_RANGE[0]
    # The expanded form holds one matrix instead of three.
    square = (ca**2).sum(-1)
    distances = square[inside, None] + square[None, places] - 2 * ca[inside] @ ca[places].T
    contact = apart & (distances < CONTACT_CUTOFF**2)
    outside = (places < piece.start) | (places >= piece.stop)
    total = int(contact.sum())
    # Contacts inside the piece are seen from both ends.
    within = int(contact[:, ~outside].sum()) // 2
    lost = total - 2 * within
    return lost / (within + lost) if total else 0.0


def _contacts(ca: Float[np.ndarray, "l 3"], max_length: int) -> Float[np.ndarray, " 5"]:
    """Contacts; those inside a crop, expected; both of long range alone; contacts that no crop holds."""
    length, starts = len(ca), len(ca) - max_length + 1
    square = (ca**2).sum(-1)
    # The expanded form holds one matrix instead of three; NaN of missing atoms compares as no contact.
    distances = square[:, None] + square[None] - 2 * ca @ ca.T
    i, j = np.nonzero(np.triu(distances < CONTACT_CUTOFF**2, k=MEDIUM_RANGE[0]))
    # Both ends lie in the crops that begin after j - max_length and up to i.
    holding = np.minimum(i, length - max_length) - np.maximum(j - max_length + 1, 0) + 1
    share = np.maximum(holding, 0) / starts
    long = j - i >= LONG_RANGE
    return np.array([len(i), share.sum(), long.sum(), share[long].sum(), (j - i >= max_length).sum()])
