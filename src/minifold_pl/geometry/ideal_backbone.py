"""The chain of ideal bond lengths and angles that lies nearest to a predicted backbone.

A network that places N, C and O in a frame of each residue's own leaves the peptide bonds between residues to
chance: C–N(i+1) is as long as two neighbouring frames happen to make it. What is written to a file is therefore the
nearest chain that can exist: its torsions are fitted so that its atoms, Cα before all others, come to lie where they
were predicted. Lengths and angles are those of :mod:`minifold_pl.constants` by construction, however far the
prediction is from any chain; how far the atoms had to move says how much of a chain the prediction was.

Lengths in Å, angles in radians unless a name says degrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import pi, radians
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

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
    if atoms.ndim != 3 or atoms.shape[1:] != (4, 3):
        raise ValueError(f"atoms have shape {tuple(atoms.shape)}; one backbone has (l, 4, 3)")
    if not atoms.isfinite().all():
        raise ValueError("a backbone that is not finite has no nearest ideal one: the sampler diverged")
    if not len(atoms):
        return atoms.clone()
    target = atoms.detach().cpu().double()
    turned = torch.zeros(len(atoms), dtype=torch.bool) if cis is None else cis.cpu()
    cuts = [] if bonded is None else (~bonded[: len(atoms) - 1].cpu()).nonzero().flatten().add(1).tolist()
    parts = [_segment(target[a:b], turned[a:b]) for a, b in pairwise([0, *cuts, len(atoms)])]
    return torch.cat(parts).to(atoms)


def cis_peptides(
    atoms: Float[Tensor, "*b l 4 3"], before_proline: Bool[Tensor, "*b l"]
) -> Bool[Tensor, "*b l"]:
    """Peptides predicted as cis that may be: |ω| below 90°, and the next residue is a proline.

    Elsewhere cis peptides are a few in ten thousand (Jabs, Weiss & Hilgenfeld 1999, J. Mol. Biol. 286:291), and a
    prediction of one is far more likely a mistake.
    """
    omega = torsions(atoms)[2]
    return before_proline & (omega.abs() < pi / 2)


def _segment(target: Float[Tensor, "l 4 3"], cis: Bool[Tensor, " l"]) -> Float[Tensor, "l 4 3"]:
    omega = torch.where(cis, 0.0, pi).double()
    fit = _Fit(target, omega)
    fits = [fit.refined(start) for start in (_read(target), _tracked(target, cis))]
    return min(fits, key=lambda found: found[1])[0]


@dataclass(frozen=True)
class _Fit:
    """A segment to be fitted; its unknowns are φ, N–Cα–C and ψ of every residue, (l 3)."""

    target: Float[Tensor, "l 4 3"]
    omega: Float[Tensor, " l"]

    def refined(self, angles: Float[Tensor, "l 3"]) -> tuple[Float[Tensor, "l 4 3"], float]:
        """The chain that Levenberg–Marquardt steps from ``angles`` lead to, and its cost."""
        angles = _within_bounds(angles)
        coords = self._placed(angles)
        cost, damping = self._cost(coords, angles), 1e-2
        for _ in range(_ITERATIONS):
            gradient, hessian = self._normal_equations(coords, angles)
            found = None
            while found is None and damping < 1e8:
                step = _solved(hessian, gradient, damping)[6:].view(-1, 3)
                step = step * (_LARGEST_STEP / max(float(step.abs().max()), _LARGEST_STEP))
                trial = _within_bounds(angles + step)
                moved = self._placed(trial)
                if (new := self._cost(moved, trial)) < cost:
                    found = trial, moved, new
                    damping = max(damping * 0.3, 1e-6)
                else:
                    damping *= 5.0
            if found is None:
                break
            gain = (cost - found[2]) / max(cost, 1e-12)
            angles, coords, cost = found
            if gain < _CONVERGED:
                break
        return coords, cost

    def _placed(self, angles: Float[Tensor, "l 3"]) -> Float[Tensor, "l 4 3"]:
        phi, bend, psi = angles.unbind(-1)
        chain = backbone_from_torsions(phi, psi, self.omega, bend)
        return _superposed(chain, self.target)

    def _cost(self, coords: Tensor, angles: Tensor) -> float:
        weights = coords.new_tensor(_WEIGHTS)
        missed = (weights * (coords - self.target).square().sum(-1)).sum() / _CA_SPREAD**2
        bent = ((angles[:, 1] - radians(N_CA_C_ANGLE)) / radians(_BEND_SPREAD)).square().sum()
        return float(missed + bent)

    def _normal_equations(self, coords: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient (k) and lower triangle of the Gauss–Newton matrix (k k): 6 rigid motions, then the angles in turn.

        Unknown k turns all atoms from ``start[k]`` on about an axis: a point x moves by a × (x − p), linear in
        (x, 1), so that running sums over the chain hold all products.
        """
        n, ca, c, _ = coords.unbind(1)
        along_n, along_c = ca - n, c - ca
        axes = torch.stack((along_n, torch.linalg.cross(-along_n, along_c), along_c), 1)
        axes = axes / axes.norm(dim=-1, keepdim=True).clamp(min=1e-9)
        axes[0, 0] = 0  # φ of the first residue turns the whole chain
        twists = torch.cat((axes, torch.linalg.cross(ca[:, None].expand_as(axes), axes)), -1).flatten(0, 1)
        twists = torch.cat((torch.eye(6, dtype=coords.dtype), twists))
        first = 4 * torch.arange(len(coords))
        start = torch.stack((first + C_ATOM, first + C_ATOM, first + O_ATOM), 1).flatten()
        start = torch.cat((torch.zeros(6, dtype=torch.long), start))

        weights = (coords.new_tensor(_WEIGHTS) / _CA_SPREAD**2).repeat(len(coords))
        x, force = coords.flatten(0, 1), (self.target - coords).flatten(0, 1) * weights[:, None]
        cross = _cross_matrix(x)
        eye = torch.eye(3, dtype=x.dtype).expand_as(cross)
        product = torch.cat((torch.cat((-cross @ cross, cross), -1), torch.cat((-cross, eye), -1)), -2)
        product = _sums_from(product * weights[:, None, None])
        wrench = _sums_from(torch.cat((torch.linalg.cross(x, force), force), -1))

        hessian = torch.einsum("kde,ke->kd", product[start], twists) @ twists.T
        gradient = (wrench[start] * twists).sum(-1)
        bends = slice(7, None, 3)
        stiffness = radians(_BEND_SPREAD) ** -2
        hessian.diagonal()[bends] += stiffness
        gradient[bends] += stiffness * (radians(N_CA_C_ANGLE) - angles[:, 1])
        return gradient, hessian


def _solved(hessian: Tensor, gradient: Tensor, damping: float) -> Tensor:
    stiff = hessian.clone()
    diagonal = stiff.diagonal()
    diagonal += damping * diagonal.clamp(min=1.0)
    diagonal[:6] += 1e-6
    factor, failed = torch.linalg.cholesky_ex(stiff)
    if failed:
        return torch.zeros_like(gradient)
    return torch.cholesky_solve(gradient[:, None], factor)[:, 0]


def _within_bounds(angles: Float[Tensor, "l 3"]) -> Float[Tensor, "l 3"]:
    angles = angles.clone()
    angles[:, 1].clamp_(radians(N_CA_C_ANGLE - MOST_BENT), radians(N_CA_C_ANGLE + MOST_BENT))
    return angles


def _sums_from(values: Float[Tensor, "a ..."]) -> Float[Tensor, "a ..."]:
    """Entry a: the sum of a and all after it."""
    return values.flip(0).cumsum(0).flip(0)


def _cross_matrix(v: Float[Tensor, "a 3"]) -> Float[Tensor, "a 3 3"]:
    """The matrix of ``v ×``."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))


def _superposed(mobile: Float[Tensor, "l 4 3"], target: Float[Tensor, "l 4 3"]) -> Float[Tensor, "l 4 3"]:
    """``mobile`` where the weighted squared distances are least (Kabsch 1976)."""
    weights = mobile.new_tensor(_WEIGHTS)
    weights = (weights / (weights.sum() * len(mobile))).repeat(len(mobile))[:, None]
    x, y = mobile.flatten(0, 1), target.flatten(0, 1)
    mean_x, mean_y = (weights * x).sum(0), (weights * y).sum(0)
    u, _, vh = torch.linalg.svd((weights * (y - mean_y)).T @ (x - mean_x))
    u[:, 2] *= torch.det(u @ vh).sign()
    return ((x - mean_x) @ (u @ vh).T + mean_y).view_as(mobile)


# --- first chains ----------------------------------------------------------------------------------


def _read(target: Float[Tensor, "l 4 3"]) -> Float[Tensor, "l 3"]:
    """φ, N–Cα–C and ψ as they are: the best start where the prediction is nearly a chain."""
    phi, psi, _ = torsions(target)
    n, ca, c, _ = target.unbind(1)
    back, on = n - ca, c - ca
    bend = torch.atan2(torch.linalg.cross(back, on).norm(dim=-1), (back * on).sum(-1))
    return torch.stack((phi, bend, psi), -1)


def _tracked(target: Float[Tensor, "l 4 3"], cis: Bool[Tensor, " l"]) -> Float[Tensor, "l 3"]:
    """φ, N–Cα–C and ψ of the best of several chains that were built along ``target``, residue by residue."""
    ideal = target.new_full((len(target),), radians(N_CA_C_ANGLE))
    n, ca, c, _ = target[0]
    start = gram_schmidt(n, ca, c)
    rotation = start[None]
    place = (ca + CA_C_BOND * start[:, 0])[None]
    score = target.new_zeros(1)
    weights = target.new_tensor(_WEIGHTS)
    parents, choices = [], []
    for i in range(len(target) - 1):
        grid = _grid(bool(cis[i]))
        wanted = torch.stack(
            (target[i + 1, N_ATOM], target[i + 1, CA_ATOM], target[i + 1, C_ATOM], target[i, O_ATOM])
        )
        # in the frames of the chains so far: fewer numbers to turn than the grid
        local = torch.einsum("kxd,kax->kad", rotation, wanted - place[:, None])
        missed = (grid.atoms[None] - local[:, None]).square().sum(-1) @ weights
        total = (score[:, None] + missed).flatten()
        score, chosen = total.topk(min(_BEAM, len(total)), largest=False)
        parent, choice = chosen // len(grid.atoms), chosen % len(grid.atoms)
        place = place[parent] + torch.einsum("kxd,kd->kx", rotation[parent], grid.atoms[choice, 2])
        rotation = rotation[parent] @ grid.rotation[choice]
        parents.append(parent)
        choices.append(choice)
    phi, psi = torch.full_like(ideal, pi), torch.full_like(ideal, pi)
    best = 0
    for i in reversed(range(len(choices))):
        taken = int(choices[i][best])
        psi[i], phi[i + 1] = _VALUES[taken // _GRID], _VALUES[taken % _GRID]
        best = int(parents[i][best])
    # the last O has a ψ of its own
    end = torsions(target[-1:])[1]
    psi[-1] = end[0]
    return torch.stack((phi, ideal, psi), -1)


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
