import math

import numpy as np
import pytest

from minifold_pl.metrics import bootstrap
from minifold_pl.metrics.bootstrap import bootstrap_interval


def test_interval_of_normal_values_is_that_of_their_standard_error():
    values = np.random.default_rng(0).normal(3.0, 2.0, 1000)
    interval = bootstrap_interval(values)
    half = 1.96 * values.std() / math.sqrt(1000)
    assert interval.n == 1000
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_95_percent_intervals_hold_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(1)
    inside = 0
    for k in range(300):
        interval = bootstrap_interval(rng.normal(size=60), seed=k, resamples=400)
        inside += interval.low <= 0 <= interval.high
    # 285 expected, standard deviation 3.8; the percentile interval is a little narrow at 60 values.
    assert 268 <= inside <= 297


def test_same_seed_repeats_and_another_differs():
    values = np.arange(20.0)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_wider_level_gives_a_wider_interval():
    values = np.arange(20.0)
    wide, narrow = bootstrap_interval(values, level=0.99), bootstrap_interval(values, level=0.5)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_one_value_has_a_mean_and_no_ends():
    interval = bootstrap_interval([0.4])
    assert (interval.mean, interval.n) == (0.4, 1)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_no_value_has_nothing():
    interval = bootstrap_interval([])
    assert interval.n == 0
    assert all(math.isnan(x) for x in interval[:3])


def test_undefined_values_are_left_out_and_not_counted():
    values = [0.1, float("nan"), 0.3, 0.8]
    assert bootstrap_interval(values) == bootstrap_interval([0.1, 0.3, 0.8])
    assert bootstrap_interval(values).n == 3


def test_drawing_in_parts_keeps_the_interval(monkeypatch):
    values = np.random.default_rng(2).random(50)
    whole = bootstrap_interval(values)
    monkeypatch.setattr(bootstrap, "_INDICES_AT_ONCE", 50 * 7)
    assert bootstrap_interval(values) == whole


@pytest.mark.parametrize("wrong", [{"level": 1.0}, {"level": 95}, {"resamples": 0}])
def test_impossible_settings_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        bootstrap_interval([1.0, 2.0], **wrong)
