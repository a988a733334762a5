"""Training ends where the run folder is somebody else's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import pytest

from minifold_pl.callbacks.lease_keeper import LeaseKeeper
from minifold_pl.run.events import append_event, read_events
from minifold_pl.run.fence import LeaseGone
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.lease import acquire


class _Ends(pl.Callback):
    """Takes the folder away after a batch, as a successor would, and notes every event's place."""

    def __init__(self, folder: RunFolder, after: int | None) -> None:
        self.folder = folder
        self.after = after
        self.batches = 0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        self.batches += 1
        append_event(self.folder.events, "batch")
        if self.batches == self.after:
            shutil.rmtree(self.folder.lease)
            # what the heartbeat does every two seconds
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, LeaseKeeper):
                    callback.lease._look()


def test_training_ends_before_the_next_batch_once_the_folder_is_lost(
    tiny, make_trainer, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    with acquire(folder) as lease:
        ends = _Ends(folder, after=2)
        trainer = make_trainer(LeaseKeeper(lease), ends, max_epochs=1)
        with pytest.raises(LeaseGone):
            trainer.fit(tiny)
    assert ends.batches == 2


def test_events_say_where_training_stands_and_only_while_it_does(
    tiny, make_trainer: Callable[..., pl.Trainer], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    with acquire(folder) as lease:
        append_event(folder.events, "before")
        make_trainer(LeaseKeeper(lease), _Ends(folder, None), max_epochs=2).fit(tiny)
        append_event(folder.events, "after")
    events = list(read_events(folder.events))
    assert [(e.get("attempt"), e.get("epoch"), e.get("step")) for e in events] == [
        (1, None, None),
        *[(1, step // 3, step + 1) for step in range(6)],
        (1, None, None),
    ]
