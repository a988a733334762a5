"""Helices and strands of a Cα trace, from distances and angles alone (P-SEA).

Labesse, Colloc'h, Pothier & Mornon 1997, Comput. Appl. Biosci. 13:291. Its criteria, applied to (i − 1, i, i + 1 …):

============  ==============  ==============
of residue i  helix           strand
============  ==============  ==============
d(i−1, i+1)                   6.7 ± 0.6 Å
d(i−1, i+2)   5.3 ± 0.5 Å     9.9 ± 0.9 Å
d(i−1, i+3)   6.4 ± 0.6 Å     12.4 ± 1.1 Å
angle         89° ± 12°       124° ± 14°
dihedral      50° ± 20°       −170° ± 45°
============  ==============  ==============

A residue may be helical when d(i−1, i+2) and d(i−1, i+3), or the angle and the dihedral fit; five in a row are a helix.
It may be in a strand when all three distances, or the angle and the dihedral fit; four in a row are a strand, and so
are three that have at least five residues 4.2 to 5.2 Å away. Helices take a residue at either end whose d(i−1, i+2) or
angle fits, strands one whose d(i−1, i+2) fits.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minifold_pl.geometry.measures import (
    bond_angle_cosines,
    distance,
    pairwise_distances,
    pseudo_dihedrals,
)
from minifold_pl.geometry.precision import full_precision

COIL, HELIX, STRAND = 0, 1, 2
MASKED = -1
"""What a masked residue is."""

_Window = tuple[float, float]
"""Middle and half width."""
_HELIX_D3: _Window = (5.3, 0.5)
_HELIX_D4: _Window = (6.4, 0.6)
_HELIX_ANGLE: _Window = (89.0, 12.0)
_HELIX_DIHEDRAL: _Window = (50.0, 20.0)
_STRAND_D2: _Window = (6.7, 0.6)
_STRAND_D3: _Window = (9.9, 0.9)
_STRAND_D4: _Window = (12.4, 1.1)
_STRAND_ANGLE: _Window = (124.0, 14.0)
_STRAND_DIHEDRAL: _Window = (-170.0, 45.0)
_SHORTEST_HELIX = 5
_SHORTEST_STRAND = 4
_SHORTEST_PAIRED_STRAND = 3
_PARTNER_DISTANCE = (4.2, 5.2)
_FEWEST_PARTNERS = 5


@full_precision
def ca_secondary_structure(
    ca: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"], bonded: Bool[Tensor, "b l"] | None = None
) -> Int[Tensor, "b l"]:
    """``COIL``, ``HELIX`` or ``STRAND`` for each residue in ``mask``, ``MASKED`` for the others; Å.

    ``bonded[i]`` says that residues i and i + 1 are joined (all are, where not given): no criterion reaches across a
    break or a masked residue. Where helix and strand both fit, the helix stands.
    """
    length = ca.shape[1]
    ca = ca.where(mask[..., None], ca.new_zeros(()))
    joined = mask[:, :-1] & mask[:, 1:]
    if bonded is not None:
        joined = joined & bonded[:, :-1]
    joined = torch.nn.functional.pad(joined, (0, 1))

    def at_second(value: Tensor, residues: int) -> Tensor:
        """A value of each stretch of so many residues, at its second one; NaN where it is not all joined."""
        whole = torch.ones_like(mask)
        for k in range(residues - 1):
            whole = whole & joined.roll(-k, 1)
        out = ca.new_full(mask.shape, torch.nan)
        if length >= residues:
            out[:, 1 : length - residues + 2] = value.masked_fill(
                ~whole[:, : length - residues + 1], torch.nan
            )
        return out

    d2, d3, d4 = (at_second(distance(ca[:, :-k], ca[:, k:]), k + 1) for k in (2, 3, 4))
    angle = at_second(torch.rad2deg(bond_angle_cosines(ca).clamp(-1, 1).acos()), 3)
    dihedral = at_second(torch.rad2deg(pseudo_dihedrals(ca)), 4)

    turned = _fits(angle, _HELIX_ANGLE) & _fits_turn(dihedral, _HELIX_DIHEDRAL)
    maybe_helix = (_fits(d3, _HELIX_D3) & _fits(d4, _HELIX_D4)) | turned
    helix = _in_runs(maybe_helix, joined, _SHORTEST_HELIX)
    helix = _grown(helix, _fits(d3, _HELIX_D3) | _fits(angle, _HELIX_ANGLE), joined)

    stretched = _fits(d2, _STRAND_D2) & _fits(d3, _STRAND_D3) & _fits(d4, _STRAND_D4)
    turned = _fits(angle, _STRAND_ANGLE) & _fits_turn(dihedral, _STRAND_DIHEDRAL)
    maybe_strand = (stretched | turned) & ~helix
    strand = _in_runs(maybe_strand, joined, _SHORTEST_STRAND) | _paired(ca, mask, maybe_strand, joined)
    strand = _grown(strand, _fits(d3, _STRAND_D3), joined) & ~helix

    kinds = COIL + HELIX * helix.long() + STRAND * strand.long()
    return kinds.masked_fill(~mask, MASKED)


def _fits(value: Tensor, window: _Window) -> Tensor:
    """Within the window; NaN is not."""
    return (value - window[0]).abs() <= window[1]


def _fits_turn(degrees: Tensor, window: _Window) -> Tensor:
    """The same on the circle."""
    return (torch.remainder(degrees - window[0] + 180, 360) - 180).abs() <= window[1]


def _in_runs(marked: Bool[Tensor, "b l"], joined: Bool[Tensor, "b l"], shortest: int) -> Bool[Tensor, "b l"]:
    """Marked residues that stand in a row of at least ``shortest``, joined one to the next."""
    run = _run_numbers(marked, joined)
    return _run_sizes(run, marked).gather(1, run) >= torch.where(marked, shortest, math.inf)


def _run_numbers(marked: Bool[Tensor, "b l"], joined: Bool[Tensor, "b l"]) -> Int[Tensor, "b l"]:
    """A number for each row of equally marked, joined residues."""
    changes = (marked[:, 1:] != marked[:, :-1]) | ~joined[:, :-1]
    return torch.nn.functional.pad(changes, (1, 0)).long().cumsum(1)


def _run_sizes(run: Int[Tensor, "b l"], marked: Bool[Tensor, "b l"]) -> Int[Tensor, "b l"]:
    return torch.zeros_like(run).scatter_add_(1, run, marked.long())


def _grown(
    found: Bool[Tensor, "b l"], fits: Bool[Tensor, "b l"], joined: Bool[Tensor, "b l"]
) -> Bool[Tensor, "b l"]:
    """With the neighbours at either end that fit."""
    after = torch.nn.functional.pad((found & joined)[:, :-1], (1, 0))
    before = torch.nn.functional.pad(found[:, 1:], (0, 1)) & joined
    return found | ((after | before) & fits)


def _paired(
    ca: Float[Tensor, "b l 3"],
    mask: Bool[Tensor, "b l"],
    maybe: Bool[Tensor, "b l"],
    joined: Bool[Tensor, "b l"],
) -> Bool[Tensor, "b l"]:
    """Short strands that lie beside something."""
    run = _run_numbers(maybe, joined)
    apart = pairwise_distances(ca)
    # Neighbours along a strand are 3.8 and 6.7 Å away.
    beside = (apart >= _PARTNER_DISTANCE[0]) & (apart <= _PARTNER_DISTANCE[1]) & mask[:, None, :]
    partners = torch.zeros_like(run).scatter_add_(1, run, (beside & maybe[:, :, None]).sum(-1))
    enough = (partners >= _FEWEST_PARTNERS) & (_run_sizes(run, maybe) >= _SHORTEST_PAIRED_STRAND)
    return enough.gather(1, run) & maybe
