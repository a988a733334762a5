"""Averaged weights."""

from __future__ import annotations

import pytest
import torch

from minifold_pl.callbacks.checkpoints import ResumeCheckpoint
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


def test_validation_sees_the_average_and_training_goes_on_with_the_raw_weight(tiny, make_trainer) -> None:
    """The weight is 0, -1, -2 …; without warm-up the average halves its distance to it after each step."""
    make_trainer(EMA(decay=0.5, warmup=False), max_epochs=2).fit(tiny)
    average, seen = -1.0, []  # the first update is a copy
    for step in range(2, 7):
        average = 0.5 * average - 0.5 * step
        if step in (3, 6):
            seen.append(average)
    assert tiny.seen_in_validation == pytest.approx(seen)
    assert tiny.weight.item() == pytest.approx(seen[-1])  # left in place at the end


def test_a_checkpoint_holds_both_and_a_resumed_average_goes_on(tiny, make_trainer, tmp_path) -> None:
    make_trainer(EMA(decay=0.5, warmup=False), ResumeCheckpoint(keep_last=-1), max_epochs=2).fit(tiny)
    first = tmp_path / "checkpoints" / "resume-00000003.ckpt"
    content = torch.load(first, weights_only=True)
    assert content["current_model_state"]["weight"].item() == -3.0
    assert content["state_dict"]["weight"].item() == pytest.approx(tiny.seen_in_validation[0])
    second = type(tiny)()
    make_trainer(EMA(decay=0.5, warmup=False), max_epochs=2).fit(
        second, ckpt_path=str(first), weights_only=True
    )
    assert second.seen_in_validation == pytest.approx(tiny.seen_in_validation[1:])


def test_without_averaging_a_checkpoint_has_one_set_of_weights(tiny, make_trainer, tmp_path) -> None:
    make_trainer(EMA(decay=0), ResumeCheckpoint(), max_epochs=1).fit(tiny)
    content = torch.load(tmp_path / "checkpoints" / "resume-00000003.ckpt", weights_only=True)
    assert "current_model_state" not in content
    assert content["state_dict"]["weight"].item() == tiny.seen_in_validation[0] == -3.0
