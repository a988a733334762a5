"""Structures superposed on their truths, as traces of the backbone seen from two sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Bool, Float, Int

from minifold_pl.plots.style import Look, ThemeName, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COIL, HELIX, STRAND = 0, 1, 2
"""As :mod:`minifold_pl.geometry.secondary_structure` has them."""
SHOWN: Final[Mapping[str, str]] = {
    "tm_score": "TM-score {:.3f}",
    "rmsd": "RMSD {:.2f} Å",
    "gdt_ts": "GDT-TS {:.3f}",
    "lddt_ca": "lDDT-Cα {:.3f}",
}
"""Scores that are written, by the names of ``score`` and ``evaluate``."""
SIDES: Final = ("as the truth is widest", "turned by 90°")
_BETWEEN: Final = 5
"""Pieces of the curve from one residue to the next."""
_WIDTHS: Final = {COIL: 1.9, HELIX: 4.4, STRAND: 4.4}
"""Points."""
_RIM: Final = 2.2
_IN_FRONT: Final = 0.8
"""Å by which the structure is drawn nearer than it is, so that it does not flicker with a truth in the same place."""
_FOG: Final = 0.6
"""How much of its colour the farthest part loses to the background."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The Cα of a chain."""

    ca: Float[np.ndarray, "l 3"]
    """Å; NaN where missing."""
    bonded: Bool[np.ndarray, " l"]
    """True where a residue is joined to the next."""
    kinds: Int[np.ndarray, " l"] | None = None
    """Coil, helix or strand; drawn as coil where not given."""


@dataclass(frozen=True, kw_only=True)
class Superposed:
    """A structure moved onto its truth."""

    name: str
    truth: Trace
    sample: Trace
    """In the place in which it is compared."""
    scores: Mapping[str, float] = field(default_factory=dict)
    told: str = ""
    """Such as when it was sampled."""


def structure_figure(pairs: Sequence[Superposed], *, about: str = "", theme: ThemeName = "light") -> Figure:
    """Draw a row a pair, from two sides: the truth in grey, the structure from its N to its C terminus in colour.

    Helices and strands are thick, what lies farther back is paler, and a rim keeps what crosses in front apart. Scores
    stand above each row.

    Raises:
        ValueError: There are no pairs, or one has fewer than two known Cα on a side.
    """
    if not pairs:
        raise ValueError("there are no structures to draw")
    for pair in pairs:
        for what, trace in (("truth", pair.truth), ("structure", pair.sample)):
            if _known(trace.ca).sum() < 2:
                raise ValueError(
                    f"{pair.name}: the {what} has {_known(trace.ca).sum()} known Cα; two are needed"
                )
    with look(theme) as made:
        figure = made.figure(10.4, 4.6 * len(pairs) + 0.9, "Structures on their truths", about)
        grid = figure.subplots(len(pairs), 2, squeeze=False)
        for row, pair in zip(grid, pairs, strict=True):
            views = _views(pair)
            for axes, turned, side in zip(row, views, SIDES, strict=True):
                _draw(made, axes, pair, turned)
                axes.set(xlabel="Å")
                axes.text(
                    0.99, 0.01, side, transform=axes.transAxes, ha="right", va="bottom", fontsize=8,
                    color=made.theme.muted,
                )  # fmt: skip
            row[0].set_ylabel("Å")
            row[0].set_title(pair.name + (f", {pair.told}" if pair.told else ""))
            row[1].set_title(_scores(pair), fontweight="normal")
        _legend(made, figure)
    return figure


def _scores(pair: Superposed) -> str:
    found = [
        text.format(pair.scores[name])
        for name, text in SHOWN.items()
        if name in pair.scores and np.isfinite(pair.scores[name])
    ]
    return "  ".join(found)


def _known(ca: Float[np.ndarray, "l 3"]) -> Bool[np.ndarray, " l"]:
    return np.isfinite(ca).all(-1)


def _views(pair: Superposed) -> list[tuple[np.ndarray, np.ndarray]]:
    """Truth and sample, turned: the truth's longest axis across; then the same from the side."""
    known = _known(pair.truth.ca)
    middle = pair.truth.ca[known].mean(0)
    _, _, axes = np.linalg.svd(pair.truth.ca[known].astype(np.float64) - middle, full_matrices=True)
    if np.linalg.det(axes) < 0:
        axes[2] = -axes[2]  # right-handed, so that helices keep their hand
    side = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
    return [
        ((pair.truth.ca - middle) @ turn.T, (pair.sample.ca - middle) @ turn.T)
        for turn in (axes, side @ axes)
    ]


def _draw(made: Look, axes: Axes, pair: Superposed, turned: tuple[np.ndarray, np.ndarray]) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgb

    background, grey = np.array(to_rgb(made.theme.background)), np.array(to_rgb(made.theme.other))
    parts = [
        _pieces(turned[0], pair.truth, np.tile(grey, (len(pair.truth.ca), 1))),
        _pieces(turned[1], pair.sample, _along(made, np.linspace(0, 1, len(pair.sample.ca)))),
    ]
    ends, widths, shades = (np.concatenate([part[k] for part in parts]) for k in range(3))
    if not len(ends):
        return
    depth = ends[:, :, 2].mean(1)
    depth[len(parts[0][0]) :] += _IN_FRONT
    near = (depth - depth.min()) / max(float(np.ptp(depth)), 1e-9)
    shades = background + (shades - background) * (1 - _FOG * (1 - near[:, None]))
    order = np.argsort(depth)  # the nearest is drawn last, each behind its own rim
    lines = np.repeat(ends[order][:, :, :2], 2, axis=0)
    # Shorter than what it rims, so that it does not cut into the next piece of the same curve.
    lines[0::2] = lines[0::2].mean(1, keepdims=True) + 0.6 * (
        lines[0::2] - lines[0::2].mean(1, keepdims=True)
    )
    drawn_widths = np.repeat(widths[order], 2)
    drawn_widths[0::2] += _RIM
    drawn = np.repeat(shades[order], 2, axis=0)
    drawn[0::2] = background
    axes.add_collection(
        LineCollection(list(lines), linewidths=drawn_widths, colors=drawn, capstyle="butt", zorder=2)
    )
    first = np.flatnonzero(_known(pair.sample.ca))[[0, -1]]
    for end, name in zip(first.tolist(), "NC", strict=True):
        axes.annotate(
            name,
            turned[1][end, :2].tolist(),
            xytext=(5, 5),
            textcoords="offset points",
            fontweight="bold",
            zorder=4,
        )
    axes.set_aspect("equal", adjustable="datalim")
    axes.autoscale_view()
    axes.margins(0.08)


def _pieces(
    places: Float[np.ndarray, "l 3"], trace: Trace, colours: Float[np.ndarray, "l 3"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ends (n 2 3), widths and colours of the short straight pieces of a smooth curve through the Cα."""
    known = _known(places)
    joined = np.flatnonzero(known[:-1] & known[1:] & trace.bonded[:-1])
    t = np.linspace(0, 1, _BETWEEN + 1)[:, None]
    ends, widths, shades = [], [], []
    for i in joined.tolist():
        before = (
            places[i - 1] if i > 0 and known[i - 1] and trace.bonded[i - 1] else 2 * places[i] - places[i + 1]
        )
        follows = i + 2 < len(places) and known[i + 2] and trace.bonded[i + 1]
        after = places[i + 2] if follows else 2 * places[i + 1] - places[i]
        curve = _catmull_rom(before, places[i], places[i + 1], after, t)
        along = np.diff(curve, axis=0)
        # A little longer than they are: no gaps where the curve bends.
        ends.append(np.stack([curve[:-1] - 0.12 * along, curve[1:] + 0.12 * along], 1))
        kinds = (trace.kinds[i], trace.kinds[i + 1]) if trace.kinds is not None else (COIL, COIL)
        width = _WIDTHS.get(int(kinds[0]), _WIDTHS[COIL]) if kinds[0] == kinds[1] else _WIDTHS[COIL]
        widths.append(np.full(_BETWEEN, width))
        shades.append(np.tile(colours[i], (_BETWEEN, 1)))
    if not ends:
        return np.zeros((0, 2, 3)), np.zeros(0), np.zeros((0, 3))
    return np.concatenate(ends), np.concatenate(widths), np.concatenate(shades)


def _catmull_rom(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray, t: np.ndarray) -> np.ndarray:
    """The cubic from ``b`` to ``c`` that goes on smoothly through its neighbours."""
    return np.asarray(
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    )


def _along(made: Look, places: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
    """Colours from the N (0) to the C terminus (1), none of them near the background."""
    import matplotlib

    name, first, last = ("viridis", 0.0, 0.9) if made.theme.name == "light" else ("plasma", 0.3, 1.0)
    return np.asarray(matplotlib.colormaps[name](first + (last - first) * places))[:, :3]


def _legend(made: Look, figure: Figure) -> None:
    from matplotlib.lines import Line2D

    start, middle, end = _along(made, np.array([0, 0.5, 1]))
    handles = [
        Line2D([], [], color=made.theme.other, linewidth=4, label="truth"),
        Line2D([], [], color=start, linewidth=4, label="structure, N terminus"),
        Line2D([], [], color=middle, linewidth=4, label="middle"),
        Line2D([], [], color=end, linewidth=4, label="C terminus"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=4)
