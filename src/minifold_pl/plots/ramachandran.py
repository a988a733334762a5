"""Where consecutive dihedrals lie: the truth beside samples and one-step estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float

from minifold_pl.metrics.dihedrals import (
    PHI_PSI_BASINS,
    PSEUDO_BASINS,
    Basin,
    basin_share,
    histogram,
    jensen_shannon,
    sampling_distance,
)
from minifold_pl.plots.style import Look, ThemeName, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PSEUDO: Final = "pseudo"
PHI_PSI: Final = "phi_psi"
BASINS: Final[dict[str, tuple[Basin, ...]]] = {PSEUDO: PSEUDO_BASINS, PHI_PSI: PHI_PSI_BASINS}
AXES: Final[dict[str, tuple[str, str]]] = {
    PSEUDO: ("Cα dihedral i … i+3, degrees", "Cα dihedral i+1 … i+4, degrees"),
    PHI_PSI: ("φ, degrees", "ψ, degrees"),
}
_SQUARES: Final = (36, 72)
"""A side of the map, with few and with many pairs; the numbers have their own."""
_MANY: Final = 5000
_FAINTEST: Final = 1e-2
"""Of the densest square of the truth: what is thinner is not coloured more faintly."""


@dataclass(frozen=True, kw_only=True)
class DihedralSet:
    """Pairs of dihedrals of one source."""

    name: str
    angles: Float[np.ndarray, "n 2"]
    """Degrees."""
    told: str = ""
    """How it was made, such as the sampler's settings."""


@dataclass(frozen=True, kw_only=True)
class DihedralNumbers:
    """What is written in the panel of one set."""

    name: str
    pairs: int
    shares: dict[str, float]
    """Basin → share of the pairs."""
    distance: float | None
    """Jensen–Shannon distance to the truth; None of the truth itself."""
    sampling: float | None
    """What as many pairs drawn from the truth would have on average."""


def dihedral_numbers(sets: Sequence[DihedralSet], kind: str = PSEUDO) -> tuple[DihedralNumbers, ...]:
    """The numbers of a figure; the first set is the truth.

    Raises:
        ValueError: No set, one without pairs, or no such ``kind``.
    """
    if kind not in BASINS:
        raise ValueError(f"kind of dihedrals {kind!r} is none of {', '.join(BASINS)}")
    if not sets:
        raise ValueError("there are no dihedrals to draw")
    empty = [one.name for one in sets if not len(one.angles)]
    if empty:
        raise ValueError(f"no dihedrals in {', '.join(empty)}: chains of five residues or more have any")
    truth = sets[0].angles
    return tuple(
        DihedralNumbers(
            name=one.name,
            pairs=len(one.angles),
            shares={basin.name: basin_share(one.angles, basin) for basin in BASINS[kind]},
            distance=None if k == 0 else jensen_shannon(truth, one.angles),
            sampling=None if k == 0 else sampling_distance(truth, len(one.angles)),
        )
        for k, one in enumerate(sets)
    )


def ramachandran_figure(
    sets: Sequence[DihedralSet],
    kind: str = PSEUDO,
    *,
    numbers: Sequence[DihedralNumbers] = (),
    about: str = "",
    theme: ThemeName = "light",
) -> Figure:
    """Draw the density of two dihedrals, a panel a set, all on one scale; the first set is the truth.

    Each panel has its basins with their shares, and how far it is from the truth. Densities are relative to that of
    pairs spread evenly, on a logarithmic scale.

    Args:
        sets: The truth, then what is compared with it.
        kind: Which dihedrals they are.
        numbers: What an evaluation wrote of these sets; counted here where empty.
        about: Stands below the title.
        theme: ``light`` or ``dark``.

    Raises:
        ValueError: As :func:`dihedral_numbers`, or there are not as many numbers as sets.
    """
    from matplotlib.colors import LogNorm

    numbers = numbers or dihedral_numbers(sets, kind)
    if len(numbers) != len(sets):
        raise ValueError(f"{len(sets)} sets of dihedrals have numbers of {len(numbers)}")
    side = _SQUARES[min(len(one.angles) for one in sets) >= _MANY]
    densities = [_density(one.angles, side) for one in sets]
    highest = max(float(density.max()) for density in densities)
    title = "Ramachandran plot" if kind == PHI_PSI else "Pseudo-Ramachandran plot"
    with look(theme) as made:
        figure = made.figure(3.9 * len(sets) + 0.9, 5.6, title, about)
        grid = figure.subplots(1, len(sets), sharex=True, sharey=True, squeeze=False)[0]
        norm = LogNorm(vmin=max(highest * _FAINTEST, 1e-3), vmax=highest)
        for axes, one, density, told in zip(grid, sets, densities, numbers, strict=True):
            image = _draw_set(made, axes, one, density, norm, BASINS[kind])
            axes.set_xlabel(
                "\n".join(filter(None, [AXES[kind][0], *_lines(told), one.told])), linespacing=1.5
            )
        grid[0].set_ylabel(AXES[kind][1])
        figure.colorbar(image, ax=grid, label="density (1: spread evenly)", shrink=0.8, pad=0.01)
    return figure


def _density(angles: Float[np.ndarray, "n 2"], side: int) -> Float[np.ndarray, "k k"]:
    return histogram(angles, side) / len(angles) * side**2


def _lines(told: DihedralNumbers) -> list[str]:
    """What is written below a panel."""
    shares = [f"{basin} {share:.1%}" for basin, share in told.shares.items()]
    if told.distance is None:
        return [", ".join([f"n = {told.pairs:,}", *shares])]
    return [
        ", ".join([f"n = {told.pairs:,}", *shares]),
        f"JS distance {told.distance:.3f} (truth at this n: {told.sampling:.3f})",
    ]


def _draw_set(
    made: Look,
    axes: Axes,
    one: DihedralSet,
    density: Float[np.ndarray, "k k"],
    norm: Any,
    basins: Sequence[Basin],
) -> Any:
    image = axes.imshow(
        np.ma.masked_equal(density.T, 0), origin="lower", extent=(-180, 180, -180, 180), cmap=made.amounts(), norm=norm,
        interpolation="nearest",
    )  # fmt: skip
    for k, basin in enumerate(basins):
        _outline(made, axes, basin, made.colour(k + 1))
    axes.set_title(one.name)
    axes.grid(True, color=made.theme.grid, zorder=0)
    axes.set(xlim=(-180, 180), ylim=(-180, 180), aspect="auto")
    axes.set_xticks(range(-180, 181, 90))
    axes.set_yticks(range(-180, 181, 90))
    return image


def _outline(made: Look, axes: Axes, basin: Basin, colour: str) -> None:
    from matplotlib.patches import Rectangle

    (x, y), (dx, dy) = basin.centre, basin.half_width
    # What reaches across an edge comes in again at the other one.
    for turn_x in (-360, 0, 360):
        for turn_y in (-360, 0, 360):
            corner = (x - dx + turn_x, y - dy + turn_y)
            if (
                corner[0] < 180
                and corner[0] + 2 * dx > -180
                and corner[1] < 180
                and corner[1] + 2 * dy > -180
            ):
                axes.add_patch(
                    Rectangle(corner, 2 * dx, 2 * dy, fill=False, edgecolor=colour, linewidth=1.4, zorder=4)
                )
                middle = (basin.centre[0] + turn_x, basin.centre[1] + turn_y)
                if max(map(abs, middle)) < 180:
                    top = corner[1] + 2 * dy
                    above = top < 150  # else there is no room for its name but inside
                    axes.annotate(
                        basin.name, (max(corner[0], -180), top if above else min(top, 180)),
                        xytext=(2, 2 if above else -3), va="bottom" if above else "top",
                        textcoords="offset points", fontsize=8, color=colour, bbox=made.plate,
                    )  # fmt: skip
