"""The chain of ideal bond lengths and angles that lies nearest to a predicted backbone.

A network that places N, C and O in a frame of each residue's own leaves the peptide bonds between residues to
chance: C–N(i+1) is as long as two neighbouring frames happen to make it. What is written to a file is therefore the
nearest chain that can exist: its torsions are fitted so that its atoms, Cα before all others, come to lie where they
were predicted. Lengths and angles are those of :mod:`minifold_pl.constants` by construction, however far the
prediction is from any chain; how far the atoms had to move says how much of a chain the prediction was.

Lengths in Å, angles in radians unless a name says degrees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import pi, radians
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minifold_pl.constants import (
    C_ATOM,
    CA_ATOM,
    CA_C_BOND,
    N_ATOM,
    N_CA_C_ANGLE,
    O_ATOM,
)
from minifold_pl.geometry.backbone import backbone_from_torsions, torsions
from minifold_pl.geometry.frames import gram_schmidt

MOST_BENT: Final = 4.0
"""Degrees by which N–Cα–C may leave its ideal value, the one angle that does in nature (111° ± 2.7°)."""
_BEND_SPREAD: Final = 2.5
"""Degrees: the standard deviation that N–Cα–C is held to."""
_CA_SPREAD: Final = 0.1
"""Å: the standard deviation that Cα is held to."""
_WEIGHTS: Final = (0.1, 1.0, 0.1, 0.02)
"""Of squared distances of N, Cα, C and O from their places. Cα alone leaves every peptide two ways to lie."""
_GRID: Final = 24
"""Values of φ and of ψ that are tried for each residue, one every 15°."""
_BEAM: Final = 12
"""Chains that are built at a time."""
_ITERATIONS: Final = 40
_LARGEST_STEP: Final = 0.6
"""Radians a torsion may turn in one iteration: beyond, the linear picture of a chain is worth nothing."""
_ENTRIES: Final = 10_000_000
"""Of the matrices of a group of segments, 80 MB."""
_CONVERGED: Final = 1e-5
"""Relative gain of an iteration below which the fit is done."""


def nearest_ideal_backbone(
    atoms: Float[Tensor, "l 4 3"],
    bonded: Bool[Tensor, " l"] | None = None,
    cis: Bool[Tensor, " l"] | None = None,
) -> Float[Tensor, "l 4 3"]:
    r"""The ideal backbone nearest to ``atoms`` (N, Cα, C, O; Å), in their precision and on their device.

    Minimises :math:`\sum_i |\hat x_i - x_i|^2`, Cα counting ten times as much as N and C, over φ, ψ, N–Cα–C (within
    :data:`MOST_BENT` of its ideal value) and the chain's place. Bond lengths, Cα–C–N, C–N–Cα, Cα–C=O and planar
    peptides are exact. Levenberg–Marquardt in float64, from two starts, the better of which is kept: the torsions as
    they are predicted, and those of a chain built residue by residue along the prediction (a beam over a grid of φ
    and ψ), which holds where the prediction is no chain and its torsions, applied one after the other, lead far away.

    Args:
        atoms: a prediction, finite; it need not resemble a chain.
        bonded: ``bonded[i]`` joins residues i and i + 1; all are, where not given. Each segment is fitted alone.
        cis: ``cis[i]`` makes the peptide from i to i + 1 cis; all are trans where not given.

    Raises:
        ValueError: not (l, 4, 3), or not finite.
    """
    return nearest_ideal_backbones([atoms], [bonded], [cis])[0]


def nearest_ideal_backbones(
    atoms: Sequence[Float[Tensor, "_ 4 3"]],
    bonded: Sequence[Bool[Tensor, " _"] | None],
    cis: Sequence[Bool[Tensor, " _"] | None],
) -> list[Float[Tensor, "_ 4 3"]]:
    """:func:`nearest_ideal_backbone` of several chains, whose segments of like length are fitted side by side.

    Raises:
        ValueError: one is not (l, 4, 3), or not finite.
    """
    targets: list[Tensor] = []
    turned: list[Tensor] = []
    counts = []
    for chain, joined, flips in zip(atoms, bonded, cis, strict=True):
        if chain.ndim != 3 or chain.shape[1:] != (4, 3):
            raise ValueError(f"atoms have shape {tuple(chain.shape)}; one backbone has (l, 4, 3)")
        if not chain.isfinite().all():
            raise ValueError("a backbone that is not finite has no nearest ideal one: the sampler diverged")
        cuts = [] if joined is None else (~joined[: len(chain) - 1].cpu()).nonzero().flatten().add(1).tolist()
        bounds = [0, *cuts, len(chain)] if len(chain) else []
        target = chain.detach().cpu().double()
        turn = torch.zeros(len(chain), dtype=torch.bool) if flips is None else flips.cpu()
        targets += [target[a:b] for a, b in pairwise(bounds)]
        turned += [turn[a:b] for a, b in pairwise(bounds)]
        counts.append(max(0, len(bounds) - 1))
    found: list[Tensor] = [torch.empty(0)] * len(targets)
    for group in _groups([len(target) for target in targets]):
        for i, fitted in zip(
            group, _fitted([targets[i] for i in group], [turned[i] for i in group]), strict=True
        ):
            found[i] = fitted
    parts = iter(found)
    return [
        torch.cat([next(parts) for _ in range(count)]).to(chain) if count else chain.clone()
        for chain, count in zip(atoms, counts, strict=True)
    ]


def cis_peptides(
    atoms: Float[Tensor, "*b l 4 3"], before_proline: Bool[Tensor, "*b l"]
) -> Bool[Tensor, "*b l"]:
    """Peptides predicted as cis that may be: |ω| below 90°, and the next residue is a proline.

    Elsewhere cis peptides are a few in ten thousand (Jabs, Weiss & Hilgenfeld 1999, J. Mol. Biol. 286:291), and a
    prediction of one is far more likely a mistake.
    """
    omega = torsions(atoms)[2]
    return before_proline & (omega.abs() < pi / 2)


def _groups(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of segments of like length, as many as their matrices' memory allows."""
    group: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if group and 2 * (len(group) + 1) * (6 + 3 * lengths[i]) ** 2 > _ENTRIES:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def _fitted(targets: Sequence[Tensor], cis: Sequence[Tensor]) -> list[Float[Tensor, "_ 4 3"]]:
    """The better of two fits of each segment."""
    lengths = torch.tensor([len(target) for target in targets])
    target, turned = pad_sequence(list(targets), True), pad_sequence(list(cis), True)
    starts = torch.stack((_read(target, lengths), _tracked(target, turned, lengths)))
    omega = torch.where(turned, 0.0, pi).double()
    fit = _Fit(target.repeat(2, 1, 1, 1), omega.repeat(2, 1), lengths.repeat(2))
    coords, costs = fit.refined(starts.flatten(0, 1))
    best = costs.view(2, -1).argmin(0)
    chosen = coords.unflatten(0, (2, -1))[best, torch.arange(len(lengths))]
    return [chain[:length] for chain, length in zip(chosen, lengths.tolist(), strict=True)]


class _Fit:
    """Segments to be fitted; the unknowns are φ, N–Cα–C and ψ of every residue, (b l 3). Padding weighs nothing."""

    def __init__(
        self, target: Float[Tensor, "b l 4 3"], omega: Float[Tensor, "b l"], lengths: Int[Tensor, " b"]
    ) -> None:
        self.target, self.omega, self.lengths = target, omega, lengths
        self.mask = (torch.arange(target.shape[1]) < lengths[:, None]).to(target)
        self.weights = self.mask[..., None] * target.new_tensor(_WEIGHTS)

    def only(self, kept: Tensor) -> _Fit:
        """Of these segments alone."""
        return _Fit(self.target[kept], self.omega[kept], self.lengths[kept])

    def refined(self, angles: Float[Tensor, "b l 3"]) -> tuple[Float[Tensor, "b l 4 3"], Float[Tensor, " b"]]:
        """The chains that Levenberg–Marquardt steps from ``angles`` lead to, and their costs."""
        angles = _within_bounds(angles)
        coords = self.placed(angles)
        costs = self.cost(coords, angles)
        damping = torch.full_like(costs, 1e-2)
        taken = torch.zeros(len(costs), dtype=torch.long)
        going = torch.arange(len(costs))
        while len(going):
            fit = self.only(going) if len(going) < len(costs) else self
            at, cost = angles[going], costs[going]
            gradient, hessian = fit.normal_equations(coords[going], at)
            step = _solved(hessian, gradient, damping[going])[:, 6:].unflatten(1, (-1, 3))
            step = step * (_LARGEST_STEP / step.abs().amax((1, 2)).clamp(min=_LARGEST_STEP))[:, None, None]
            trial = _within_bounds(at + step)
            moved = fit.placed(trial)
            new = fit.cost(moved, trial)
            better = new < cost
            gain = torch.where(better, (cost - new) / cost.clamp(min=1e-12), torch.inf)
            won = going[better]
            angles[won], coords[won], costs[won] = trial[better], moved[better], new[better]
            taken[won] += 1
            damping[going] = torch.where(better, (damping[going] * 0.3).clamp(min=1e-6), damping[going] * 5.0)
            more = (taken[going] < _ITERATIONS) & (gain >= _CONVERGED) & (better | (damping[going] < 1e8))
            going = going[more]
        return coords, costs

    def placed(self, angles: Float[Tensor, "b l 3"]) -> Float[Tensor, "b l 4 3"]:
        """Chains of these angles, where they lie nearest to their targets."""
        phi, bend, psi = angles.unbind(-1)
        return _superposed(backbone_from_torsions(phi, psi, self.omega, bend), self.target, self.weights)

    def cost(self, coords: Tensor, angles: Tensor) -> Float[Tensor, " b"]:
        """Weighted squared distances and bends, in squared standard deviations."""
        missed = (self.weights * (coords - self.target).square().sum(-1)).sum((1, 2)) / _CA_SPREAD**2
        bent = ((angles[..., 1] - radians(N_CA_C_ANGLE)) / radians(_BEND_SPREAD)).square()
        return missed + (self.mask * bent).sum(1)

    def normal_equations(
        self, coords: Float[Tensor, "b l 4 3"], angles: Float[Tensor, "b l 3"]
    ) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k k"]]:
        """Gradient and lower triangle of the Gauss–Newton matrix: 6 rigid motions, then the angles in turn.

        Unknown k turns all atoms from ``start[k]`` on about an axis: a point x moves by a × (x − p), linear in
        (x, 1), so that running sums over the chain hold all products.
        """
        n, ca, c, _ = coords.unbind(2)
        along_n, along_c = ca - n, c - ca
        axes = torch.stack((along_n, torch.linalg.cross(-along_n, along_c), along_c), 2)
        axes = axes / axes.norm(dim=-1, keepdim=True).clamp(min=1e-9)
        axes[:, 0, 0] = 0  # φ of the first residue turns the whole chain
        twists = torch.cat((axes, torch.linalg.cross(ca[:, :, None].expand_as(axes), axes)), -1).flatten(1, 2)
        rigid = torch.eye(6, dtype=coords.dtype).expand(len(coords), 6, 6)
        twists = torch.cat((rigid, twists), 1)
        first = 4 * torch.arange(coords.shape[1])
        start = torch.stack((first + C_ATOM, first + C_ATOM, first + O_ATOM), 1).flatten()
        start = torch.cat((torch.zeros(6, dtype=torch.long), start))

        weights = self.weights.flatten(1)[..., None] / _CA_SPREAD**2
        x, force = coords.flatten(1, 2), (self.target - coords).flatten(1, 2) * weights
        cross = _cross_matrix(x)
        eye = torch.eye(3, dtype=x.dtype).expand_as(cross)
        product = torch.cat((torch.cat((-cross @ cross, cross), -1), torch.cat((-cross, eye), -1)), -2)
        product = _sums_from(product * weights[..., None])
        wrench = _sums_from(torch.cat((torch.linalg.cross(x, force), force), -1))

        hessian = torch.einsum("bkde,bke->bkd", product[:, start], twists) @ twists.mT
        gradient = (wrench[:, start] * twists).sum(-1)
        bends = slice(7, None, 3)
        stiffness = radians(_BEND_SPREAD) ** -2
        hessian.diagonal(dim1=-2, dim2=-1)[:, bends] += stiffness
        gradient[:, bends] += stiffness * self.mask * (radians(N_CA_C_ANGLE) - angles[..., 1])
        return gradient, hessian


def _solved(
    hessian: Float[Tensor, "b k k"], gradient: Float[Tensor, "b k"], damping: Float[Tensor, " b"]
) -> Float[Tensor, "b k"]:
    """The damped steps; 0 where the matrix is not positive."""
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    diagonal += damping[:, None] * diagonal.clamp(min=1.0)
    diagonal[:, :6] += 1e-6
    factor, failed = torch.linalg.cholesky_ex(hessian)
    half = torch.linalg.solve_triangular(factor, gradient[..., None], upper=False)
    step = torch.linalg.solve_triangular(factor.mT, half, upper=True)[..., 0]
    return step.where(failed[:, None] == 0, 0.0)


def _within_bounds(angles: Float[Tensor, "b l 3"]) -> Float[Tensor, "b l 3"]:
    angles = angles.clone()
    angles[..., 1].clamp_(radians(N_CA_C_ANGLE - MOST_BENT), radians(N_CA_C_ANGLE + MOST_BENT))
    return angles


def _sums_from(values: Float[Tensor, "b a ..."]) -> Float[Tensor, "b a ..."]:
    """Entry a: the sum of a and all after it."""
    return values.flip(1).cumsum(1).flip(1)


def _cross_matrix(v: Float[Tensor, "b a 3"]) -> Float[Tensor, "b a 3 3"]:
    """The matrix of ``v ×``."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))


def _superposed(
    mobile: Float[Tensor, "b l 4 3"], target: Float[Tensor, "b l 4 3"], weights: Float[Tensor, "b l 4"]
) -> Float[Tensor, "b l 4 3"]:
    """``mobile`` where the weighted squared distances are least (Kabsch 1976)."""
    shares = (weights / weights.sum((1, 2), keepdim=True)).flatten(1)[..., None]
    x, y = mobile.flatten(1, 2), target.flatten(1, 2)
    mean_x, mean_y = (shares * x).sum(1, keepdim=True), (shares * y).sum(1, keepdim=True)
    u, _, vh = torch.linalg.svd((shares * (y - mean_y)).mT @ (x - mean_x))
    u[..., 2] *= torch.det(u @ vh).sign()[:, None]
    return ((x - mean_x) @ (u @ vh).mT + mean_y).view_as(mobile)


# --- first chains ----------------------------------------------------------------------------------


def _last_psi(target: Float[Tensor, "b l 4 3"], lengths: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """ψ of the last residues, which their O tells."""
    return torsions(target[torch.arange(len(target)), lengths - 1, None])[1][:, 0]


def _read(target: Float[Tensor, "b l 4 3"], lengths: Int[Tensor, " b"]) -> Float[Tensor, "b l 3"]:
    """φ, N–Cα–C and ψ as they are: the best start where the prediction is nearly a chain."""
    phi, psi, _ = torsions(target)
    psi[torch.arange(len(target)), lengths - 1] = _last_psi(target, lengths)
    n, ca, c, _ = target.unbind(2)
    back, on = n - ca, c - ca
    bend = torch.atan2(torch.linalg.cross(back, on).norm(dim=-1), (back * on).sum(-1))
    inside = torch.arange(target.shape[1]) < lengths[:, None]
    return torch.stack((phi, bend.where(inside, radians(N_CA_C_ANGLE)), psi), -1)


def _tracked(
    target: Float[Tensor, "b l 4 3"], cis: Bool[Tensor, "b l"], lengths: Int[Tensor, " b"]
) -> Float[Tensor, "b l 3"]:
    """φ, N–Cα–C and ψ of the best of several chains that were built along ``target``, residue by residue."""
    count, length = target.shape[:2]
    n, ca, c, _ = target[:, 0].unbind(1)
    start = gram_schmidt(n, ca, c)
    rotation = start[:, None]
    place = (ca + CA_C_BOND * start[..., 0])[:, None]
    score = target.new_zeros(count, 1)
    weights = target.new_tensor(_WEIGHTS).sqrt()[:, None]
    trans, flipped = _grid(False), _grid(True)
    size = len(trans.atoms)
    steps, turns = torch.stack((trans.atoms, flipped.atoms)), torch.stack((trans.rotation, flipped.rotation))
    points = (steps * weights).flatten(2)  # (2 g 12)
    norms = points.square().sum(-1)
    row = torch.arange(count)[:, None]
    parents, choices = [], []
    for i in range(length - 1):
        kind = cis[:, i].long()
        wanted = torch.stack(
            (
                target[:, i + 1, N_ATOM],
                target[:, i + 1, CA_ATOM],
                target[:, i + 1, C_ATOM],
                target[:, i, O_ATOM],
            ),
            1,
        )
        # in the frames of the chains so far: fewer numbers to turn than the grid
        local = torch.einsum("bkxd,bkax->bkad", rotation, wanted[:, None] - place[:, :, None])
        local = (local * weights).flatten(2)
        missed = norms[kind][:, None] + local.square().sum(-1, keepdim=True) - 2 * local @ points[kind].mT
        total = (score[..., None] + missed).flatten(1)
        score, chosen = total.topk(min(_BEAM, total.shape[1]), largest=False)
        parent, choice = chosen // size, chosen % size
        turned = rotation[row, parent]
        place = place[row, parent] + (turned @ steps[kind[:, None], choice, 2, :, None])[..., 0]
        rotation = turned @ turns[kind[:, None], choice]
        parents.append(parent)
        choices.append(choice)
    values = target.new_tensor(_VALUES)
    phi, psi = target.new_full((count, length), pi), target.new_full((count, length), pi)
    best = torch.zeros(count, 1, dtype=torch.long)
    for i in reversed(range(length - 1)):
        inside = (i + 1 < lengths)[:, None]  # behind the end the best chain so far begins
        taken = choices[i].gather(1, best)[:, 0]
        psi[:, i] = psi[:, i].where(~inside[:, 0], values[taken // _GRID])
        phi[:, i + 1] = phi[:, i + 1].where(~inside[:, 0], values[taken % _GRID])
        best = parents[i].gather(1, best).where(inside, 0)
    psi[torch.arange(count), lengths - 1] = _last_psi(target, lengths)
    return torch.stack((phi, torch.full_like(phi, radians(N_CA_C_ANGLE)), psi), -1)


_VALUES: Final = [(k + 0.5) * 2 * pi / _GRID - pi for k in range(_GRID)]


@dataclass(frozen=True)
class _Grid:
    """What one residue more may look like, seen from the frame of C: ψ of the old and φ of the new residue."""

    atoms: Float[Tensor, "g 4 3"]
    """N, Cα and C of the new residue, O of the old one."""
    rotation: Float[Tensor, "g 3 3"]
    """Frame of the new C in that of the old one."""


@cache
def _grid(cis: bool) -> _Grid:
    """Frames: x along Cα → C, N in the plane of x and y at y > 0."""
    values = torch.tensor(_VALUES, dtype=torch.float64)
    psi, phi = (v.flatten() for v in torch.meshgrid(values, values, indexing="ij"))
    phi, psi = torch.stack((phi, phi), -1), torch.stack((psi, psi), -1)
    chain = backbone_from_torsions(phi, psi, torch.full_like(psi, 0.0 if cis else pi))
    n, ca, c, o = chain.unbind(2)
    old = gram_schmidt(n[:, 0], ca[:, 0], c[:, 0])
    new = gram_schmidt(n[:, 1], ca[:, 1], c[:, 1])
    atoms = torch.stack((n[:, 1], ca[:, 1], c[:, 1], o[:, 0]), 1)
    return _Grid((atoms - c[:, :1]) @ old, old.mT @ new)
