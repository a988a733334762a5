"""Backbones for the synthetic folds: loops found, chains closed, and variations of them, many at a time.

Lengths in Å, angles in radians unless a name says degrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import radians
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.constants import CA_ATOM, N_CA_C_ANGLE
from minifold_pl.data.synthetic_fold import ELEMENT_TORSIONS, Element, Fold
from minifold_pl.data.torsion_fit import TorsionProblem, clash_overlap, fit_torsions
from minifold_pl.geometry.backbone import backbone_from_torsions
from minifold_pl.geometry.superpose import kabsch
from minifold_pl.metrics.tm import tm_d0

BASINS: Final = (
    # φ, ψ, spread (degrees), share
    (-65.0, -40.0, 9.0, 0.32),
    (-115.0, 130.0, 16.0, 0.27),
    (-72.0, 145.0, 11.0, 0.22),
    (-92.0, -2.0, 12.0, 0.09),
    (58.0, 40.0, 8.0, 0.10),
)
"""Where residues of a loop lie: right-handed helix, strand, polyproline II, bridge, left-handed helix."""

LARGEST_OVERLAP: Final = 0.12
"""Å by which a clearance may be missed."""

_LIBRARY: Final = 4096
"""Loop conformations tried for a gap."""
_SHORTLIST: Final = 24
"""How many of them are looked at for clashes."""
_STARTS: Final = 2
"""Chains started from the best of them."""
_CHUNK: Final = 96
"""Chains fitted at a time."""
_STAGES: Final = ((None, 7), (0.4, 8), (0.12, 8), (0.08, 8), (0.08, 8))
"""Tolerance of an overlap in Å (None: not looked at), and iterations."""
_WORST_PLACEMENT: Final = {"1": 1.0, "2": 1.6, "3": 1.3, "4": 3.0}
"""Å root mean square by which the elements may miss their places, by CATH class. Nothing rests on where
exactly the pieces of an irregular fold lie."""
_MOST_OUTSIDE: Final = 0.04
"""Share of a chain's residues whose φ and ψ may lie outside the allowed regions (real chains: 0.03)."""
_SPREADS: Final = {"H": 5.0, "E": 14.0, "C": 14.0, "L": 20.0}
"""Degrees by which the fit lets φ and ψ go, by structure."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One closed chain: its fold, φ and ψ (l, 2), and N, Cα, C, O (l, 4, 3) in float64."""

    fold: Fold
    angles: Float[np.ndarray, "l 2"]
    coords: Float[np.ndarray, "l 4 3"]


def build_backbones(folds: Sequence[Fold], rngs: Sequence[np.random.Generator]) -> list[Backbone | None]:
    """A chain for each fold; None where it could not be closed without clashes or forbidden torsions."""
    jobs = [
        (k, _start(fold, rng))
        for k, (fold, rng) in enumerate(zip(folds, rngs, strict=True))
        for _ in range(_STARTS)
    ]
    found: list[tuple[float, Backbone | None]] = [(np.inf, None)] * len(folds)
    # a first fit brings the elements near their places; the loops then settle in basins, and clashes are
    # pushed apart, gently at first
    angles_of = [np.radians(start) for _, start in jobs]
    open_jobs = list(range(len(jobs)))
    for clash_tolerance, iterations in _STAGES:
        left = []
        for chunk in _by_length([len(jobs[i][1]) for i in open_jobs]):
            rows = [open_jobs[i] for i in chunk]
            here = [folds[jobs[i][0]] for i in rows]
            problem, angles = _problem(here, [jobs[i][1] for i in rows], [angles_of[i] for i in rows])
            if clash_tolerance is None:
                angles = fit_torsions(problem, angles, iterations=iterations, clashes=False)
            else:
                problem = replace(_settled(problem, angles), clash_tolerance=clash_tolerance)
                angles = fit_torsions(problem, angles, iterations=iterations)
            coords = problem.coords(angles)
            miss, overlap = _miss(problem, coords), clash_overlap(coords, problem.mask)
            outside = (~in_allowed_region(angles) & problem.mask).sum(-1)
            for row, i in enumerate(rows):
                k, n = jobs[i][0], here[row].length
                angles_of[i] = angles[row, :n].numpy()
                worst = _WORST_PLACEMENT[folds[k].architecture[0]]
                if (
                    overlap[row] > LARGEST_OVERLAP
                    or miss[row] > worst
                    or outside[row] > np.ceil(_MOST_OUTSIDE * n)
                ):
                    if miss[row] < 2 * worst:
                        left.append(i)
                elif float(miss[row]) < found[k][0]:
                    found[k] = (
                        float(miss[row]),
                        Backbone(fold=folds[k], angles=angles_of[i], coords=coords[row, :n].numpy()),
                    )
        open_jobs = [i for i in left if found[jobs[i][0]][1] is None]
    return [backbone for _, backbone in found]


def vary_backbones(
    masters: Sequence[Backbone], rngs: Sequence[np.random.Generator], *, amplitude: float
) -> list[Backbone]:
    """Each chain bent by a smooth field of its own, and jittered.

    The bending is ``amplitude`` · d0 rms (the TM-score's d0, in Å); φ, ψ, ω and N–Cα–C vary as well. A chain
    that would clash is bent half as much, then a quarter, and in the end not at all.
    """
    result: list[Backbone | None] = [None] * len(masters)
    open_jobs = list(range(len(masters)))
    for attempt in range(3):
        left = []
        for chunk in _by_length([len(masters[i].angles) for i in open_jobs]):
            rows = [open_jobs[i] for i in chunk]
            problem, start = _variation(
                [masters[i] for i in rows], [rngs[i] for i in rows], amplitude * 0.5**attempt
            )
            # first back to where the chain was, through whatever the jitter brought in its way
            angles = fit_torsions(problem, start, iterations=3, clashes=False)
            angles = fit_torsions(problem, angles, iterations=2 + attempt)
            coords = problem.coords(angles)
            good = clash_overlap(coords, problem.mask) < LARGEST_OVERLAP
            for row, i in enumerate(rows):
                n = len(masters[i].angles)
                if good[row]:
                    result[i] = replace(
                        masters[i], angles=angles[row, :n].numpy(), coords=coords[row, :n].numpy()
                    )
                else:
                    left.append(i)
        open_jobs = left
    return [masters[i] if backbone is None else backbone for i, backbone in enumerate(result)]


def in_allowed_region(angles: Float[Tensor, "*b l 2"]) -> Bool[Tensor, "*b l"]:
    """φ and ψ (radians) in the α, β or left-handed region, generously drawn."""
    phi, psi = torch.rad2deg(angles).unbind(-1)
    phi, psi = (torch.remainder(v + 180.0, 360.0) - 180.0 for v in (phi, psi))
    alpha = (phi > -160) & (phi < -35) & (psi > -75) & (psi < 50)
    beta = (phi > -175) & (phi < -40) & ((psi > 50) | (psi < -150))
    left = (phi > 30) & (phi < 110) & (psi > -30) & (psi < 85)
    return alpha | beta | left


def _settled(problem: TorsionProblem, angles: Float[Tensor, "b l 2"]) -> TorsionProblem:
    """The problem with every unpinned residue drawn to the basin it is nearest to."""
    table = torch.deg2rad(torch.tensor(BASINS, dtype=angles.dtype)[:, :3])
    away = torch.remainder(angles[..., None, :] - table[:, :2] + torch.pi, 2 * torch.pi) - torch.pi
    nearest = table[(away / table[:, 2:3]).square().sum(-1).argmin(-1)]
    pinned = problem.pinned[..., None]
    return replace(
        problem,
        centre=torch.where(pinned, problem.centre, nearest[..., :2]),
        spread=torch.where(pinned, problem.spread, nearest[..., 2:]),
    )


def _start(fold: Fold, rng: np.random.Generator) -> Float[np.ndarray, "l 2"]:
    """φ and ψ in degrees: ideal elements, and for each loop a conformation that leads to the next element."""
    angles = np.zeros((fold.length, 2))
    angles[: fold.loops[0]] = _sample_loops(rng, 1, fold.loops[0])[0]
    traces = [e.trace() for e in fold.elements]
    ends = [_end_frames(e) for e in fold.elements]
    at = fold.loops[0]
    for k, element in enumerate(fold.elements):
        angles[at : at + element.length] = ELEMENT_TORSIONS[element.kind]
        at += element.length
        count = fold.loops[k + 1]
        if k + 1 == len(fold.elements):
            angles[at:] = _sample_loops(rng, 1, count)[0]
            break
        others = np.concatenate(
            [t for j, t in enumerate(traces) if j not in (k, k + 1)] or [np.zeros((0, 3))]
        )
        library = _loop_library(element.kind, fold.elements[k + 1].kind, count)
        angles[at : at + count] = _best_loop(library, ends[k][1], ends[k + 1][0], traces[k + 1], others, rng)
        at += count
    return angles


@dataclass(frozen=True)
class _Loops:
    """Loop conformations between two kinds of element, in the frame of the residue before."""

    angles: Float[np.ndarray, "n c 2"]
    """Degrees."""
    ca: Float[np.ndarray, "n c 3"]
    rotation: Float[np.ndarray, "n 3 3"]
    translation: Float[np.ndarray, "n 3"]
    """Frame of the residue after."""


@cache
def _loop_library(before: str, after: str, count: int) -> _Loops:
    rng = np.random.default_rng([ord(before), ord(after), count])
    loops = _sample_loops(rng, _LIBRARY, count)
    angles = np.empty((_LIBRARY, count + 2, 2))
    angles[:, 0], angles[:, 1:-1], angles[:, -1] = ELEMENT_TORSIONS[before], loops, ELEMENT_TORSIONS[after]
    coords = backbone_from_torsions(*torch.from_numpy(np.radians(angles)).unbind(-1)).numpy()
    (start, origin), (end, place) = _residue_frames(coords[:, 0]), _residue_frames(coords[:, -1])
    back = start.swapaxes(-1, -2)
    ca = (coords[:, 1:-1, CA_ATOM] - origin[:, None]) @ start
    return _Loops(loops, ca, back @ end, ((place - origin)[:, None] @ start)[:, 0])


def _residue_frames(
    atoms: Float[np.ndarray, "*b 4 3"],
) -> tuple[Float[np.ndarray, "*b 3 3"], Float[np.ndarray, "*b 3"]]:
    """Columns of the rotation: along Cα → C, toward N, and their normal; the origin is Cα."""
    n, ca, c = atoms[..., 0, :], atoms[..., 1, :], atoms[..., 2, :]
    x = (c - ca) / np.linalg.norm(c - ca, axis=-1, keepdims=True)
    y = (n - ca) - ((n - ca) * x).sum(-1, keepdims=True) * x
    y /= np.linalg.norm(y, axis=-1, keepdims=True)
    return np.stack((x, y, np.cross(x, y)), axis=-1), ca


def _end_frames(element: Element) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Frames of an element's first and last residue."""
    phi, psi = (
        torch.full((element.length,), radians(v), dtype=torch.float64) for v in ELEMENT_TORSIONS[element.kind]
    )
    coords = backbone_from_torsions(phi, psi)
    placed = torch.from_numpy(element.trace())
    frame = kabsch(coords[None, :, CA_ATOM], placed[None], torch.ones(1, element.length, dtype=torch.bool))
    atoms = (coords @ frame.rotation[0].T + frame.translation[0]).numpy()
    return _residue_frames(atoms[0]), _residue_frames(atoms[-1])


def _best_loop(
    library: _Loops,
    before: tuple[np.ndarray, np.ndarray],
    after: tuple[np.ndarray, np.ndarray],
    after_trace: Float[np.ndarray, "m 3"],
    others: Float[np.ndarray, "p 3"],
    rng: np.random.Generator,
) -> Float[np.ndarray, "c 2"]:
    """A loop that, grown from the element before, leads to the element after and meets no other."""
    rotation, origin = before
    picked = after_trace[:: max(1, len(after_trace) // 5)]
    local = (picked - after[1]) @ after[0]
    goal = (picked - origin) @ rotation
    grown = local @ library.rotation.swapaxes(-1, -2) + library.translation[:, None]
    miss = ((grown - goal) ** 2).sum(-1).mean(-1)
    short = np.argpartition(miss, _SHORTLIST)[:_SHORTLIST]
    score = miss[short]
    if len(others):
        local_others = (others - origin) @ rotation
        gap = np.sqrt(((library.ca[short][:, :, None] - local_others) ** 2).sum(-1)).min((1, 2))
        score = score + 10.0 * np.clip(5.0 - gap, 0.0, None) ** 2
    # one of the best three: chains of one fold, and tries of one chain, should differ
    return library.angles[short[np.argsort(score, kind="stable")[int(rng.integers(3))]]]


def _sample_loops(rng: np.random.Generator, n: int, count: int) -> Float[np.ndarray, "n c 2"]:
    """φ and ψ in degrees drawn from ``BASINS``, residue by residue."""
    table = np.array(BASINS)
    basin = table[rng.choice(len(table), size=(n, count), p=table[:, 3] / table[:, 3].sum())]
    return basin[..., :2] + basin[..., 2:3] * rng.standard_normal((n, count, 2))


def _problem(
    folds: Sequence[Fold],
    centres: Sequence[Float[np.ndarray, "l 2"]],
    starts: Sequence[Float[np.ndarray, "l 2"]],
) -> tuple[TorsionProblem, Tensor]:
    """The elements' places as targets. ``centres`` in degrees, ``starts`` in radians."""
    size, longest = len(folds), max(f.length for f in folds)
    centre = np.tile(np.array([-120.0, 130.0]), (size, longest, 1))
    angles = np.radians(centre)
    spread = np.full((size, longest, 2), 10.0)
    target = np.zeros((size, longest, 3))
    pinned, mask = np.zeros((size, longest), dtype=bool), np.zeros((size, longest), dtype=bool)
    for row, fold in enumerate(folds):
        structure = fold.structure()
        mask[row, : fold.length] = True
        centre[row, : fold.length] = centres[row]
        angles[row, : fold.length] = starts[row]
        at = fold.loops[0]
        for element, loop in zip(fold.elements, fold.loops[1:], strict=True):
            stretch = slice(at, at + element.length)
            target[row, stretch], pinned[row, stretch] = element.trace(), True
            at += element.length + loop
        for i, kind in enumerate(structure):
            # the ends of an element belong half to the loop
            end = kind != "L" and (
                structure[max(i - 1, 0)] == "L" or structure[min(i + 1, fold.length - 1)] == "L"
            )
            spread[row, i] = 15.0 if end else _SPREADS[kind]
    problem = TorsionProblem(
        mask=torch.from_numpy(mask),
        centre=torch.from_numpy(np.radians(centre)),
        spread=torch.from_numpy(np.radians(spread)),
        omega=torch.full((size, longest), torch.pi, dtype=torch.float64),
        n_ca_c=torch.full((size, longest), radians(N_CA_C_ANGLE), dtype=torch.float64),
        target=torch.from_numpy(target),
        pinned=torch.from_numpy(pinned),
        tolerance=0.5,
    )
    return problem, torch.from_numpy(angles)


def _variation(
    masters: Sequence[Backbone], rngs: Sequence[np.random.Generator], amplitude: float
) -> tuple[TorsionProblem, Tensor]:
    size, longest = len(masters), max(len(m.angles) for m in masters)
    centre = np.tile(np.radians([-120.0, 130.0]), (size, longest, 1))
    omega, n_ca_c = np.full((size, longest), np.pi), np.full((size, longest), radians(N_CA_C_ANGLE))
    target, mask = np.zeros((size, longest, 3)), np.zeros((size, longest), dtype=bool)
    scale = tm_d0(torch.tensor([len(m.angles) for m in masters])).numpy()
    for row, (master, rng) in enumerate(zip(masters, rngs, strict=True)):
        n = len(master.angles)
        mask[row, :n] = True
        ca = master.coords[:, CA_ATOM]
        target[row, :n] = ca + amplitude * scale[row] * _smooth_field(ca, rng)
        loops = np.array([kind == "L" for kind in master.fold.structure()])
        wobble = np.where(loops, 4.0, 2.0)[:, None] * rng.standard_normal((n, 2))
        centre[row, :n] = master.angles + np.radians(wobble)
        omega[row, :n] += np.radians(3.0) * rng.standard_normal(n)
        n_ca_c[row, :n] += np.radians(1.2) * rng.standard_normal(n)
    start = torch.from_numpy(centre)
    return TorsionProblem(
        mask=torch.from_numpy(mask),
        centre=start,
        spread=torch.full((size, longest, 2), radians(7.0), dtype=torch.float64),
        omega=torch.from_numpy(omega),
        n_ca_c=torch.from_numpy(n_ca_c),
        target=torch.from_numpy(target),
        pinned=torch.from_numpy(mask),
        tolerance=0.35,
    ), start


def _smooth_field(ca: Float[np.ndarray, "l 3"], rng: np.random.Generator) -> Float[np.ndarray, "l 3"]:
    """Displacements, rms 1, that vary over 20 to 40 Å of space: packed neighbours move together."""
    total = np.zeros_like(ca)
    for _ in range(4):
        wave = rng.standard_normal(3)
        wave *= 2 * np.pi / rng.uniform(20.0, 40.0) / np.linalg.norm(wave)
        total += np.sin(ca @ wave + rng.uniform(0, 2 * np.pi))[:, None] * rng.standard_normal(3)
    total -= total.mean(0)
    return total / max(1e-6, float(np.sqrt((total**2).sum(-1).mean())))


def _miss(problem: TorsionProblem, coords: Float[Tensor, "b l 4 3"]) -> Float[Tensor, " b"]:
    ca = coords[:, :, CA_ATOM]
    frames = kabsch(problem.target, ca, problem.pinned)
    goal = problem.target @ frames.rotation.mT + frames.translation[:, None]
    square = (goal - ca).square().sum(-1) * problem.pinned
    return (square.sum(-1) / problem.pinned.sum(-1)).sqrt()


def _by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Indices in chunks of like length, so that little is padded."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    return [order[i : i + _CHUNK] for i in range(0, len(order), _CHUNK)]
