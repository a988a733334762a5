"""Averaged weights."""

from __future__ import annotations

import pytest
import torch

from minifold_pl.callbacks.ema import EMA


@pytest.mark.parametrize(("warmup", "decays"), [(True, [2 / 11, 3 / 12, 4 / 13]), (False, [0.9, 0.9, 0.9])])
def test_the_average_follows_its_recurrence(warmup: bool, decays: list[float]) -> None:
    ema = EMA(decay=0.9, warmup=warmup)
    average, value = torch.zeros(3), 0.0
    for count, decay in enumerate(decays, start=1):
        current = torch.full((3,), float(count))
        ema._average([average], [current], count)
        value = decay * value + (1 - decay) * count
        torch.testing.assert_close(average, torch.full((3,), value))


def test_the_warmup_ends_at_the_decay() -> None:
    ema = EMA(decay=0.5)
    average = torch.zeros(1)
    ema._average([average], [torch.ones(1)], 1000)
    assert average.item() == pytest.approx(0.5)


def test_decay_0_switches_averaging_off() -> None:
    assert not EMA(decay=0).should_update(step_idx=3)
    assert EMA(decay=0.9).should_update(step_idx=3)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_an_impossible_decay_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay"):
        EMA(decay=decay)
