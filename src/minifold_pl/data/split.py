"""Training, validation and test sets for chains that come without: by sequence cluster or by CATH topology."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import numpy as np

from minifold_pl.data.cluster import IDENTITY, Search, cluster_sequences, connected
from minifold_pl.data.records import NO_SPLIT, TEST, TRAIN, VALIDATION

SplitMethod = Literal["cluster", "topology"]

LARGEST_HELD_OUT_GROUP: Final = 0.25
"""No group fills more than this share of a held-out split: one family would be most of the score."""


class HasSequence(Protocol):
    """What is needed of a chain; a :class:`minifold_pl.data.records.ChainRecord` has it."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def sequence(self) -> str:
        """One letter a residue."""
        ...

    @property
    def cath(self) -> tuple[str, ...]:
        """CATH codes of its domains."""
        ...


@dataclass(frozen=True, kw_only=True)
class SplitFractions:
    """Shares of the chains; together 1."""

    train: float = 0.8
    """What is trained on."""
    validation: float = 0.1
    """What chooses the best checkpoint."""
    test: float = 0.1
    """What is scored at the end."""

    def __post_init__(self) -> None:
        shares = (self.train, self.validation, self.test)
        if not all(0.0 <= share <= 1.0 for share in shares) or abs(sum(shares) - 1.0) > 1e-6:
            raise ValueError(f"train, validation and test are {shares}; give shares in 0…1 that sum to 1")
        if not self.train:
            raise ValueError("train is 0; nothing would be left to train on")


@dataclass(frozen=True, kw_only=True)
class SplitAssignment:
    """Where each chain belongs; see :func:`assign_splits`."""

    split_of: dict[str, str]
    """Split, by chain name; every chain is named."""
    cluster_of: dict[str, str]
    """Sequence cluster, by chain name: the name of its longest chain. Empty for splits by topology."""
    representatives: frozenset[str]
    """The longest chain of each cluster."""
    notes: list[str] = field(default_factory=list)
    """How it was made and what to know about it: a line each."""


def assign_splits(
    records: Iterable[HasSequence],
    method: SplitMethod = "cluster",
    fractions: SplitFractions | None = None,
    seed: int = 0,
    *,
    identity: float = IDENTITY,
    search: Search = "auto",
    threads: int = 1,
    fixed: Mapping[str, str] | None = None,
) -> SplitAssignment:
    """Put groups of related chains into one split each; a function of the chains and ``seed``, not of their order.

    ``cluster`` groups by sequence: chains that are linked by pairs of at least ``identity`` (see
    :mod:`minifold_pl.data.cluster`) stay together. ``topology`` groups by CATH topology, as Ingraham et al.
    2019 do: chains that share a topology, be it through a chain of several domains, stay together; a chain
    without a code is in no split. Groups are drawn at random into validation and test until these have their
    share; a group that would be more than a quarter of a held-out split is trained on.

    ``fixed`` are splits that chains had before others were added, by name. These chains stay where they are, and new
    ones of their group come to them. Where the new ones link chains of several splits, they are in no split: any
    would bring relatives of held-out chains into training.

    Raises:
        ValueError: no chain, two of one name, or none with a CATH code for ``topology``.
    """
    fractions = fractions or SplitFractions()
    chains = sorted(records, key=lambda record: record.name)
    if not chains:
        raise ValueError("no chain to split")
    twice = [name for name, count in Counter(chain.name for chain in chains).items() if count > 1]
    if twice:
        raise ValueError(f"two chains are named {twice[0]!r}; names must differ")
    if method == "topology":
        return _by_topology(chains, fractions, seed, fixed or {})
    if method != "cluster":
        raise ValueError(f"split method {method!r} is none of cluster, topology")
    clustering = cluster_sequences(
        [chain.sequence for chain in chains], identity=identity, search=search, threads=threads
    )
    names = [chain.name for chain in chains]
    # Sorting by name beforehand makes the first of the longest the same in any order of the records.
    longest: dict[int, int] = {}
    for place, group in enumerate(clustering.ids.tolist()):
        if group not in longest or len(chains[place].sequence) > len(chains[longest[group]].sequence):
            longest[group] = place
    placed, notes = _draw(clustering.ids, fractions, seed, [(fixed or {}).get(name) for name in names])
    return SplitAssignment(
        split_of=dict(zip(names, placed, strict=True)),
        cluster_of={n: names[longest[g]] for n, g in zip(names, clustering.ids.tolist(), strict=True)},
        representatives=frozenset(names[place] for place in longest.values()),
        notes=[
            f"splits made by sequence cluster, seed {seed}: {len(longest):,} clusters of {len(chains):,} chains",
            *clustering.notes,
            *notes,
        ],
    )


def topology(code: str) -> str | None:
    """``3.40.50`` from ``3.40.50.300``; None where the code is shorter."""
    levels = code.split(".")
    return ".".join(levels[:3]) if len(levels) >= 3 else None


def _by_topology(
    chains: Sequence[HasSequence], fractions: SplitFractions, seed: int, fixed: Mapping[str, str]
) -> SplitAssignment:
    first: dict[str, int] = {}
    links: list[tuple[int, int]] = []
    labelled: list[int] = []
    for place, chain in enumerate(chains):
        found = {name for code in chain.cath if (name := topology(code)) is not None}
        if found:
            labelled.append(place)
        links += [(first.setdefault(name, place), place) for name in found]
    if not labelled:
        raise ValueError(
            "no chain has a CATH topology to split by; give a list of CATH domains, or split by cluster"
        )
    groups = connected(len(chains), links)[labelled]
    placed, notes = _draw(groups, fractions, seed, [fixed.get(chains[i].name) for i in labelled])
    split_of = dict.fromkeys((chain.name for chain in chains), NO_SPLIT)
    split_of.update((chains[i].name, split) for i, split in zip(labelled, placed, strict=True))
    unlabelled = len(chains) - len(labelled)
    sizes = Counter(groups.tolist())
    return SplitAssignment(
        split_of=split_of,
        cluster_of={},
        representatives=frozenset(),
        notes=[
            f"splits made by CATH topology, seed {seed}: {len(first):,} topologies in {len(sizes):,} groups, the "
            f"largest of {max(sizes.values()):,} chains",
            *([f"{unlabelled:,} chains without a CATH topology are in no split"] if unlabelled else []),
            *notes,
        ],
    )


def _draw(
    groups: np.ndarray, fractions: SplitFractions, seed: int, fixed: Sequence[str | None]
) -> tuple[list[str], list[str]]:
    """A split for each chain, and notes; ``groups`` numbers the group of each chain in the order of names.

    ``fixed`` is the split that a chain has already, if any.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for place, group in enumerate(groups.tolist()):
        members[group].append(place)
    ordered = list(members.values())  # by the first name in each
    shuffled = [ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered))]
    placed = [TRAIN] * len(groups)
    notes = []
    free = []
    for group in shuffled:
        had = {split for place in group if (split := fixed[place]) not in (None, NO_SPLIT)}
        if not had:
            free.append(group)
        for place in group if had else ():
            mine = fixed[place]
            placed[place] = mine if mine in had else next(iter(had)) if len(had) == 1 else NO_SPLIT
    if linking := placed.count(NO_SPLIT):
        notes.append(
            f"{linking:,} chains are related to earlier ones of several splits: they are in no split, "
            "and no chain was moved"
        )
    largest_of_all = None if TRAIN in fixed else max(free, key=len)  # something is always trained on
    left = [group for group in free if group is not largest_of_all]
    for split, share in ((VALIDATION, fractions.validation), (TEST, fractions.test)):
        wanted = round(share * len(groups))
        largest = max(1, int(LARGEST_HELD_OUT_GROUP * wanted))
        taken = sum(mine == split for mine in placed)
        rest = []
        for group in left:
            if len(group) <= min(largest, wanted - taken):
                taken += len(group)
                for place in group:
                    placed[place] = split
            else:
                rest.append(group)
        left = rest
        if taken < 0.9 * wanted:
            notes.append(
                f"{split} has {taken:,} chains instead of {wanted:,}: the other groups are too large for it"
            )
    return placed, notes
