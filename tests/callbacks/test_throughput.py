"""How fast training goes, by a clock that the test moves."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from minifold_pl.callbacks.throughput import Throughput


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("minifold_pl.callbacks.throughput.perf_counter", clock)
    return clock


def _epoch(clock: Clock, batch: object, world_size: int = 1) -> dict[str, float]:
    """Two batches and two steps: 1 s of waiting and 3 s of work each, 50 s of validation after the first."""
    values: dict[str, float] = {}
    trainer = SimpleNamespace(global_step=7, world_size=world_size)
    module = SimpleNamespace(log_dict=values.update)
    callback = Throughput()
    callback.on_train_start(trainer, module)
    clock.now += 30  # before the epoch: counted nowhere
    callback.on_train_epoch_start(trainer, module)
    for index in range(2):
        clock.now += 1
        callback.on_train_batch_start(trainer, module, batch, index)
        clock.now += 3
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, module, None, batch, index)
        if index == 0:
            clock.now += 50
            callback.on_validation_end(trainer, module)
    callback.on_train_epoch_end(trainer, module)
    return values


def test_validation_is_not_counted_and_waiting_for_data_is(clock, batch) -> None:
    values = _epoch(clock, batch)
    assert values["perf/steps_per_s"] == pytest.approx(2 / 8)
    assert values["perf/data_wait_share"] == pytest.approx(2 / 8)
    assert values["perf/residues_per_s"] == pytest.approx(2 * int(batch.lengths.sum()) / 8)


def test_the_padding_share_is_the_share_of_places_without_a_residue(clock, batch) -> None:
    share = 1 - batch.residue_mask.float().mean().item()
    assert _epoch(clock, batch)["perf/padding_share"] == pytest.approx(share)
    assert 0 < share < 1


def test_residues_are_those_of_all_ranks(clock, batch) -> None:
    one, four = _epoch(clock, batch), _epoch(clock, batch, world_size=4)
    assert four["perf/residues_per_s"] == pytest.approx(4 * one["perf/residues_per_s"])
    assert four["perf/steps_per_s"] == one["perf/steps_per_s"]


def test_another_kind_of_batch_has_a_speed_but_no_padding(clock) -> None:
    values = _epoch(clock, torch.zeros(2))
    assert "perf/padding_share" not in values
    assert values["perf/steps_per_s"] > 0
