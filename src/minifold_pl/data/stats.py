"""What is in a store: counts, lengths, gaps, labels, and what leaks between its splits."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from minifold_pl.constants import BACKBONE_ATOMS, CA_ATOM, CATH_CLASSES, NO_LABEL, UNK
from minifold_pl.data.crops import CropLosses
from minifold_pl.data.leakage import Leakage, SimilarPairs, shared_clusters
from minifold_pl.data.records import SPLITS, TRAIN
from minifold_pl.data.store import ChainStore

_QUANTILES: Final = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_HISTOGRAM_EDGES: Final = (0, 64, 128, 192, 256, 320, 384, 448, 512)
"""Residues; the last bin is open."""
_BAR_WIDTH: Final = 40
_NO_CLASS: Final = "no label"
_INDENT: Final = " " * 15


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
    """Share of residues without an observed Cα, in chains with coordinates."""
    missing_atoms: dict[str, float]
    """Share of residues that lack an atom, by atom, in chains with more than Cα."""
    sequence_only_chains: int
    """Chains without coordinates."""
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
    similar: SimilarPairs | None = None
    """Pairs of similar sequences across splits; None where they were not looked for."""
    crops: tuple[CropLosses, ...] = ()
    """What crops leave out, for each length that was given."""

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)


def store_stats(
    store: ChainStore, *, similar: SimilarPairs | None = None, crops: Iterable[CropLosses] = ()
) -> StoreStats:
    """Count everything once; reads the whole store. ``similar`` and ``crops`` are put beside the counts."""
    breaks = broken_chains = unknown = ca_only = residues = backbone_residues = 0
    missing_ca = 0
    missing = np.zeros(len(BACKBONE_ATOMS), dtype=np.int64)
    for chain in range(len(store)):
        unknown += int((store.tokens(chain) == UNK).sum())
        if not store.has_coords[chain]:
            continue
        lacking = np.isnan(store.coords(chain)).any(-1)
        residues += len(lacking)
        missing_ca += int(lacking[:, CA_ATOM].sum())
        if store.has_backbone[chain]:
            backbone_residues += len(lacking)
            missing += lacking.sum(0)
        else:
            ca_only += 1
        gaps = int((~store.bonded(chain)[:-1]).sum())
        breaks += gaps
        broken_chains += gaps > 0
    sizes = {split: len(store.indices(split)) for split in SPLITS}
    present = [split for split, size in sizes.items() if size]
    clusters = len(np.unique(store.cluster_ids[store.cluster_ids >= 0]))
    return StoreStats(
        chains=len(store),
        residues=int(store.lengths.sum()),
        split_sizes={split: sizes[split] for split in present},
        length_quantiles={
            f"{q:.0%}": float(value)
            for q, value in zip(_QUANTILES, np.quantile(store.lengths, _QUANTILES), strict=True)
        },
        length_histogram=_histogram(store.lengths),
        missing_ca_share=missing_ca / max(residues, 1),
        missing_atoms={
            atom: int(count) / max(backbone_residues, 1)
            for atom, count in zip(BACKBONE_ATOMS, missing, strict=True)
        },
        sequence_only_chains=int((~store.has_coords).sum()),
        ca_only_chains=ca_only,
        chains_with_breaks=broken_chains,
        breaks=breaks,
        unknown_letters=unknown,
        class_counts={split: _class_counts(store, split) for split in present},
        architectures=_counts(store, (TRAIN,), frozenset(store.architectures)),
        unseen_architectures=_unseen(store),
        clusters=clusters or None,
        leakage=shared_clusters(store),
        similar=similar,
        crops=tuple(crops),
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
        f"coordinates    {stats.ca_only_chains:,} chains have only Cα, {stats.sequence_only_chains:,} none at all",
        f"missing Cα     {stats.missing_ca_share:.2%} of residues; of chains with more than Cα: "
        + " · ".join(f"{atom} {share:.2%}" for atom, share in stats.missing_atoms.items()),
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
    lines += ["", *_leakage_lines(stats)]
    for crops in stats.crops:
        lines += _crop_lines(crops)
    return "\n".join(lines)


def _leakage_lines(stats: StoreStats) -> list[str]:
    leak, similar = stats.leakage, stats.similar
    if leak.clusters_across_splits is None:
        lines = ["leakage        unknown by cluster: the records name none"]
    else:
        lines = [
            f"leakage        {leak.clusters_across_splits:,} of {stats.clusters:,} clusters "
            "lie in two or more splits",
            f"               {leak.held_out_chains_near_training:,} held-out chains "
            "share a cluster with training",
        ]
    lines.append(
        f"               {leak.same_sequence_as_training:,} held-out chains have a training chain's sequence"
    )
    if similar is None:
        return [*lines, "               similar sequences were not looked for; --leakage yes does it"]
    counts = " · ".join(f"{splits} {count:,}" for splits, count in similar.pairs.items()) or "none"
    lines += [
        f"               pairs across splits of {similar.identity:.0%} identity or more: {counts}",
        f"               {similar.held_out_chains_near_training:,} held-out chains have such a pair in training",
    ]
    for pair in similar.worst:
        where = f"{pair.one} ({pair.one_split}) – {pair.other} ({pair.other_split})"
        lines.append(f"                 {pair.identity:>4.0%}  {where}")
    return [*lines, *textwrap.wrap(similar.search, 80, initial_indent=_INDENT, subsequent_indent=_INDENT)]


def _crop_lines(crops: CropLosses) -> list[str]:
    lines = [
        f"crops          at {crops.max_length} residues: {crops.cropped_chains:,} chains "
        f"({crops.cropped_share:.1%}) are cropped, {crops.residues_outside_share:.1%} of all residues left out",
    ]
    if crops.contacts_lost_share is not None:
        long = (
            ""
            if crops.long_contacts_lost_share is None
            else f" ({crops.long_contacts_lost_share:.1%} at |i−j| ≥ 24)"
        )
        lines += [
            f"               {crops.contacts_lost_share:.1%} of their contacts at |i−j| ≥ 12 lie outside a crop{long},",
            f"               {crops.contacts_out_of_reach_share:.1%} outside every crop; "
            f"{crops.chains_looked_at:,} chains looked at",
        ]
    return lines
