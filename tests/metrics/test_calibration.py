import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifold_pl.metrics.calibration import (
    CalibrationMap,
    calibration_error,
    cross_calibrated,
    pool_adjacent_violators,
    reliability,
)

values = st.lists(st.floats(0, 1), min_size=1, max_size=40)


def calibrated_data(n=40_000, seed=0):
    """Confidences p and lDDTs drawn with mean p: beta distributed, as wide as those of samples."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.2, 0.95, n)
    return p, rng.beta(12 * p, 12 * (1 - p))


def test_a_calibrated_confidence_has_hardly_any_error_and_a_shuffled_one_has():
    p, y = calibrated_data()
    assert calibration_error(reliability(p, y)) < 0.005
    assert calibration_error(reliability(np.random.default_rng(1).permutation(p), y)) > 0.15


def test_the_table_is_worked_out_by_hand():
    table = reliability(np.array([0.02, 0.08, 0.55, 1.0]), np.array([0.0, 0.2, 0.5, 0.9]))
    assert [(round(one.low, 1), one.n) for one in table] == [(0.0, 2), (0.5, 1), (0.9, 1)]
    assert table[0].predicted == pytest.approx(0.05) and table[0].real == pytest.approx(0.1)
    assert calibration_error(table) == pytest.approx((2 * 0.05 + 0.05 + 0.1) / 4)
    assert math.isnan(calibration_error(reliability(np.zeros(0), np.zeros(0))))


@given(values)
def test_pooled_values_do_not_decrease_and_keep_their_mean(y):
    fitted = pool_adjacent_violators(np.array(y))
    assert (np.diff(fitted) >= 0).all()
    assert fitted.mean() == pytest.approx(np.mean(y), abs=1e-9)


@given(values)
def test_pooling_leaves_what_increases_as_it_is(y):
    ordered = np.sort(y)
    np.testing.assert_allclose(pool_adjacent_violators(ordered), ordered, atol=1e-12)
    fitted = pool_adjacent_violators(np.array(y))
    np.testing.assert_allclose(pool_adjacent_violators(fitted), fitted, atol=1e-12)


@given(values, st.data())
def test_no_other_increasing_sequence_is_nearer(y, data):
    w = np.array(data.draw(st.lists(st.floats(0.1, 5), min_size=len(y), max_size=len(y))))
    other = np.sort(data.draw(st.lists(st.floats(0, 1), min_size=len(y), max_size=len(y))))
    y = np.array(y)
    fitted = pool_adjacent_violators(y, w)
    assert (w * (y - fitted) ** 2).sum() <= (w * (y - other) ** 2).sum() + 1e-9


@given(values, st.data())
def test_a_map_never_turns_an_order_around(x, data):
    y = data.draw(st.lists(st.floats(0, 1), min_size=len(x), max_size=len(x)))
    found = CalibrationMap.fit(x, y, knots=7)
    grid = found(np.linspace(0, 1, 50))
    assert (np.diff(grid) >= -1e-12).all() and (grid >= 0).all() and (grid <= 1).all()


def test_a_map_undoes_a_monotone_distortion_on_chains_it_has_not_seen():
    p, y = calibrated_data()
    distorted = p**0.3  # far too sure
    groups = np.arange(len(p)) // 100
    raw = calibration_error(reliability(distorted, y))
    held_out = cross_calibrated(distorted, y, groups)
    assert raw > 0.1 and calibration_error(reliability(held_out, y)) < 0.02


def test_what_a_chain_is_calibrated_by_does_not_depend_on_its_own_values():
    p, y = calibrated_data(600)
    groups = np.arange(600) // 60
    found = cross_calibrated(p, y, groups)
    other = y.copy()
    other[groups == 3] = 1 - other[groups == 3]
    np.testing.assert_array_equal(cross_calibrated(p, other, groups)[groups == 3], found[groups == 3])
    assert not np.array_equal(cross_calibrated(p, other, groups), found)


def test_of_a_single_chain_nothing_is_cross_validated():
    assert cross_calibrated(np.array([0.1, 0.9]), np.array([0.2, 0.3]), np.zeros(2, dtype=int)) is None


def test_a_confidence_that_is_the_same_everywhere_becomes_the_mean():
    found = CalibrationMap.fit(np.full(50, 0.7), np.linspace(0, 1, 50))
    assert found.predicted == pytest.approx((0.7,)) and found([0.0, 0.7, 1.0]) == pytest.approx([0.5] * 3)


@pytest.mark.parametrize(
    ("predicted", "real"), [((0.2, 0.1), (0.1, 0.2)), ((0.1, 0.2), (0.2, 0.1)), ((), ()), ((0.1,), (1.2,))]
)
def test_a_map_that_is_none_is_refused(predicted, real):
    with pytest.raises(ValueError, match="calibration"):
        CalibrationMap(predicted=predicted, real=real)


@pytest.mark.parametrize("wrong", [math.nan, -0.1, 1.1])
def test_a_value_that_is_no_share_is_refused(wrong):
    with pytest.raises(ValueError, match="between 0 and 1"):
        reliability(np.array([wrong]), np.array([0.5]))
