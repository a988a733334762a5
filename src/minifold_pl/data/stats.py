"""What is in a store: counts, lengths, gaps, labels, and what leaks between its splits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from minifold_pl.constants import CA_ATOM, CATH_CLASSES, NO_LABEL, UNK
from minifold_pl.data.records import NO_SPLIT, SPLITS, TRAIN
from minifold_pl.data.store import ChainStore

_QUANTILES: Final = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_HISTOGRAM_EDGES: Final = (0, 64, 128, 192, 256, 320, 384, 448, 512)
"""Residues; the last bin is open."""
_BAR_WIDTH: Final = 40
_NO_CLASS: Final = "no label"


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
class StoreStats:
    """The figures of :func:`store_stats`."""

    chains: int
    residues: int
    split_sizes: dict[str, int]
    length_quantiles: dict[str, float]
    """Residues, by quantile."""
    length_histogram: dict[str, int]
    missing_ca_share: float
    """Share of residues without an observed Cα."""
    ca_only_chains: int
    chains_with_breaks: int
    breaks: int
    """Places inside chains where two residues are not joined."""
    unknown_letters: int
    class_counts: dict[str, dict[str, int]]
    """Chains a CATH class, by split."""
    architectures: dict[str, int]
    """Training chains an architecture: the label set."""
    unseen_architectures: dict[str, int]
    """Chains of other splits whose architecture no training chain has: they get no label."""
    clusters: int | None
    leakage: Leakage

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)


def store_stats(store: ChainStore) -> StoreStats:
    """Count everything once; reads the whole store."""
    observed = missing = breaks = broken_chains = unknown = ca_only = 0
    for chain in range(len(store)):
        atoms = ~np.isnan(store.coords(chain)).any(-1)
        observed += int(atoms[:, CA_ATOM].sum())
        missing += int((~atoms[:, CA_ATOM]).sum())
        ca_only += int(not np.delete(atoms, CA_ATOM, axis=1).any())
        gaps = int((~store.bonded(chain)[:-1]).sum())
        breaks += gaps
        broken_chains += gaps > 0
        unknown += int((store.tokens(chain) == UNK).sum())
    present = [split for split in SPLITS if split in set(store.splits)]
    known = {cluster for cluster in store.clusters if cluster is not None}
    return StoreStats(
        chains=len(store),
        residues=int(store.lengths.sum()),
        split_sizes={split: store.splits.count(split) for split in present},
        length_quantiles={
            f"{q:.0%}": float(value)
            for q, value in zip(_QUANTILES, np.quantile(store.lengths, _QUANTILES), strict=True)
        },
        length_histogram=_histogram(store.lengths),
        missing_ca_share=missing / (observed + missing),
        ca_only_chains=ca_only,
        chains_with_breaks=broken_chains,
        breaks=breaks,
        unknown_letters=unknown,
        class_counts={split: _class_counts(store, split) for split in present},
        architectures=_counts(store, (TRAIN,), frozenset(store.architectures)),
        unseen_architectures=_unseen(store),
        clusters=len(known) or None,
        leakage=_leakage(store, bool(known)),
    )


def _histogram(lengths: np.ndarray) -> dict[str, int]:
    counts, _ = np.histogram(lengths, bins=[*_HISTOGRAM_EDGES, np.iinfo(np.int64).max])
    labels = [f"{a}-{b - 1}" for a, b in pairwise(_HISTOGRAM_EDGES)]
    return dict(zip([*labels, f"{_HISTOGRAM_EDGES[-1]}+"], map(int, counts), strict=True))


def _class_counts(store: ChainStore, split: str) -> dict[str, int]:
    counts = Counter(int(store.cath_classes[i]) for i in store.indices(split))
    named = {name: counts.get(k, 0) for k, name in enumerate(CATH_CLASSES)}
    return {**named, _NO_CLASS: counts.get(NO_LABEL, 0)}


def _counts(store: ChainStore, splits: Iterable[str], wanted: frozenset[str]) -> dict[str, int]:
    chains = (int(i) for split in splits for i in store.indices(split))
    counts = Counter(name for i in chains if (name := store.chain_architectures[i]) in wanted)
    return {str(name): count for name, count in counts.most_common()}


def _unseen(store: ChainStore) -> dict[str, int]:
    found = {name for name in store.chain_architectures if name is not None}
    others = [split for split in SPLITS if split != TRAIN]
    return _counts(store, others, frozenset(found - set(store.architectures)))


def _leakage(store: ChainStore, clusters_known: bool) -> Leakage:
    splits_of: dict[str, set[str]] = defaultdict(set)
    training_sequences: set[bytes] = set()
    held_out: list[int] = []
    for chain, (cluster, split) in enumerate(zip(store.clusters, store.splits, strict=True)):
        if split == NO_SPLIT:
            continue
        if cluster is not None:
            splits_of[cluster].add(split)
        if split == TRAIN:
            training_sequences.add(store.tokens(chain).tobytes())
        else:
            held_out.append(chain)
    near_training = sum(TRAIN in splits_of.get(store.clusters[i] or "", ()) for i in held_out)
    return Leakage(
        clusters_across_splits=sum(len(s) > 1 for s in splits_of.values()) if clusters_known else None,
        held_out_chains_near_training=near_training if clusters_known else None,
        same_sequence_as_training=sum(store.tokens(i).tobytes() in training_sequences for i in held_out),
    )


def stats_table(stats: StoreStats) -> str:
    """The figures as text, for a screen of 80 columns."""
    lines = [
        f"{stats.chains:,} chains, {stats.residues:,} residues",
        "splits         " + " · ".join(f"{split} {n:,}" for split, n in stats.split_sizes.items()),
        "length         " + " · ".join(f"{q} {v:g}" for q, v in stats.length_quantiles.items()),
    ]
    longest = max(stats.length_histogram.values())
    for label, count in stats.length_histogram.items():
        lines.append(f"  {label:>9} {count:>7,}  {'█' * round(_BAR_WIDTH * count / longest)}".rstrip())
    lines += [
        f"missing Cα     {stats.missing_ca_share:.2%} of residues; "
        f"{stats.ca_only_chains:,} chains have only Cα",
        f"breaks         {stats.breaks:,} in {stats.chains_with_breaks:,} chains",
        f"unknown        {stats.unknown_letters:,} residues of unknown type",
        f"architectures  {len(stats.architectures)} in the training split; "
        f"{sum(stats.unseen_architectures.values())} chains elsewhere have another one",
        "",
        f"{'CATH class':<28}" + "".join(f"{split:>12}" for split in stats.class_counts),
    ]
    for name in (*CATH_CLASSES, _NO_CLASS):
        counts = "".join(f"{row[name]:>12,}" for row in stats.class_counts.values())
        lines.append(f"{name:<28}{counts}")
    leak = stats.leakage
    lines.append("")
    if leak.clusters_across_splits is None:
        lines.append("leakage        unknown by cluster: the records name none")
    else:
        lines += [
            f"leakage        {leak.clusters_across_splits:,} of {stats.clusters:,} clusters "
            "lie in two or more splits",
            f"               {leak.held_out_chains_near_training:,} held-out chains "
            "share a cluster with training",
        ]
    lines.append(
        f"               {leak.same_sequence_as_training:,} held-out chains have a training chain's sequence"
    )
    return "\n".join(lines)
