"""Means over an epoch, what they were, and what they must not take in."""

from __future__ import annotations

import pytest
import torch

from minifold_pl.modules.epoch_means import EpochMeans


def test_a_mean_weighs_its_values_and_forgets_them_on_reset() -> None:
    means = EpochMeans()
    means.add({"a": torch.tensor(1.0), "b": 3.0}, weight=1)
    means.add({"a": torch.tensor(4.0), "b": 3.0}, weight=2)
    assert means.means() == {"a": pytest.approx(3.0), "b": 3.0}
    means.reset()
    assert not means


def test_what_a_bad_batch_added_can_be_taken_back_and_named() -> None:
    means = EpochMeans()
    means.add({"a": 1.0, "b": 2.0})
    before = means.copy()
    means.add({"a": float("nan"), "b": 2.0})
    means.add({"c": float("inf")})
    assert means.nonfinite() == ["a", "c"]
    assert before.means() == {"a": 1.0, "b": 2.0}  # a copy does not move with the original
    means.take(before)
    assert means.nonfinite() == []
    means.add({"a": 3.0, "b": 2.0})
    assert means.means() == {"a": 2.0, "b": 2.0}


def test_saved_sums_go_on_exactly() -> None:
    whole, first, second = EpochMeans(), EpochMeans(), EpochMeans()
    values = torch.randn(9, generator=torch.Generator().manual_seed(0))
    for i, value in enumerate(values):
        whole.add({"a": value}, weight=i + 1)
        (first if i < 4 else second).add({"a": value}, weight=i + 1)
        if i == 3:
            second.load_state_dict(first.state_dict())
    assert second.state_dict() == whole.state_dict()
