import numpy as np
import pytest

pytest.importorskip("matplotlib")

from minifold_pl.metrics.calibration import ReliabilityBin
from minifold_pl.plots.reliability import ReliabilitySet, reliability_figure
from minifold_pl.plots.style import THEMES, picture

TABLE = (
    ReliabilityBin(0.2, 0.3, 0.25, 0.4, 600),
    ReliabilityBin(0.3, 0.4, 0.36, 0.5, 399),
    ReliabilityBin(0.9, 1.0, 0.95, 0.1, 1),
)


def _set(name="raw"):
    return ReliabilitySet(name=name, table=TABLE, calibration_error=0.1234, mean_absolute_error=0.0567)


def test_points_and_bars_are_those_of_the_table_and_the_numbers_stand_in_the_legend():
    figure = reliability_figure([_set()], about="54 chains")
    axes, below = figure.axes
    diagonal, curve, *points = axes.lines
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    np.testing.assert_allclose(curve.get_xdata(), [0.25, 0.36, 0.95])
    np.testing.assert_allclose(curve.get_ydata(), [0.4, 0.5, 0.1])
    sure, few = points
    assert len(sure.get_xdata()) == 2 and len(few.get_xdata()) == 1 and few.get_alpha() < 1
    np.testing.assert_allclose([bar.get_height() for bar in below.patches], [0.6, 0.399, 0.001])
    told = [text.get_text() for text in axes.get_legend().get_texts()]
    assert told[1] == "raw: calibration error 0.123, mean absolute error 0.057"


@pytest.mark.parametrize("theme", list(THEMES))
def test_two_tables_stand_side_by_side_in_either_theme(theme):
    figure = reliability_figure([_set(), _set("calibrated")], theme=theme)
    places = sorted(round(bar.get_x(), 6) for bar in figure.axes[1].patches)
    assert len(places) == len(set(places)) == 6
    assert picture(figure, "svg").startswith(b"<?xml")


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="no reliability"):
        reliability_figure([])
    with pytest.raises(ValueError, match="raw"):
        reliability_figure([ReliabilitySet(name="raw", table=(), calibration_error=0, mean_absolute_error=0)])
