"""The words of the training table, and when training ends."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from minifold_pl.callbacks.patience import Patience


def _validated(patience: Patience, values: list[float]) -> list[str]:
    said = []
    for step, value in enumerate(values):
        trainer = SimpleNamespace(
            callback_metrics={"val/total": torch.tensor(value)}, fast_dev_run=False, should_stop=False,
            current_epoch=step, global_step=step + 1, loggers=[], sanity_checking=False,
            strategy=SimpleNamespace(reduce_boolean_decision=lambda stop, all: stop),
            state=SimpleNamespace(fn="fit"),
        )  # fmt: skip
        patience._should_skip_check = lambda _: False
        patience.on_validation_end(trainer, SimpleNamespace())
        said.append(patience.status + (" stop" if trainer.should_stop else ""))
    return said


def test_it_says_new_best_counts_and_stops() -> None:
    patience = Patience(patience=2)
    assert patience.status == ""
    assert _validated(patience, [3.0, 2.0, 2.5, 1.9, 2.0, 2.1]) == [
        "NEW BEST", "NEW BEST", "pat 1", "NEW BEST", "pat 1", "pat 2 stop",
    ]  # fmt: skip


def test_its_count_survives_a_resume() -> None:
    first, second = Patience(patience=2), Patience(patience=2)
    _validated(first, [1.0, 1.5])
    second.load_state_dict(first.state_dict())
    assert _validated(second, [1.4]) == ["pat 2 stop"]
