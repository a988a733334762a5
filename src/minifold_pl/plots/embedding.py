"""Maps of the chains' embeddings, coloured by what the chains are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float

from minifold_pl.metrics.silhouette import silhouette
from minifold_pl.plots.style import MARKERS, Look, ThemeName, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OTHERS: Final = "others"
UNKNOWN: Final = "unknown"
_MOST: Final = 8
"""Labels with a colour of their own, the most frequent ones."""


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A place in the plane for every chain."""

    name: str
    points: Float[np.ndarray, "n 2"]
    axes: tuple[str, str]
    """What its two directions are, such as ``PC 1 (23 % of the variance)``."""


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """A label for every chain; None where it is unknown."""

    name: str
    labels: Sequence[str | None]
    silhouette: float = float("nan")
    """Of the embeddings themselves (not of their projection), chains without a label left out; NaN where undefined."""

    @classmethod
    def of(cls, name: str, labels: Sequence[str | None], vectors: Float[np.ndarray, "n d"]) -> Labelling:
        """With the silhouette of ``vectors``."""
        known = [k for k, label in enumerate(labels) if label is not None]
        return cls(
            name=name, labels=labels, silhouette=silhouette(vectors[known], [str(labels[k]) for k in known])
        )


def embedding_figure(
    projections: Sequence[Projection],
    labellings: Sequence[Labelling],
    *,
    about: str = "",
    note: str = "",
    theme: ThemeName = "light",
) -> Figure:
    """Draw a row a projection, a column a labelling, with the silhouette of each labelling.

    Up to eight labels have a colour and a shape, the others are grey, chains without label hollow.

    Args:
        projections: Such as PCA and UMAP of the same chains.
        labellings: Such as CATH class and architecture.
        about: Stands below the title.
        note: Stands at the bottom, such as why a projection is missing.
        theme: ``light`` or ``dark``.

    Raises:
        ValueError: Nothing to draw, or a projection or labelling has another number of chains.
    """
    if not projections or not labellings:
        raise ValueError("there are no embeddings to draw")
    count = len(projections[0].points)
    for name, length in (
        *((p.name, len(p.points)) for p in projections),
        *((one.name, len(one.labels)) for one in labellings),
    ):
        if length != count:
            raise ValueError(f"{name} has {length} chains, {projections[0].name} {count}")
    with look(theme) as made:
        rows, columns = len(projections), len(labellings)
        title = f"Embeddings of {count:,} chains"
        figure = made.figure(5.6 * columns + 0.4, 4.1 * rows + 1.0, title, about)
        grid = figure.subplots(rows, columns, squeeze=False)
        for row, projection in zip(grid, projections, strict=True):
            for axes, labelling in zip(row, labellings, strict=True):
                _draw(made, axes, projection, labelling)
        if note:
            figure.supxlabel(note, fontsize=8, color=made.theme.muted)
    return figure


def shown_labels(labels: Sequence[str | None]) -> Mapping[str, int]:
    """The labels that have a colour, in the order of their legend, with their number of chains."""
    counts = Counter(label for label in labels if label is not None)
    most = sorted(counts, key=lambda label: (-counts[label], label))[:_MOST]
    return {label: counts[label] for label in sorted(most)}


def _draw(made: Look, axes: Axes, projection: Projection, labelling: Labelling) -> None:
    labels = np.array([label if label is not None else UNKNOWN for label in labelling.labels], dtype=object)
    known = np.array([label is not None for label in labelling.labels])
    shown = shown_labels(labelling.labels)
    x, y = projection.points.T
    size = float(np.clip(4000 / max(len(x), 1), 6, 30))
    rest = known & ~np.isin(labels, list(shown))
    if (~known).any():
        axes.scatter(
            x[~known], y[~known], s=size, facecolors="none", edgecolors=made.theme.other, linewidths=0.6,
            label=f"{UNKNOWN} ({int((~known).sum())})", zorder=2,
        )  # fmt: skip
    if rest.any():
        kinds = len(set(labels[rest]))
        axes.scatter(
            x[rest], y[rest], s=size, color=made.theme.other, marker=".", zorder=2,
            label=f"{kinds} {OTHERS} ({int(rest.sum())})",
        )  # fmt: skip
    for place, (label, number) in enumerate(shown.items()):
        which = labels == label
        axes.scatter(
            x[which], y[which], s=size, color=made.colour(place), marker=MARKERS[place % len(MARKERS)], alpha=0.85,
            linewidths=0, label=f"{label} ({number})", zorder=3,
        )  # fmt: skip
    told = "–" if np.isnan(labelling.silhouette) else f"{labelling.silhouette:.3f}".replace("-", "−")
    axes.set_title(f"{projection.name} by {labelling.name}, silhouette {told}")
    axes.set(xlabel=projection.axes[0], ylabel=projection.axes[1])
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.2)
