"""Contact maps: true beside predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Bool, Float

from minifold_pl.constants import CONTACT_CUTOFF, LONG_RANGE
from minifold_pl.plots.style import Look, ThemeName, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN: Final[Mapping[str, str]] = {
    "contact_precision": "P",
    "contact_recall": "R",
    "precision_long_L": "long L",
    "precision_long_L2": "L/2",
    "precision_long_L5": "L/5",
}
"""Scores that stand on a panel, and what they are called there."""
SHOWN_NOTE: Final = (
    f"contact: Cα–Cα below {CONTACT_CUTOFF:g} Å.  P, R: precision and recall of all pairs with a probability above ½.  "
    f"long L, L/2, L/5: precision of the most probable pairs with |i − j| ≥ {LONG_RANGE}"
)


@dataclass(frozen=True, kw_only=True)
class ContactPanel:
    """One chain."""

    name: str
    contact: Bool[np.ndarray, "l l"]
    probability: Float[np.ndarray, "l l"]
    observed: Bool[np.ndarray, " l"]
    """Residues whose Cα is known; the others are grey."""
    told: str = ""
    """Such as its CATH class."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """By the names of ``evaluate``; those of :data:`SHOWN` are written, NaN as a dash."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """``found``, ``missed`` and ``wrong`` as an evaluation wrote them; counted on the maps where empty."""


def contact_counts(
    contact: Bool[np.ndarray, "l l"], probability: Float[np.ndarray, "l l"], observed: Bool[np.ndarray, " l"]
) -> dict[str, int]:
    """Pairs that are found, missed, and predicted where there is no contact, at a probability above ½."""
    return {name: int(which.sum()) for name, which in _outcomes(contact, probability, observed).items()}


def _outcomes(contact: np.ndarray, probability: np.ndarray, observed: np.ndarray) -> dict[str, np.ndarray]:
    """As maps below the diagonal."""
    lower = np.tril(observed[:, None] & observed[None], -1)
    predicted = (probability > 0.5) & lower
    return {
        "found": predicted & contact,
        "missed": lower & contact & ~predicted,
        "wrong": predicted & ~contact,
    }


def contact_figure(panels: Sequence[ContactPanel], *, about: str = "", theme: ThemeName = "light") -> Figure:
    """Draw a row a chain: left the true contacts, right the predicted probabilities with their scores.

    Below the diagonal of the right map the ones above ½ stand alone, beside their truth: found, missed, and wrong ones.

    Raises:
        ValueError: There are no chains, or a map is not square.
    """
    if not panels:
        raise ValueError("there are no chains to draw")
    for panel in panels:
        length = len(panel.observed)
        if panel.contact.shape != (length, length) or panel.probability.shape != (length, length):
            raise ValueError(f"{panel.name}: the maps of {length} residues need shape ({length}, {length})")
    with look(theme) as made:
        figure = made.figure(10.2, 4.3 * len(panels) + 0.8, "Contact maps", about)
        grid = figure.subplots(len(panels), 2, squeeze=False)
        for row, panel in zip(grid, panels, strict=True):
            _draw_truth(made, row[0], panel)
            image = _draw_prediction(made, row[1], panel)
        figure.colorbar(image, ax=grid, label="predicted probability", shrink=0.5, pad=0.02)
        figure.supxlabel(SHOWN_NOTE, fontsize=7.5, color=made.theme.muted)
    return figure


def _draw_truth(made: Look, axes: Axes, panel: ContactPanel) -> None:
    from matplotlib.colors import ListedColormap

    known = panel.observed[:, None] & panel.observed[None]
    shown = np.where(known, panel.contact.astype(float), 2.0)
    colours = ListedColormap([made.theme.background, made.colour(0), made.theme.grid])
    axes.imshow(shown, cmap=colours, vmin=0, vmax=2, interpolation="nearest")
    _dress(axes, panel, f"{panel.name}{f', {panel.told}' if panel.told else ''}")


def _draw_prediction(made: Look, axes: Axes, panel: ContactPanel) -> Any:
    length = len(panel.observed)
    upper = np.triu(np.ones((length, length), dtype=bool), 1)
    known = panel.observed[:, None] & panel.observed[None]
    image = axes.imshow(
        np.ma.masked_where(~upper, panel.probability),
        cmap=made.amounts(),
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    _fill(axes, ~known, made.theme.grid)
    counts = panel.counts or contact_counts(panel.contact, panel.probability, panel.observed)
    outcomes = _outcomes(panel.contact, panel.probability, panel.observed)
    for (name, which), colour in zip(outcomes.items(), (0, 4, 1), strict=True):
        _fill(axes, which, made.colour(colour))
        axes.plot([], [], "s", color=made.colour(colour), markersize=6, label=f"{name} {counts[name]}")
    # Beside the map: in each of its corners may be contacts.
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.11),
        ncols=3,
        handletextpad=0.2,
        columnspacing=1.2,
        borderpad=0.2,
    )
    told = [
        f"{label} {panel.scores[name]:.3f}" if np.isfinite(panel.scores[name]) else f"{label} –"
        for name, label in SHOWN.items()
        if name in panel.scores
    ]
    _dress(axes, panel, "  ".join(told), fontweight="normal")
    return image


def _fill(axes: Axes, which: Bool[np.ndarray, "l l"], colour: str) -> None:
    from matplotlib.colors import ListedColormap

    axes.imshow(
        np.ma.masked_equal(which.astype(float), 0), cmap=ListedColormap([colour]), vmin=0, vmax=1,
        interpolation="nearest",
    )  # fmt: skip


def _dress(axes: Axes, panel: ContactPanel, title: str, **text: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, **text)
    axes.grid(False)
    axes.spines[:].set_visible(True)
    for axis, name in ((axes.xaxis, "xlabel"), (axes.yaxis, "ylabel")):
        axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.set(**{name: "residue (from 1)"})
    extent = (0.5, len(panel.observed) + 0.5, len(panel.observed) + 0.5, 0.5)
    for image in axes.images:
        image.set_extent(extent)
    axes.set(xlim=extent[:2], ylim=extent[2:])
