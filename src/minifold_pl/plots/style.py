"""The look of every figure: sizes, type, and colours that a colour-blind reader tells apart, light and dark."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ThemeName = Literal["light", "dark"]
PictureKind = Literal["png", "svg", "pdf"]
PICTURES: Final = ("png", "svg", "pdf")


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of one background."""

    name: ThemeName
    background: str
    text: str
    muted: str
    """Axes, ticks, and what is said beside the matter; 4.5:1 on the background at least."""
    grid: str
    colours: tuple[str, ...]
    """For curves and classes: Okabe & Ito 2008 in an order in which neighbours differ in lightness, too."""
    sequential: str
    """Colour map for amounts, from the background's side on."""
    diverging: str
    """Colour map for −1 … 1."""
    other: str
    """What belongs to no class of its own."""


_LIGHT = Theme(
    name="light",
    background="#ffffff",
    text="#1a1a1a",
    muted="#5a5f66",
    grid="#e3e5e8",
    colours=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d1f"),
    sequential="Blues",
    diverging="RdBu_r",
    other="#b5b9bf",
)
_DARK = Theme(
    name="dark",
    background="#14171c",
    text="#eceff3",
    muted="#a3abb5",
    grid="#2c323b",
    colours=("#56b4e9", "#ff8b3d", "#2bc59b", "#e59fc6", "#f0e442", "#3f8fd0", "#ffffff", "#c9a94b"),
    sequential="cividis",
    diverging="RdBu_r",
    other="#59616c",
)
THEMES: Final[dict[ThemeName, Theme]] = {"light": _LIGHT, "dark": _DARK}

LINES: Final = ("-", "--", ":", "-.")
"""Where colours run out, or a curve belongs to another."""
LETTERS: Final = 44
"""Of a name in a title, beside which there is room for a legend."""
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")

_TYPE: Final[dict[str, Any]] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "lines.linewidth": 1.6,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.linewidth": 0.6,
    "legend.frameon": True,
    "legend.framealpha": 0.8,
    "legend.edgecolor": "none",
    "svg.fonttype": "none",
    "savefig.facecolor": "auto",
}


@dataclass
class Look:
    """Makes the figures of one :func:`look`."""

    theme: Theme
    _figures: list[Figure] = field(default_factory=list)

    def figure(self, width: float, height: float, title: str = "", about: str = "") -> Figure:
        """An empty figure of so many inches, laid out without overlaps; ``about`` stands small below the title."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(width, height), layout="constrained")
        if title:
            # The empty line keeps room for what stands below the title.
            figure.suptitle(title + "\n" * bool(about), x=0.01, ha="left", color=self.theme.text)
        if about:
            figure.text(
                0.01, 1 - 0.32 / height, about, ha="left", va="top", fontsize=8, color=self.theme.muted
            )
        self._figures.append(figure)
        return figure

    def colour(self, place: int) -> str:
        """Of the curve or class at ``place``; they come round again."""
        return self.theme.colours[place % len(self.theme.colours)]

    def amounts(self) -> Any:
        """The map of amounts from a colour on that the background is not; what is masked is the background."""
        import matplotlib
        from matplotlib.colors import ListedColormap

        shades = matplotlib.colormaps[self.theme.sequential](np.linspace(0.18, 1.0, 256))
        return ListedColormap(shades).with_extremes(bad=self.theme.background)

    @property
    def plate(self) -> dict[str, Any]:
        """``bbox`` of text that lies over curves."""
        return {"facecolor": self.theme.background, "edgecolor": "none", "alpha": 0.8, "pad": 1.0}

    def say(self, axes: Axes, text: str) -> None:
        """Write into axes that have nothing to show why that is."""
        axes.text(
            0.5,
            0.5,
            text,
            transform=axes.transAxes,
            ha="center",
            va="center",
            color=self.theme.muted,
            wrap=True,
        )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(False)


def shortened(name: str, letters: int) -> str:
    """``name`` in so many letters, without its middle: names of runs often differ at their ends."""
    if len(name) <= letters:
        return name
    head = (letters - 1) // 2
    return f"{name[:head]}…{name[len(name) - (letters - 1 - head) :]}"


@contextmanager
def look(theme: ThemeName) -> Iterator[Look]:
    """Figures made inside have the look of ``theme``, for good.

    Raises:
        ValueError: There is no such theme.
    """
    if theme not in THEMES:
        raise ValueError(f"theme {theme!r} is none of {', '.join(THEMES)}")
    import matplotlib

    chosen = THEMES[theme]
    settings: Any = {**_TYPE, **_colours(chosen)}
    with matplotlib.rc_context(settings):
        made = Look(chosen)
        yield made
    for figure in made._figures:
        for axes in figure.axes:
            # Ticks are made when a figure is first drawn, when the settings above are gone.
            axes.tick_params(which="both", color=chosen.muted, labelcolor=chosen.muted, labelsize=8)


def picture(figure: Figure, kind: PictureKind = "png", *, dpi: int = 150) -> bytes:
    """The figure as a file's content; SVG without date, and text as text.

    Raises:
        ValueError: ``kind`` is none of :data:`PICTURES`.
    """
    if kind not in PICTURES:
        raise ValueError(f"picture {kind!r} is none of {', '.join(PICTURES)}")
    import matplotlib

    out = io.BytesIO()
    dated: dict[str, Any] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    # The salt makes the names inside an SVG, else random, the same each time.
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "minifold-pl"}),
        warnings.catch_warnings(),
    ):
        # A name from the data may have letters that the font lacks: a box stands for each.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(out, format=kind, dpi=dpi, metadata=dated[kind])
    return out.getvalue()


def _colours(theme: Theme) -> dict[str, Any]:
    from cycler import cycler

    return {
        "figure.facecolor": theme.background,
        "axes.facecolor": theme.background,
        "axes.edgecolor": theme.muted,
        "axes.labelcolor": theme.text,
        "axes.titlecolor": theme.text,
        "text.color": theme.text,
        "legend.labelcolor": theme.text,
        "legend.facecolor": theme.background,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "grid.color": theme.grid,
        "axes.prop_cycle": cycler(color=theme.colours),
    }
