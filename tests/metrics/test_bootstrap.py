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


def test_values_of_one_group_count_as_one() -> None:
    """Nine groups of forty like values: the interval is that of nine values, not of 360."""
    rng = np.random.default_rng(3)
    centres = rng.normal(size=9)
    values = np.repeat(centres, 40) + 0.001 * rng.normal(size=360)
    groups = [f"g{k // 40}" for k in range(360)]
    grouped, alone = bootstrap_interval(values, groups=groups), bootstrap_interval(centres)
    assert grouped.n == 360 and grouped.mean == pytest.approx(values.mean())
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.05)
    assert grouped.high - grouped.low > 4 * np.ptp(bootstrap_interval(values)[1:3])


def test_groups_of_one_value_each_are_the_plain_interval_and_unequal_ones_keep_the_mean() -> None:
    values = [1.0, 2.0, 4.0, math.nan, 9.0]
    assert bootstrap_interval(values, groups=list("abcde")) == bootstrap_interval(values)
    unequal = bootstrap_interval(values, groups=["a", "a", "a", "b", "b"])
    assert unequal.mean == 4.0 and unequal.n == 4
    assert (unequal.low, unequal.high) == (pytest.approx(7 / 3), 9.0)
    one = bootstrap_interval(values, groups=["a"] * 5)
    assert one.mean == 4.0 and math.isnan(one.low)


def test_labels_must_be_as_many_as_values() -> None:
    with pytest.raises(ValueError, match="2 labels of 3 values"):
        bootstrap_interval([1.0, 2.0, 3.0], groups=["a", "b"])
