"""Folds of the synthetic set: where ideal helices, strands and extended pieces lie, and what joins them.

A fold is drawn, not copied: elements are packed at the distances of real ones (helix–helix 9–10 Å,
strand–strand 4.8 Å, helix–sheet 10 Å), sheets twist as real ones do and β–α–β crossovers are right-handed.
Lengths in Å.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from math import ceil, radians
from typing import Final, Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from minifold_pl.constants import CA_ATOM
from minifold_pl.geometry.backbone import backbone_from_torsions

Kind = Literal["H", "E", "C"]
"""Helix, strand, and the extended pieces an irregular fold is made of."""

ELEMENT_TORSIONS: Final[dict[str, tuple[float, float]]] = {
    "H": (-63.0, -42.0),
    "E": (-120.0, 122.0),
    "C": (-72.0, 146.0),
}
"""φ and ψ in degrees. The strand is all but flat (2 residues a turn): the fit adds the twist."""

HELIX_HELIX: Final = (8.8, 10.2)
"""Range of axis distances of packed helices (Chothia, Levitt & Richardson 1981, J. Mol. Biol. 145:215)."""
STRAND_STRAND: Final = 4.8
SHEET_HELIX: Final = 10.0
SHEET_SHEET: Final = 10.0
"""Distances of packed layers (Chothia 1984, Annu. Rev. Biochem. 53:537)."""
SHEET_TWIST: Final = -16.0
"""Degrees from a strand to the next about the axis that leads there: left-handed across the strands. Real
sheets have -20° to -25° (Chothia 1973, J. Mol. Biol. 75:295), which straight ideal strands 4.8 Å apart can
follow only in part."""
SANDWICH_ANGLE: Final = -30.0
"""Degrees between the strands of two packed sheets."""

_RISE: Final = {"H": 1.54, "E": 3.30, "C": 3.05}
_COIL_COIL: Final = (4.8, 7.5)
_PER_LOOP_BOND: Final = 2.75
"""Å a loop advances per Cα–Cα bond and still has freedom to go round things (stretched: 3.8)."""


@dataclass(frozen=True, kw_only=True)
class Element:
    """A straight piece: residue 0 of an ideal trace at ``origin`` (a helix: its middle), along ``axis``.

    ``up`` is where the first Cα of a strand points (its pleat), and fixes the roll of the others.
    """

    kind: Kind
    length: int
    origin: Float[np.ndarray, " 3"]
    axis: Float[np.ndarray, " 3"]
    up: Float[np.ndarray, " 3"]

    def trace(self) -> Float[np.ndarray, "l 3"]:
        """Cα positions."""
        frame = np.stack((self.up, np.cross(self.axis, self.up), self.axis))
        return self.origin + ideal_trace(self.kind, self.length) @ frame

    def moved(self, rotation: Float[np.ndarray, "3 3"], shift: Float[np.ndarray, " 3"]) -> Element:
        """The element turned about the origin of the coordinate system, then shifted."""
        return replace(
            self, origin=rotation @ self.origin + shift, axis=rotation @ self.axis, up=rotation @ self.up
        )


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Elements in the order of the chain, and the loops before, between and after them."""

    architecture: str
    """CATH class and architecture, ``3.30``."""
    elements: tuple[Element, ...]
    loops: tuple[int, ...]
    """Residues before the first element, between each two, and after the last."""

    @property
    def length(self) -> int:
        """Residues of the chain."""
        return sum(self.loops) + sum(e.length for e in self.elements)

    def structure(self) -> str:
        """One letter a residue: H, E, C, and L in loops."""
        parts = ["L" * self.loops[0]]
        for element, loop in zip(self.elements, self.loops[1:], strict=True):
            parts += [element.kind * element.length, "L" * loop]
        return "".join(parts)


@cache
def ideal_trace(kind: Kind, length: int) -> Float[np.ndarray, "l 3"]:
    """Cα of a straight ideal element along z; a strand starts at z = 0 with a pleat to x > 0."""
    phi, psi = (torch.full((length,), radians(v), dtype=torch.float64) for v in ELEMENT_TORSIONS[kind])
    ca = backbone_from_torsions(phi, psi)[:, CA_ATOM].numpy()
    whole = backbone_from_torsions(
        *(torch.full((40,), radians(v), dtype=torch.float64) for v in ELEMENT_TORSIONS[kind])
    )
    screw = whole[:, CA_ATOM].numpy()
    # the axis of a screw is where second differences have no part
    along = np.linalg.svd(np.diff(screw, n=2, axis=0))[2][-1]
    along = along * np.sign(along @ (screw[-1] - screw[0]))
    across = (
        ca[0] - ca[: 2 * (length // 2)].mean(0)
        if kind == "E" and length > 1
        else np.diff(screw, n=2, axis=0)[0]
    )
    x = across - (across @ along) * along
    x /= np.linalg.norm(x)
    local = ca @ np.stack((x, np.cross(along, x), along)).T
    middle = local.mean(0)
    if kind == "E":
        middle = np.array([*local[: 2 * (length // 2)].mean(0)[:2], local[0, 2]])
    trace = local - middle
    trace.flags.writeable = False
    return trace


def draw_fold(cath_class: int, shortest: int, longest: int, rng: np.random.Generator) -> Fold | None:
    """A fold of CATH class 1…4 with ``shortest`` to ``longest`` residues; None where the draw led nowhere."""
    length = int(rng.integers(shortest, longest + 1))
    elements = {1: _helices, 2: _strands, 3: _strands_and_helices, 4: _pieces}[cath_class](length, rng)
    if elements is None:
        return None
    architecture, placed = elements
    loops = _loops(placed, cath_class, rng)
    if loops is None:
        return None
    fold = Fold(architecture=architecture, elements=placed, loops=loops)
    return fold if shortest <= fold.length <= longest else None


def vary_lengths(fold: Fold, shortest: int, longest: int, rng: np.random.Generator) -> Fold:
    """The fold with one or two of its elements and loops a residue longer or shorter."""
    elements, loops = list(fold.elements), list(fold.loops)
    for _ in range(int(rng.integers(0, 3))):
        change = int(rng.choice((-1, 1)))
        if not shortest <= sum(loops) + sum(e.length for e in elements) + change <= longest:
            continue
        place = int(rng.integers(len(elements) + len(loops)))
        if place < len(elements):
            element = elements[place]
            least = {"H": 6, "E": 4, "C": 3}[element.kind]
            if element.length + change >= least:
                elements[place] = replace(element, length=element.length + change)
        elif loops[place - len(elements)] + change >= (
            1 if place in (len(elements), len(elements) + len(loops) - 1) else 2
        ):
            loops[place - len(elements)] += change
    return replace(fold, elements=tuple(elements), loops=tuple(loops))


def common_residues(a: Fold, b: Fold) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Residues of two folds with the same elements that stand for each other.

    Helices and extended pieces match in the middle, strands at their start, loops at theirs.
    """
    found: tuple[list[int], list[int]] = ([], [])
    starts = [0, 0]
    for part in range(2 * len(a.elements) + 1):
        sizes = [f.elements[part // 2].length if part % 2 else f.loops[part // 2] for f in (a, b)]
        common = min(sizes)
        centred = part % 2 == 1 and a.elements[part // 2].kind != "E"
        for k in (0, 1):
            first = starts[k] + ((sizes[k] - common) // 2 if centred else 0)
            found[k].extend(range(first, first + common))
            starts[k] += sizes[k]
    return np.array(found[0]), np.array(found[1])


# --- all α, and irregular: straight pieces packed one after another ----------------------------


def _helices(length: int, rng: np.random.Generator) -> tuple[str, tuple[Element, ...]] | None:
    counts = [n for n in (2, 3, 4, 5) if 7 <= (length - 2 - 3.5 * (n - 1)) / n <= (22 if n == 2 else 18)]
    if not counts:
        return None
    n = int(rng.choice(counts))
    free = length - 2 - round(3.5 * (n - 1))
    sizes = _split(free, n, 7, rng)
    up_down = n == 2 or bool(rng.random() < 0.5)
    placed = _pack("H", sizes, (145.0, 172.0) if up_down else (40.0, 125.0), HELIX_HELIX, rng)
    return None if placed is None else ("1.20" if up_down else "1.10", placed)


def _pieces(length: int, rng: np.random.Generator) -> tuple[str, tuple[Element, ...]] | None:
    n = max(3, round(length / 6.5))
    sizes = rng.integers(3, 5, n)
    placed = _pack("C", sizes, (55.0, 160.0), _COIL_COIL, rng)
    return None if placed is None else ("4.10", placed)


def _pack(
    kind: Kind,
    sizes: Float[np.ndarray, " n"],
    turns: tuple[float, float],
    apart: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[Element, ...] | None:
    """Pieces that turn from the one before by ``turns`` (range, degrees) and touch an earlier one."""
    rise = _RISE[kind]
    starts, ends = [np.zeros(3)], [np.array([0.0, 0.0, rise * (sizes[0] - 1)])]
    for size in sizes[1:]:
        best: tuple[float, np.ndarray, np.ndarray] | None = None
        before = (ends[-1] - starts[-1]) / np.linalg.norm(ends[-1] - starts[-1])
        tries = 60
        turn = np.radians(rng.uniform(*turns, tries))
        side = _perpendicular(before, rng.uniform(0, 2 * np.pi, tries))
        axes = np.cos(turn)[:, None] * before + np.sin(turn)[:, None] * side
        jumps = _directions(rng, tries) * rng.uniform(apart[0] * 0.75, apart[1] * 1.05, tries)[:, None]
        middles = np.concatenate([0.5 * (a + b)[None] for a, b in zip(starts, ends, strict=True)])
        for axis, jump in zip(axes, jumps, strict=True):
            start = ends[-1] + jump
            end = start + axis * rise * (size - 1)
            gaps = [_segment_gap(start, end, a, b) for a, b in zip(starts, ends, strict=True)]
            if min(gaps) < apart[0] or min(gaps) > apart[1]:
                continue
            # compact, but not always the most compact: folds should differ
            spread = float(np.linalg.norm(0.5 * (start + end) - middles.mean(0))) + rng.uniform(0, 3.0)
            if best is None or spread < best[0]:
                best = (spread, start, end)
        if best is None:
            return None
        starts.append(best[1])
        ends.append(best[2])
    placed = []
    for start, end, size in zip(starts, ends, sizes, strict=True):
        axis = (end - start) / np.linalg.norm(end - start)
        up = _perpendicular(axis, rng.uniform(0, 2 * np.pi, 1))[0]
        placed.append(Element(kind=kind, length=int(size), origin=0.5 * (start + end), axis=axis, up=up))
    return tuple(placed)


# --- sheets ------------------------------------------------------------------------------------


def _strands(length: int, rng: np.random.Generator) -> tuple[str, tuple[Element, ...]] | None:
    counts = [n for n in range(2, 10) if 4 <= (length - 2 - 3.2 * (n - 1)) / n <= (10 if n == 2 else 8)]
    if not counts:
        return None
    n = int(rng.choice(counts))
    size = int(min(10, max(4, (length - 2 - 3.2 * (n - 1)) / n)))
    layers = 2 if n >= 6 or (n >= 5 and rng.random() < 0.5) else 1
    places = _walk(n, layers, rng)
    if places is None:
        return None
    elements = []
    for k, (x, layer) in enumerate(places):
        sense = 1 if k % 2 == 0 else -1
        extra = int(rng.integers(-1, 2)) if n > 2 else 0
        strand = _strand(x, sense, max(4, size + extra), rng)
        if layer:
            turn = _about((0, 1, 0), SANDWICH_ANGLE)
            strand = strand.moved(turn, np.array([0.0, SHEET_SHEET, 0.0]))
        elements.append(strand)
    architecture = "2.60" if layers == 2 else ("2.20" if n <= 4 else "2.30")
    return architecture, _centred(tuple(elements))


_PATTERNS: Final = (
    "EHE", "EEH", "HEE", "EEHE", "EHEE", "HEEE", "EEEH", "EHEH", "HEHE",
    "EHEHE", "EHEEH", "HEEHE", "EEHEH", "EEHEE", "EEEHE", "EHEHEE", "EHEEHE", "EEHEHE", "EHEHEH", "HEEEHE",
    "EHEHEHE", "EHEEHEH", "EEHEEHE", "EHEHEHEH",
)  # fmt: skip


def _strands_and_helices(length: int, rng: np.random.Generator) -> tuple[str, tuple[Element, ...]] | None:
    fitting = []
    for pattern in _PATTERNS:
        strands, helices = pattern.count("E"), pattern.count("H")
        free = length - 2 - 3.2 * (len(pattern) - 1)
        for size in (4, 5, 6, 7):
            helix = (free - size * strands) / helices
            if max(7.0, 1.7 * size) <= helix <= min(15.0, 3.2 * size):
                fitting.append((pattern, size, int(helix)))
    if not fitting:
        return None
    pattern, size, helix = fitting[int(rng.integers(len(fitting)))]
    places = _mixed_walk(pattern, rng)
    if places is None:
        return None
    elements, sides = [], set()
    for letter, (x, side, sense) in zip(pattern, places, strict=True):
        if letter == "E":
            elements.append(_strand(x, sense, size + int(rng.integers(0, 2)), rng))
            continue
        sides.add(side)
        turn = _about((1, 0, 0), SHEET_TWIST * x)
        tilt = _about((0, 1, 0), float(rng.uniform(-18, 18)))
        axis = turn @ tilt @ np.array([0.0, 0.0, float(sense)])
        middle = turn @ np.array([x * STRAND_STRAND, side * SHEET_HELIX, float(rng.uniform(-1.5, 1.5))])
        up = _perpendicular(axis, rng.uniform(0, 2 * np.pi, 1))[0]
        elements.append(Element(kind="H", length=helix, origin=middle, axis=axis, up=up))
    return "3.40" if len(sides) == 2 else "3.30", _centred(tuple(elements))


def _strand(place: float, sense: int, length: int, rng: np.random.Generator) -> Element:
    """A strand of the twisted sheet in the xz plane, ``place`` strands from its middle, up or down z.

    Pleats are in register across the sheet: at one level of z all Cα point to the same side of it.
    """
    level = -sense * ((length - 1) // 2) + int(rng.integers(-1, 2))
    turn = _about((1, 0, 0), SHEET_TWIST * place)
    pleat = 1.0 if level % 2 == 0 else -1.0
    return Element(
        kind="E",
        length=length,
        origin=np.array([place * STRAND_STRAND, 0.0, 0.0]) + turn @ np.array([0.0, 0.0, level * _RISE["E"]]),
        axis=turn @ np.array([0.0, 0.0, float(sense)]),
        up=turn @ np.array([0.0, pleat, 0.0]),
    )


def _walk(n: int, layers: int, rng: np.random.Generator) -> list[tuple[int, int]] | None:
    """Place and sheet of each strand along the chain: mostly next to the one before."""
    for _ in range(20):
        taken = [(0, 0)]
        while len(taken) < n:
            x, layer = taken[-1]
            steps = [
                (x + 1, layer),
                (x - 1, layer),
                (x + 3, layer),
                (x - 3, layer),
                (x + 2, layer),
                (x - 2, layer),
            ]
            odds = [6.0, 6.0, 1.0, 1.0, 0.7, 0.7]
            if layers == 2:
                steps += [(x + d, 1 - layer) for d in (-1, 0, 1)]
                odds += [2.0, 3.0, 2.0]
            free = [(s, o) for s, o in zip(steps, odds, strict=True) if s not in taken]
            if not free:
                break
            weights = np.array([o for _, o in free])
            taken.append(free[int(rng.choice(len(free), p=weights / weights.sum()))][0])
        sheets = [sorted(x for x, side in taken if side == layer) for layer in range(layers)]
        whole = all(s and s[-1] - s[0] == len(s) - 1 and (layers == 1 or len(s) >= 2) for s in sheets)
        if len(taken) == n and whole:
            # each sheet about the middle of the other
            middles = [round((s[0] + s[-1]) / 2) for s in sheets]
            if layers == 2 and abs(middles[0] - middles[1]) > 1:
                continue
            return [(x - middles[0], layer) for x, layer in taken]
    return None


def _mixed_walk(pattern: str, rng: np.random.Generator) -> list[tuple[float, int, int]] | None:
    """Place, side of the sheet (helices) and sense of every element of an α/β fold."""
    for _ in range(30):
        strands: dict[int, int] = {}
        helices: list[tuple[float, int]] = []
        found: list[tuple[float, int, int]] = []
        x, sense = 0, 1
        for k, letter in enumerate(pattern):
            last_strand = next(
                (p for p, q in zip(reversed(found), reversed(pattern[:k]), strict=True) if q == "E"), None
            )
            if letter == "E":
                if last_strand is not None:
                    x = int(last_strand[0])
                    crossed = pattern[k - 1] == "H"
                    jump = int(
                        rng.choice(
                            (1, -1, 2, -2) if crossed else (1, -1),
                            p=(0.35, 0.35, 0.15, 0.15) if crossed else (0.5, 0.5),
                        )
                    )
                    sense = last_strand[2] if crossed else -last_strand[2]
                    if crossed:
                        # right-handed crossover: with the helix above (y > 0) the chain moves toward -x times
                        # its sense
                        side = -int(np.sign(jump)) * sense
                        helix_x = x + 0.5 * jump
                        found[-1] = (helix_x, side, -sense)
                        helices[-1] = (helix_x, side)
                    x += jump
                elif k:
                    sense = -found[-1][2]
                    x = round(found[-1][0] - 0.5)
                if x in strands:
                    break
                strands[x] = sense
                found.append((float(x), 0, sense))
            else:
                side = int(rng.choice((-1, 1)))
                start = last_strand[0] if last_strand is not None else 0.0
                helices.append((start + float(rng.choice((-0.5, 0.5))), side))
                found.append((helices[-1][0], side, -last_strand[2] if last_strand is not None else 1))
        apart = all(
            sa != sb or abs(xa - xb) * STRAND_STRAND >= HELIX_HELIX[0]
            for i, (xa, sa) in enumerate(helices)
            for xb, sb in helices[:i]
        )
        if len(found) == len(pattern) and apart and max(strands) - min(strands) == len(strands) - 1:
            middle = round((max(strands) + min(strands)) / 2)
            return [(p - middle, side, s) for p, side, s in found]
    return None


# --- loops and small geometry --------------------------------------------------------------------


def _loops(
    elements: tuple[Element, ...], cath_class: int, rng: np.random.Generator
) -> tuple[int, ...] | None:
    """Residues of each loop: enough for its gap; None where a gap is too wide for a chain of this size."""
    traces = [e.trace() for e in elements]
    counts = [int(rng.integers(1, 3))]
    for before, after in pairwise(traces):
        gap = float(np.linalg.norm(after[0] - before[-1]))
        count = max(2, ceil(gap / _PER_LOOP_BOND) - 1) + int(rng.integers(0, 2))
        if count > 9 or (cath_class == 4 and count > 4):
            return None
        counts.append(count)
    return (*counts, int(rng.integers(1, 3)))


def _split(total: int, parts: int, least: int, rng: np.random.Generator) -> np.ndarray:
    """``total`` in ``parts`` whole numbers of at least ``least``, at most 40 % off the mean."""
    sizes = np.maximum(least, np.round(total / parts * rng.uniform(0.75, 1.25, parts))).astype(int)
    for _ in range(100):
        off = total - int(sizes.sum())
        if off == 0:
            break
        k = int(rng.integers(parts))
        if sizes[k] + np.sign(off) >= least:
            sizes[k] += np.sign(off)
    return sizes


def _centred(elements: tuple[Element, ...]) -> tuple[Element, ...]:
    middle = np.concatenate([e.trace() for e in elements]).mean(0)
    return tuple(replace(e, origin=e.origin - middle) for e in elements)


def _about(axis: tuple[float, float, float], degrees: float) -> Float[np.ndarray, "3 3"]:
    """Rotation about a unit axis."""
    x, y, z = axis
    k = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    angle = radians(degrees)
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def _perpendicular(axis: Float[np.ndarray, " 3"], angle: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
    helper = np.eye(3)[np.abs(axis).argmin()]
    u = np.cross(axis, helper)
    u /= np.linalg.norm(u)
    return np.cos(angle)[:, None] * u + np.sin(angle)[:, None] * np.cross(axis, u)


def _directions(rng: np.random.Generator, n: int) -> Float[np.ndarray, "n 3"]:
    v = rng.standard_normal((n, 3))
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def _segment_gap(a0: np.ndarray, a1: np.ndarray, b0: np.ndarray, b1: np.ndarray) -> float:
    """Smallest distance of two segments, from 9 × 9 points on them."""
    t = np.linspace(0, 1, 9)[:, None]
    a, b = a0 + t * (a1 - a0), b0 + t * (b1 - b0)
    return float(np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1).min()))
