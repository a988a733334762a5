"""A chain as a picture: its Cα trace and its contact map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Bool, Float

from minifold_pl.constants import CONTACT_CUTOFF
from minifold_pl.plots.style import look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FARTHEST: Final = 30.0
"""Å: distances from here on have one colour."""
_COLOURS: Final = "viridis"
_DISTANCE_COLOURS: Final = "Blues_r"
_FOG: Final = 0.65
"""How much of its colour the farthest part of the trace loses to the background."""


def chain_figure(
    ca: Float[np.ndarray, "l 3"], bonded: Bool[np.ndarray, " l"], title: str, numbers: tuple[str, ...] = ()
) -> Figure:
    """Draw a chain: left its trace, seen along its shortest principal axis, right its Cα–Cα distances.

    The trace runs from dark to bright, N to C terminus; what lies farther back is paler. Residues without Cα are
    gaps, grey in the map. The map's upper triangle has distances, the lower one the contacts below 8 Å.

    Args:
        ca: Cα in Å; NaN where missing.
        bonded: True where a residue is joined to the next.
        title: Written above.
        numbers: The residues' own numbers, for the axes; counted from 1 where empty.

    Raises:
        ValueError: fewer than two Cα are known.
    """
    known = ~np.isnan(ca).any(-1)
    if known.sum() < 2:
        raise ValueError(f"{title}: {int(known.sum())} Cα are known; a picture needs two")
    with look("light") as made:
        figure = made.figure(11, 5.2, title)
        trace, contacts = figure.subplots(1, 2)
        _draw_trace(trace, _turned(ca, known), bonded)
        _draw_map(contacts, ca, numbers)
    return figure


def _turned(ca: Float[np.ndarray, "l 3"], known: Bool[np.ndarray, " l"]) -> Float[np.ndarray, "l 3"]:
    """The chain with its longest axis across, its shortest towards the reader; not mirrored."""
    centred = ca.astype(np.float64) - ca[known].mean(0)
    _, _, axes = np.linalg.svd(centred[known], full_matrices=False)
    axes = np.vstack([axes, np.zeros((3 - len(axes), 3))])
    if len(centred[known]) > 2:
        axes[2] = np.cross(axes[0], axes[1])  # right-handed, so that helices keep their hand
    return centred @ axes.T


def _draw_trace(axes: Axes, places: Float[np.ndarray, "l 3"], bonded: Bool[np.ndarray, " l"]) -> None:
    import matplotlib
    from matplotlib.collections import LineCollection

    length = len(places)
    colours = matplotlib.colormaps[_COLOURS](np.linspace(0.0, 0.95, length))
    depth = places[:, 2]
    low, high = np.nanmin(depth), np.nanmax(depth)
    joined = np.flatnonzero(bonded[:-1])
    joined = joined[np.argsort((depth[joined] + depth[joined + 1]) / 2)]  # the nearest is drawn last
    near = ((depth[joined] + depth[joined + 1]) / 2 - low) / max(high - low, 1e-9)
    shade = colours[joined].copy()
    shade[:, :3] = 1 - (1 - shade[:, :3]) * (1 - _FOG * (1 - near[:, None]))
    # A pale rim keeps a piece in front apart from what it crosses; hence one collection a piece.
    for k, i in enumerate(joined.tolist()):
        piece = [places[i : i + 2, :2]]
        axes.add_collection(
            LineCollection(piece, colors="white", linewidths=5.5, capstyle="butt", zorder=2 + k)
        )
        axes.add_collection(
            LineCollection(piece, colors=[shade[k]], linewidths=3.0, capstyle="round", zorder=2 + k)
        )
    before = np.concatenate([[False], bonded[:-1]])
    alone = ~np.isnan(depth) & ~bonded & ~before
    axes.scatter(places[alone, 0], places[alone, 1], s=12, c=colours[alone], zorder=2 + length)
    ends = np.flatnonzero(~np.isnan(depth))[[0, -1]]
    for end, name in zip(ends.tolist(), "NC", strict=True):
        x, y = places[end, :2].tolist()
        axes.annotate(
            name, (x, y), xytext=(6, 6), textcoords="offset points", fontweight="bold", zorder=3 + length
        )
    axes.set(xlabel="Å", ylabel="Å", title="Cα trace")
    axes.set_aspect("equal")
    axes.autoscale_view()
    axes.margins(0.06)


def _draw_map(axes: Axes, ca: Float[np.ndarray, "l 3"], numbers: tuple[str, ...]) -> None:
    import matplotlib

    distances = np.linalg.norm(ca[:, None] - ca[None], axis=-1)
    lower = np.tril(np.ones(distances.shape, dtype=bool))
    missing = np.isnan(distances)
    shown = np.where(lower, np.where(distances < CONTACT_CUTOFF, 0.0, FARTHEST), distances)
    shown[missing] = np.nan
    colours = matplotlib.colormaps[_DISTANCE_COLOURS].with_extremes(bad="0.8")
    image = axes.imshow(shown, cmap=colours, vmin=0, vmax=FARTHEST, interpolation="nearest")
    axes.figure.colorbar(image, ax=axes, label="Cα–Cα distance, Å", extend="max", shrink=0.85)
    axes.grid(False)
    places = [int(place) for place in axes.get_xticks() if 0 <= place < len(ca)]
    labels = [numbers[place] if numbers else str(place + 1) for place in places]
    axes.set_xticks(places, labels)
    axes.set_yticks(places, labels)
    axes.set(xlabel="residue", ylabel="residue", title=f"distances, and contacts below {CONTACT_CUTOFF:g} Å")
