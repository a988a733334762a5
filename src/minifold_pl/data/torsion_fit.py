"""Torsions of a backbone of ideal geometry whose Cα go to given places, and whose atoms do not clash.

Levenberg–Marquardt least squares over φ and ψ, many chains at once. The unknowns are torsions, so bond
lengths and angles are exact whatever the result; how near it came to its targets is what has to be checked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minifold_pl.constants import C_ATOM, CA_ATOM, N_ATOM
from minifold_pl.geometry.backbone import backbone_from_torsions, place_beta
from minifold_pl.geometry.superpose import kabsch

# Smallest distances in Å between atoms of residues two or more apart: N, Cα, C, O and an ideal Cβ. About the
# 5th percentile of the closest approach per chain in 1,067 crystal structures of 2 Å or better; Cβ after
# Ramachandran et al. 1963 (J. Mol. Biol. 7:95), because the ideal Cβ of a glycine is not there.
CLEARANCE = torch.tensor(
    [
        [3.20, 3.40, 2.95, 2.75, 3.00],
        [3.40, 3.80, 3.50, 3.00, 3.50],
        [2.95, 3.50, 3.40, 3.00, 3.20],
        [2.75, 3.00, 3.00, 2.95, 2.95],
        [3.00, 3.50, 3.20, 2.95, 3.50],
    ],
    dtype=torch.float64,
)

_MOVED_BY = torch.tensor([0, 0, 1, 2, 1])
"""How many of its own residue's torsions (φ, then ψ) move an atom."""
_NEAR = 7.8
"""Å between two Cα beyond which no atoms of the two residues touch."""
_MOST_OVERLAPS = 80
"""Overlaps of a chain that push at a time; the rest follow when these are gone."""
_LARGEST_STEP = 0.6
"""Radians a torsion may turn in one iteration: beyond, the linear picture of a chain is worth nothing."""


@dataclass(frozen=True, kw_only=True)
class TorsionProblem:
    """Chains padded to one length ``l``; angles in radians, lengths in Å, all float64."""

    mask: Bool[Tensor, "b l"]
    centre: Float[Tensor, "b l 2"]
    """φ and ψ to stay near."""
    spread: Float[Tensor, "b l 2"]
    """Their standard deviations."""
    omega: Float[Tensor, "b l"]
    n_ca_c: Float[Tensor, "b l"]
    target: Float[Tensor, "b l 3"]
    """Where the Cα should lie, up to one rigid motion a chain."""
    pinned: Bool[Tensor, "b l"]
    """Residues whose target counts."""
    tolerance: float
    """Standard deviation of a Cα about its target."""
    clash_tolerance: float = 0.08
    """Standard deviation of an overlap."""

    def coords(self, angles: Float[Tensor, "b l 2"]) -> Float[Tensor, "b l 4 3"]:
        """The backbones with these φ and ψ."""
        return backbone_from_torsions(angles[..., 0], angles[..., 1], self.omega, self.n_ca_c)


def fit_torsions(
    problem: TorsionProblem, start: Float[Tensor, "b l 2"], *, iterations: int, clashes: bool = True
) -> Float[Tensor, "b l 2"]:
    """The best φ and ψ of ``iterations`` steps; without ``clashes`` chains pass through themselves."""
    best, damping = start.clone(), start.new_full((len(start),), 0.5)
    gradient, hessian, lowest = _normal_equations(problem, start, clashes=clashes)
    for _ in range(iterations):
        stiffer = hessian.clone()
        stiffer.diagonal(dim1=-2, dim2=-1).add_(damping[:, None])
        solved = torch.cholesky_solve(gradient[..., None], torch.linalg.cholesky(stiffer))[..., 0]
        step = solved[:, 6:].unflatten(-1, (-1, 2))
        step = step * (_LARGEST_STEP / step.abs().amax((-2, -1), keepdim=True).clamp(min=_LARGEST_STEP))
        trial = best + step
        found = _normal_equations(problem, trial, clashes=clashes)
        better = found[2] < lowest
        best[better] = trial[better]
        for kept, new in zip((gradient, hessian, lowest), found, strict=True):
            kept[better] = new[better]
        damping = torch.where(better, damping * 0.4, damping * 5.0).clamp(1e-2, 1e6)
    return best


def clash_overlap(coords: Float[Tensor, "b l 4 3"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, " b"]:
    """The deepest overlap of a chain in Å, against ``CLEARANCE``; 0 where nothing touches."""
    _, _, chain, overlap = _overlaps(_with_beta(coords), mask)
    return coords.new_zeros(len(coords)).scatter_reduce(0, chain, overlap, "amax")


def _normal_equations(
    problem: TorsionProblem, angles: Float[Tensor, "b l 2"], *, clashes: bool
) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k k"], Float[Tensor, " b"]]:
    """Gradient, Gauss–Newton matrix (6 rigid motions, then φ and ψ in turn) and cost."""
    coords = problem.coords(angles)
    ca = coords[:, :, CA_ATOM]
    weight = problem.pinned.to(ca) / problem.tolerance**2
    frames = kabsch(problem.target, ca, problem.pinned)
    goal = problem.target @ frames.rotation.mT + frames.translation[:, None]
    error = goal - ca

    # every unknown moves a point r by axis × (r − origin): linear in (r, 1), which is all that is needed to
    # sum the products over the atoms an unknown moves from running sums along the chain
    axes = torch.stack((ca - coords[:, :, N_ATOM], coords[:, :, C_ATOM] - ca), 2)
    axes = (axes / axes.norm(dim=-1, keepdim=True)).flatten(1, 2)
    arms = torch.linalg.cross(axes, ca.repeat_interleave(2, 1))
    eye = torch.eye(3, dtype=ca.dtype).expand(len(ca), 3, 3)
    axes_all = torch.cat((torch.zeros_like(eye), eye, axes), 1)
    arms_all = torch.cat((-eye, torch.zeros_like(eye), arms), 1)
    motions = torch.cat((_cross_matrix(axes_all), -arms_all[..., None]), -1)

    homogeneous = torch.cat((ca, torch.ones_like(ca[..., :1])), -1)
    second = weight[..., None, None] * homogeneous[..., :, None] * homogeneous[..., None, :]
    moved = _moved_sums(second.flatten(-2)).unflatten(-1, (4, 4))
    # row k, column m of the lower triangle: the atoms that k moves, which m before it moves too. The upper
    # triangle is not what it should be, and the Cholesky factorisation does not read it.
    hessian = (motions @ moved).flatten(-2) @ motions.flatten(-2).mT

    force = weight[..., None] * error
    forces = _moved_sums(torch.cat((torch.linalg.cross(ca, force), force), -1))
    gradient = (axes_all * forces[..., :3]).sum(-1) - (arms_all * forces[..., 3:]).sum(-1)

    stiffness = problem.spread.pow(-2).flatten(1)
    away = torch.remainder(problem.centre - angles + torch.pi, 2 * torch.pi) - torch.pi
    gradient[:, 6:] += stiffness * away.flatten(1)
    hessian.diagonal(dim1=-2, dim2=-1)[:, 6:] += stiffness
    hessian.diagonal(dim1=-2, dim2=-1)[:, :6] += 1e-3
    cost = (weight * error.square().sum(-1)).sum(-1) + (stiffness * away.flatten(1).square()).sum(-1)
    if clashes:
        rows, overlap = _clash_rows(coords, problem.mask, axes, arms)
        rows, overlap = rows / problem.clash_tolerance, overlap / problem.clash_tolerance
        hessian[:, 6:, 6:] += rows.mT @ rows
        gradient[:, 6:] += (rows.mT @ overlap[..., None])[..., 0]
        cost = cost + overlap.square().sum(-1)
    return gradient, hessian, cost


def _moved_sums(values: Float[Tensor, "b l d"]) -> Float[Tensor, "b k d"]:
    """Sum of ``values`` over the Cα that each unknown moves: all, or those after a torsion's residue."""
    total = values.sum(1, keepdim=True)
    after = total - values.cumsum(1)
    return torch.cat((total.expand(-1, 6, -1), after.repeat_interleave(2, 1)), 1)


def _clash_rows(
    coords: Float[Tensor, "b l 4 3"],
    mask: Bool[Tensor, "b l"],
    axes: Float[Tensor, "b k 3"],
    arms: Float[Tensor, "b k 3"],
) -> tuple[Float[Tensor, "b p k"], Float[Tensor, "b p"]]:
    """Derivative of every overlapping distance by every torsion, and the overlaps; padded with 0."""
    atoms = _with_beta(coords)
    first, second, chain, overlap = _deepest(*_overlaps(atoms, mask))
    counts = torch.bincount(chain, minlength=len(coords))
    most = max(1, int(counts.max()))
    slot = torch.arange(len(chain)) - (counts.cumsum(0) - counts)[chain]
    flat = atoms.flatten(1, 2)
    a, b = flat[chain, first], flat[chain, second]
    along = (b - a) / (b - a).norm(dim=-1, keepdim=True)
    # along · (axis × (b − origin)) = axis · (b × along) − (axis × origin) · along, for all torsions in one
    # product
    wrench = coords.new_zeros(len(coords), most, 6)
    wrench[chain, slot] = torch.cat((torch.linalg.cross(b, along), -along), -1)
    low, high = (coords.new_zeros(len(coords), most) for _ in range(2))
    low[chain, slot], high[chain, slot] = _torsions_before(first).to(low), _torsions_before(second).to(low)
    order = torch.arange(axes.shape[1]).to(low)
    between = (order >= low[..., None]) & (order < high[..., None])
    rows = (wrench @ torch.cat((axes, arms), -1).mT) * between
    overlaps = coords.new_zeros(len(coords), most)
    overlaps[chain, slot] = overlap
    return rows, overlaps


def _deepest(
    first: Int[Tensor, " p"],
    second: Int[Tensor, " p"],
    chain: Int[Tensor, " p"],
    overlap: Float[Tensor, " p"],
) -> tuple[Int[Tensor, " q"], Int[Tensor, " q"], Int[Tensor, " q"], Float[Tensor, " q"]]:
    """The ``_MOST_OVERLAPS`` deepest of each chain, chain by chain."""
    deep = overlap.argsort(descending=True, stable=True)
    order = deep[chain[deep].argsort(stable=True)]
    counts = torch.bincount(chain)
    rank = torch.arange(len(chain)) - (counts.cumsum(0) - counts)[chain[order]]
    order = order[rank < _MOST_OVERLAPS]
    return first[order], second[order], chain[order], overlap[order]


def _torsions_before(atom: Int[Tensor, " p"]) -> Int[Tensor, " p"]:
    """How many torsions of the chain move an atom (index residue · 5 + atom)."""
    return 2 * (atom // 5) + _MOVED_BY[atom % 5]


def _overlaps(
    atoms: Float[Tensor, "b l 5 3"], mask: Bool[Tensor, "b l"]
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"], Int[Tensor, " p"], Float[Tensor, " p"]]:
    """Overlapping atom pairs of residues two or more apart: both atoms, the chain, the overlap in Å."""
    ca = atoms[:, :, CA_ATOM]
    length = ca.shape[1]
    near = torch.cdist(ca, ca) < _NEAR
    far_along = torch.ones(length, length, dtype=torch.bool).triu(2)
    chain, i, j = (near & far_along & mask[:, :, None] & mask[:, None, :]).nonzero(as_tuple=True)
    gaps = CLEARANCE - (atoms[chain, i][:, :, None] - atoms[chain, j][:, None, :]).square().sum(-1).sqrt()
    pair, a, b = (gaps > 0).nonzero(as_tuple=True)
    return 5 * i[pair] + a, 5 * j[pair] + b, chain[pair], gaps[pair, a, b]


def _with_beta(coords: Float[Tensor, "b l 4 3"]) -> Float[Tensor, "b l 5 3"]:
    """Backbone atoms and an ideal Cβ."""
    n, ca, c, o = coords.unbind(-2)
    return torch.stack((n, ca, c, o, place_beta(n, ca, c)), -2)


def _cross_matrix(v: Float[Tensor, "b k 3"]) -> Float[Tensor, "b k 3 3"]:
    """The matrix of ``v ×``."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))
