"""Tell which records of the store are damaged, and stop when they are too many."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from minifold_pl.callbacks.guard_events import record, sum_over_ranks
from minifold_pl.data.datamodule import ProteinDataModule
from minifold_pl.data.quarantine import Quarantine
from minifold_pl.modules.ranks import from_all_ranks
from minifold_pl.run.halt import RunHalted


class RecordQuarantine(pl.Callback):
    """Report damaged records, for each of which the data take another chain of like length.

    A record is damaged when its checksum is wrong, a coordinate is infinite or absurd, no Cα is observed or a token
    stands for no residue. What takes its place is a function of the store, the seed and the epoch (see
    :class:`~minifold_pl.data.quarantine.Quarantine`), so that a resumed run sees what the undisturbed one saw.

    Each is an event ``record_quarantined`` with name and reason, and ``perf/quarantined_records`` counts them (with
    workers they are met ahead of the step, so the count is no function of it).

    .. code-block:: yaml

        quarantine: {budget: 0.001}

    Args:
        budget: Share of a split's chains that may be damaged, though always one chain; more halt the run.
    """

    def __init__(self, budget: float = 0.001) -> None:
        if not 0 <= budget <= 1:
            raise ValueError(f"budget is a share of the chains, between 0 and 1; got {budget}")
        self.budget = budget
        self._told: dict[str, set[str]] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin anew: a run that is started again tells again what it meets."""
        self._told = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look, once an optimizer step."""
        if not trainer.fit_loop.epoch_loop._should_accumulate():
            self._look(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look."""
        if trainer.state.fn == "fit":
            self._look(trainer)

    def _look(self, trainer: pl.Trainer) -> None:
        splits = _quarantines(trainer)
        new = sum(quarantine.found() - len(self._told.get(split, ())) for split, quarantine in splits.items())
        if not sum_over_ranks(trainer, [float(new)])[0]:
            return
        for split, quarantine in splits.items():
            mine = quarantine.damaged()
            told = self._told.setdefault(split, set())
            found = {
                name: why for rank in from_all_ranks(trainer.world_size, mine) for name, why in rank.items()
            }
            for name in sorted(found.keys() - told):
                self._tell(trainer, split, name, found[name], len(told) + 1)
                told.add(name)
            allowed = max(1, int(self.budget * len(quarantine.chains)))
            if len(told) > allowed:
                shown = "; ".join(f"{name}: {found[name]}" for name in sorted(found)[:5])
                raise RunHalted(
                    f"{len(told)} of {len(quarantine.chains)} {split} chains of {quarantine.store.path} are damaged, "
                    f"quarantine.budget allows {allowed} ({shown}). Make the store again: `minifold-pl data prepare`"
                )

    def _tell(self, trainer: pl.Trainer, split: str, name: str, why: str, count: int) -> None:
        record(
            trainer,
            "record_quarantined",
            step=trainer.global_step,
            values={"perf/quarantined_records": float(count)},
            name=name,
            split=split,
            reason=why,
        )


def _quarantines(trainer: pl.Trainer) -> dict[str, Quarantine]:
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, ProteinDataModule):
        return {}
    chains = {"train": data.train_chains, "validation": data.validation_chains}
    return {split: c.quarantine for split, c in chains.items() if c.quarantine is not None}
