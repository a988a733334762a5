"""What chains of one split give away of another: shared clusters, equal sequences, and similar ones, pair by pair."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from minifold_pl.data.alignment import align
from minifold_pl.data.cluster import IDENTITY, Search, candidate_pairs
from minifold_pl.data.records import NO_SPLIT, SPLITS, TRAIN
from minifold_pl.data.store import ChainStore
from minifold_pl.data.tokenizer import decode

QUICK: Final = 3e12
"""Residues held out × residues in all up to which :func:`similar_pairs` takes a few minutes: twice CATH 4.2."""
_WORST: Final = 10

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Shows how far a piece of work is: what it is and its size, then how much more is done."""


def _unseen(description: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda count: None)


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """Chains outside the training split that have a relative in another split."""

    clusters_across_splits: int | None
    """Sequence clusters with members in two or more splits; None where the store knows no clusters."""
    held_out_chains_near_training: int | None
    """Validation and test chains that share a cluster with a training chain; None where unknown."""
    same_sequence_as_training: int
    """Validation and test chains whose sequence is that of a training chain, letter by letter."""


@dataclass(frozen=True, kw_only=True)
class SimilarPair:
    """Two chains of different splits."""

    one: str
    one_split: str
    other: str
    other_split: str
    identity: float
    """Identical residues ÷ residues of the shorter chain."""


@dataclass(frozen=True, kw_only=True)
class SimilarPairs:
    """The pairs of :func:`similar_pairs`."""

    identity: float
    """From this share of identical residues on."""
    pairs: dict[str, int]
    """How many, by the two splits: ``train–test``."""
    held_out_chains_near_training: int
    """Validation and test chains with such a pair in training."""
    worst: list[SimilarPair] = field(default_factory=list)
    """The ten most similar."""
    search: str = ""
    """How pairs were found, and what that misses."""


def shared_clusters(store: ChainStore) -> Leakage:
    """Count clusters across splits and sequences that training has, too. Reads the sequences."""
    splits_of: dict[int, set[int]] = defaultdict(set)
    none, train = SPLITS.index(NO_SPLIT), SPLITS.index(TRAIN)
    training: set[bytes] = set()
    held_out: list[int] = []
    pairs = zip(store.cluster_ids.tolist(), store.split_ids.tolist(), strict=True)
    for chain, (cluster, split) in enumerate(pairs):
        if split == none:
            continue
        if cluster >= 0:
            splits_of[cluster].add(split)
        if split == train:
            training.add(store.tokens(chain).tobytes())
        else:
            held_out.append(chain)
    known = bool((store.cluster_ids >= 0).any())
    near = sum(train in splits_of.get(int(store.cluster_ids[i]), ()) for i in held_out)
    return Leakage(
        clusters_across_splits=sum(len(s) > 1 for s in splits_of.values()) if known else None,
        held_out_chains_near_training=near if known else None,
        same_sequence_as_training=sum(store.tokens(i).tobytes() in training for i in held_out),
    )


def search_size(store: ChainStore) -> float:
    """Residues held out × residues in all: what :func:`similar_pairs` takes time for."""
    used = store.split_ids != SPLITS.index(NO_SPLIT)
    held_out = used & (store.split_ids != SPLITS.index(TRAIN))
    return float(store.lengths[held_out].sum()) * float(store.lengths[used].sum())


def similar_pairs(
    store: ChainStore,
    *,
    identity: float = IDENTITY,
    search: Search = "auto",
    threads: int = 1,
    progress: Progress = _unseen,
) -> SimilarPairs:
    """Find the pairs of chains of different splits with at least ``identity``; chains in no split are left out.

    Args:
        store: Where the chains are.
        identity: Smallest share of identical residues (see :mod:`minifold_pl.data.alignment`).
        search: How pairs are looked for (see :func:`minifold_pl.data.cluster.candidate_pairs`).
        threads: Of mmseqs2.
        progress: Shows how far it is.
    """
    members: dict[str, list[int]] = defaultdict(list)
    none, train = SPLITS.index(NO_SPLIT), SPLITS.index(TRAIN)
    splits = store.split_ids
    for chain in np.flatnonzero(splits != none).tolist():
        members[decode(store.tokens(chain))].append(chain)
    sequences = list(members)
    found_in = [{int(splits[c]) for c in members[sequence]} for sequence in sequences]
    queries = [i for i, where in enumerate(found_in) if where != {train}]
    with progress("looking for similar sequences", len(queries)) as advance:
        found, note = candidate_pairs(sequences, queries, search=search, threads=threads, advance=advance)
        candidates = [(i, j) for i, j in sorted(set(found)) if len(found_in[i] | found_in[j]) > 1]
    similar = [
        (1.0, sequence, sequence)
        for sequence, where in zip(sequences, found_in, strict=True)
        if len(where) > 1
    ]
    with progress("aligning", len(candidates)) as advance:
        for one, other in candidates:
            share = align(sequences[one], sequences[other]).identity
            if share >= identity:
                similar.append((share, sequences[one], sequences[other]))
            advance(1)
    return _counted(store, similar, members, identity, note)


def _counted(
    store: ChainStore,
    similar: list[tuple[float, str, str]],
    members: dict[str, list[int]],
    identity: float,
    note: str,
) -> SimilarPairs:
    splits, train = store.split_ids, SPLITS.index(TRAIN)
    counts: Counter[str] = Counter()
    near: set[int] = set()
    worst: list[SimilarPair] = []
    for share, one_sequence, other_sequence in sorted(similar, key=lambda pair: -pair[0]):
        same = one_sequence == other_sequence
        for one in members[one_sequence]:
            for other in members[other_sequence]:
                if splits[one] == splits[other] or (same and other <= one):
                    continue
                first, second = sorted((one, other), key=lambda chain: (splits[chain], chain))
                counts[f"{SPLITS[splits[first]]}–{SPLITS[splits[second]]}"] += 1
                if splits[first] == train:
                    near.add(second)
                if len(worst) < _WORST:
                    worst.append(
                        SimilarPair(
                            one=store.name(first),
                            one_split=SPLITS[splits[first]],
                            other=store.name(second),
                            other_split=SPLITS[splits[second]],
                            identity=share,
                        )
                    )
    return SimilarPairs(
        identity=identity,
        pairs=dict(sorted(counts.items())),
        held_out_chains_near_training=len(near),
        worst=worst,
        search=note,
    )
