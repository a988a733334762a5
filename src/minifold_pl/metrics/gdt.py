"""Global distance test at the pose of least RMSD."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

from minifold_pl.metrics.pose import kabsch_distances, masked_mean

GDT_TS_CUTOFFS = (1.0, 2.0, 4.0, 8.0)
"""Å, the total score."""
GDT_HA_CUTOFFS = (0.5, 1.0, 2.0, 4.0)
"""Å, the high-accuracy score."""


def gdt_ts_kabsch(
    pred: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    length: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, " b"]:
    """Mean share of residues within 1, 2, 4 and 8 Å in the pose of least RMSD, 0 to 1.

    LGA's GDT-TS (Zemla 2003, Nucleic Acids Res. 31:3370) looks for the best pose of each cutoff and is
    never lower, so this is a lower bound of the figure that CASP reports (nearer to it:
    :mod:`minifold_pl.metrics.tm_search`). NaN for a chain without residues.

    ``length``: residues to normalise by; those in ``mask`` where not given.
    """
    return _share_within(kabsch_distances(pred, true, mask), mask, GDT_TS_CUTOFFS, length)


def gdt_ha_kabsch(
    pred: Float[Tensor, "b l 3"],
    true: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    length: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, " b"]:
    """As :func:`gdt_ts_kabsch` with 0.5, 1, 2 and 4 Å."""
    return _share_within(kabsch_distances(pred, true, mask), mask, GDT_HA_CUTOFFS, length)


def _share_within(
    distances: Float[Tensor, "b l"],
    mask: Bool[Tensor, "b l"],
    cutoffs: tuple[float, ...],
    length: Int[Tensor, " b"] | None,
) -> Float[Tensor, " b"]:
    shares = [masked_mean((distances <= cutoff).to(distances.dtype), mask, length) for cutoff in cutoffs]
    return sum(shares[1:], start=shares[0]) / len(cutoffs)
