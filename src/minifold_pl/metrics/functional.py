"""Every score as a function: batched, masked, one number a chain; coordinates in Å.

Of a prediction and the truth, ``(pred [b l 3], true [b l 3], mask [b l])``: :func:`tm_score`, :func:`tm_kabsch`,
:func:`rmsd`, :func:`gdt_ts`, :func:`gdt_ha`, :func:`gdt_ts_kabsch`, :func:`gdt_ha_kabsch`, :func:`lddt_ca`,
:func:`rg_ratio`, :func:`secondary_structure_agreement`.
Of a trace alone, ``(ca [b l 3], mask [b l])``: :func:`ca_bond_share` (and ``bonded``), :func:`clash_count`,
:func:`helix_content`, :func:`strand_content`. Of a backbone ``[b l 4 3]``: :func:`backbone_helix_content`,
:func:`backbone_strand_content`. Of samples ``[b s l 3]``: :func:`diversity`. Of contact logits ``[b l l]``:
:func:`contact_precision`, :func:`contact_recall`.
A prediction that is not finite scores worst, a truth that is not is a ValueError (:mod:`minifold_pl.metrics.finite`).
Of two: :func:`searched_scores` gives TM and both GDTs from one search, :func:`tm_superposition` the pose as well.
"""

from minifold_pl.metrics.ca_chain import ca_bond_share, clash_count, rg_ratio
from minifold_pl.metrics.contacts import contact_precision, contact_recall
from minifold_pl.metrics.diversity import diversity
from minifold_pl.metrics.gdt import gdt_ha_kabsch, gdt_ts_kabsch
from minifold_pl.metrics.hydrogen_bonds import backbone_helix_content, backbone_strand_content
from minifold_pl.metrics.lddt import lddt_ca
from minifold_pl.metrics.rmsd import rmsd
from minifold_pl.metrics.secondary_structure import (
    helix_content,
    secondary_structure_agreement,
    strand_content,
)
from minifold_pl.metrics.tm import tm_kabsch
from minifold_pl.metrics.tm_search import gdt_ha, gdt_ts, searched_scores, tm_score, tm_superposition

__all__ = [
    "backbone_helix_content",
    "backbone_strand_content",
    "ca_bond_share",
    "clash_count",
    "contact_precision",
    "contact_recall",
    "diversity",
    "gdt_ha",
    "gdt_ha_kabsch",
    "gdt_ts",
    "gdt_ts_kabsch",
    "helix_content",
    "lddt_ca",
    "rg_ratio",
    "rmsd",
    "searched_scores",
    "secondary_structure_agreement",
    "strand_content",
    "tm_kabsch",
    "tm_score",
    "tm_superposition",
]
