"""What both stages share: optimizer, schedule, logging, and what a checkpoint says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

import minifold_pl
from minifold_pl.constants import AMINO_ACIDS, CLS, EOS, FIRST_RESIDUE, NO_LABEL
from minifold_pl.diffusion.draws import keyed_generator
from minifold_pl.modules.epoch_means import EpochMeans
from minifold_pl.modules.init_from import NOWHERE, InitFrom, Initialisation, read_unchanged
from minifold_pl.modules.optim import (
    LRSchedule,
    OptimizerConfig,
    build_optimizer,
    build_scheduler,
    check_groups,
    group_rates,
    take_rates,
)
from minifold_pl.modules.ranks import from_all_ranks
from minifold_pl.nn.encoder import StructureEncoder
from minifold_pl.types import Coordinates, ProteinBatch

CHECKPOINT_KEY = "minifold_pl"
"""Where a checkpoint keeps what rebuilds its module: plain values only."""
CHECKPOINT_FORMAT = 1


class MinifoldModule(pl.LightningModule):
    """Base of the two stages.

    Args:
        optimizer: AdamW and its learning-rate groups.
        schedule: Learning rate over the epochs.
        seed: Seed of every random draw in training and validation.
        init_from: The checkpoint whose weights a new run begins with.
    """

    stage: ClassVar[str]
    """``contact`` or ``diffusion``."""
    own_rates: Mapping[str, float] = {}  # a Mapping: nobody changes it
    """Parts, as name prefixes, with a learning rate of their own that no schedule moves."""
    needs: Coordinates = "ca"
    """Chains of which less is known are left out of its data."""

    def __init__(
        self, *, optimizer: OptimizerConfig, schedule: LRSchedule, seed: int, init_from: InitFrom = NOWHERE
    ) -> None:
        super().__init__()
        self.optimizer_config = optimizer
        self.schedule_config = schedule
        self.seed = seed
        self.init_from = init_from
        self._restored = False
        """The weights are those of a checkpoint of this very model."""
        self.initialised: dict[str, Any] = {}
        """Where the weights that training began with came from, and what came over; empty for random ones."""
        self.model_config: dict[str, Any] = {}
        """The ``model`` section of the config that built this module; set by the command line."""
        self.architecture_labels: tuple[str, ...] = ()
        """CATH architectures of the training split, in the order of their indices."""
        self.epoch_means = EpochMeans()
        """What training steps and callbacks report as means over the training epoch; saved with the state."""

        self.evaluation_means = EpochMeans()
        """What this rank's batches of a validation or test report; logged over all ranks at its end."""

    # --- the seam for describe, profile and diagnose ---------------------------------------------

    def losses(self, batch: ProteinBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The total of a training step and its raw terms, for ``batch`` at epoch 1, without side effects."""
        raise NotImplementedError

    @property
    def max_residues(self) -> int | None:
        """The longest chain that the model can read, or None."""
        return None

    def example_batch(self, batch_size: int, length: int) -> ProteinBatch:
        """A well-formed batch of extended chains on the module's device, for shapes and costs."""
        device = self.device
        residues = torch.arange(length, device=device) % len(AMINO_ACIDS) + FIRST_RESIDUE
        ends = torch.tensor([CLS, EOS], device=device)
        tokens = torch.cat([ends[:1], residues, ends[1:]]).expand(batch_size, -1).contiguous()
        place = torch.arange(length, device=device, dtype=torch.float32)
        zigzag = 0.9 * (-1.0) ** place
        ca = torch.stack([3.31 * place, zigzag, zigzag.roll(1)], dim=-1)
        offsets = torch.tensor(
            [[-1.46, 0.0, 0.0], [0.0, 0.0, 0.0], [0.55, 1.42, 0.0], [0.1, 2.4, 0.6]], device=device
        )
        coords = (ca[:, None] + offsets).expand(batch_size, -1, -1, -1).contiguous()
        everywhere = torch.ones(batch_size, length, dtype=torch.bool, device=device)
        bonded = everywhere.clone()
        bonded[:, -1] = False
        missing = torch.full((batch_size,), NO_LABEL, device=device)
        return ProteinBatch(
            names=tuple(f"example-{i}" for i in range(batch_size)),
            tokens=tokens,
            residue_mask=everywhere,
            coords=coords,
            atom_mask=everywhere[..., None].expand(-1, -1, 4).contiguous(),
            bonded=bonded,
            residue_index=torch.arange(length, device=device).expand(batch_size, -1).contiguous(),
            cath_class=missing,
            cath_architecture=missing.clone(),
        )

    # --- optimisation ----------------------------------------------------------------------------

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]  # a dict is one of its forms
        """The optimizer in the configured groups, with the configured schedule."""
        optimizer = build_optimizer(self, self.optimizer_config)
        return {
            "optimizer": optimizer,
            "lr_scheduler": build_scheduler(optimizer, self.schedule_config, self._steps_per_epoch()),
        }

    def _steps_per_epoch(self) -> int:
        # Asking for the estimate makes the trainer set up its data loaders.
        _ = self.trainer.estimated_stepping_batches
        batches = self.trainer.num_training_batches
        if batches == float("inf"):
            raise ValueError("the training data must have a known number of batches")
        return max(1, ceil(batches / self.trainer.accumulate_grad_batches))

    def on_train_start(self) -> None:
        """Train with the config's rates, also where the state that was read brought those of an earlier one."""
        optimizer, scheduler = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        if isinstance(optimizer, torch.optim.Optimizer) and isinstance(scheduler, LambdaLR):
            configured = build_optimizer(self, self.optimizer_config)
            take_rates(optimizer, scheduler, configured)

    # --- randomness ------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: ProteinBatch, batch_idx: int) -> None:
        """Dropout depends on seed, epoch and place alone: a resumed run is the run that was never stopped."""
        key = keyed_generator(self.seed, "dropout", self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(key.initial_seed())

    # --- logging ---------------------------------------------------------------------------------

    def log_losses(
        self,
        prefix: str,
        total: Tensor,
        terms: Mapping[str, Tensor],
        weights: Mapping[str, float],
        batch_size: int,
    ) -> None:
        """Report the total and every term, raw and weighted, as means over the epoch.

        Names are ``{prefix}/{term}`` and ``{prefix}_weighted/{term}``, so nothing that enters the total can
        go unseen.
        """
        values: dict[str, Tensor] = {f"{prefix}/total": total.detach()}
        for name, term in terms.items():
            values[f"{prefix}/{name}"] = term.detach()
            values[f"{prefix}_weighted/{name}"] = weights[name] * term.detach()
        means = self.epoch_means if self.trainer.training else self.evaluation_means
        means.add(values, batch_size)

    def log_crops(self, batch: ProteinBatch) -> None:
        """Report how many of the epoch's chains were pieces, and what the cuts cost.

        ``data/crop_share`` is a share of chains, ``data/contacts_cut`` a mean over the chains, 0 of whole ones.
        """
        if batch.cropped is not None and batch.contacts_cut is not None:
            values = {
                "data/crop_share": batch.cropped.float().mean(),
                "data/contacts_cut": batch.contacts_cut.mean(),
            }
            self.epoch_means.add(values, len(batch))

    def log_epoch_means(self) -> None:
        """Log what :attr:`epoch_means` holds, over all ranks, and begin anew; all ranks call it together."""
        if self.epoch_means and (means := self._means_of_all_ranks(self.epoch_means)):
            # All ranks have the same: to synchronise them later would wait for those that do not ask for them.
            self.log_dict(means, logger=False, sync_dist=False)
            self.log_now(means, self.trainer.fit_loop.epoch_loop._batches_that_stepped - 1)

    def _means_of_all_ranks(self, sums: EpochMeans) -> dict[str, float]:
        """The means of what all ranks have added, the same on each; ``sums`` is empty then."""
        if self._trainer is not None and self._trainer.world_size > 1:
            parts = from_all_ranks(self._trainer.world_size, sums.state_dict())
            sums.reset()
            for part in parts:
                sums.merge(part)
        means = sums.means()
        sums.reset()
        return means

    def on_validation_epoch_start(self) -> None:
        """Forget a validation that was cut off."""
        self.evaluation_means.reset()

    def on_test_epoch_start(self) -> None:
        """As in validation."""
        self.evaluation_means.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the means of the validation."""
        self._log_evaluation_means()

    def on_test_epoch_end(self) -> None:
        """As in validation."""
        self._log_evaluation_means()

    def _log_evaluation_means(self) -> None:
        # Not by Lightning, whose mean over ranks cuts fractions off the number of chains where it is an integer. Also
        # where this rank has counted nothing: the others wait for it.
        self.log_dict(self._means_of_all_ranks(self.evaluation_means), sync_dist=False)

    def counts(self, batch_idx: int) -> bool:
        """Whether this batch of the validation or test enters its means.

        Where the batches do not divide among the ranks, some are repeated, so that all ranks have as many; each
        chain counts once.
        """
        trainer = self._trainer
        if trainer is None:
            return True
        loader = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
        repeats = getattr(getattr(loader, "batch_sampler", None), "repeats", None)
        return repeats is None or not repeats(batch_idx)

    def log_now(self, values: Mapping[str, float], step: int) -> None:
        """Write to the loggers at once.

        What is given to ``self.log`` reaches them after the hooks in which checkpoints are made: a run that is
        killed in between and resumed would never write it.
        """
        for logger in self.trainer.loggers:
            logger.log_metrics({**values, "epoch": self.current_epoch}, step=step)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means, unless a callback that shows them has done so."""
        self.log_epoch_means()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log each group's learning rate as it is used."""
        step = self.trainer.global_step
        if step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]  # set by Lightning's connector
            self.log_now({f"lr/{name}": lr for name, lr in group_rates(optimizer).items()}, step)

    # --- labels and checkpoints ------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Take over the training split's label set."""
        data = getattr(self.trainer, "datamodule", None)
        labels = tuple(getattr(data, "architectures", ()))
        if labels and not self.architecture_labels:
            self.architecture_labels = labels
        if (store := getattr(data, "path", None)) is not None:
            self.use_store(store)

    def use_store(self, path: Path) -> None:
        """Tell the encoder which store the chains come from: one that keeps what it computes keeps it there."""
        for part in self.children():
            if isinstance(part, StructureEncoder):
                part.use_store(path)

    def on_fit_start(self) -> None:
        """Take the weights that training is to begin with, where it begins."""
        # Not in setup, where Lightning has not yet told anybody whether there is a checkpoint to go on from.
        if not self._restored:
            self.begin_weights()

    def begin_weights(self) -> None:
        """Read what the config says to begin with; a run that goes on has its weights from its own checkpoint."""
        if self.init_from.ckpt is not None:
            self.initialise(Path(self.init_from.ckpt).expanduser())

    def initialise(self, path: Path) -> None:
        """Begin with the weights of a checkpoint, taken over as ``init_from`` says, and print what came over.

        Raises:
            ValueError: The checkpoint is missing, damaged, of the other stage, or does not match as was asked for.
        """
        checkpoint, digest = read_unchanged(path)
        about = check_stage(checkpoint, self.stage, f"init_from {path}")
        weights = Initialisation(self, checkpoint, self.init_from, self.taken_elsewhere(about))
        rank_zero_only(print)(weights.text(digest), flush=True)
        weights.check()
        weights.apply()
        self.initialised = weights.origin(digest)

    def taken_elsewhere(self, about: Mapping[str, Any]) -> Mapping[str, str]:
        """Parts, as name prefixes, that do not come from ``init_from``, and why.

        Args:
            about: What its checkpoint says about itself.
        """
        return {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the checkpoint is and how to build its module, and keep the epoch's sums so far."""
        world_size = 1 if self._trainer is None else self._trainer.world_size
        sums = from_all_ranks(world_size, self.epoch_means.state_dict())
        checkpoint[CHECKPOINT_KEY] = {
            "format": CHECKPOINT_FORMAT,
            "stage": self.stage,
            "version": minifold_pl.__version__,
            "model_config": self.model_config,
            "architectures": list(self.architecture_labels),
            "epoch_means": sums,
            "initialised": self.initialised,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of the other stage.

        Raises:
            ValueError: The checkpoint is of another stage or another program, or training is to go on with an optimizer
                whose groups are others.
        """
        check_stage(checkpoint, self.stage, "this checkpoint")
        if self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING:
            for state in checkpoint.get("optimizer_states", []):
                check_groups(state, self, self.optimizer_config)
        self.architecture_labels = tuple(checkpoint[CHECKPOINT_KEY]["architectures"])
        self._restored = True
        self.initialised = dict(checkpoint[CHECKPOINT_KEY].get("initialised") or {})
        self._take_sums(checkpoint[CHECKPOINT_KEY].get("epoch_means", []))

    def _take_sums(self, sums: list[dict[str, Any]]) -> None:
        self.epoch_means.reset()
        trainer = self._trainer
        ranks, rank = (1, 0) if trainer is None else (trainer.world_size, trainer.global_rank)
        # With another number of ranks than before the sums of all are still the epoch's.
        for place, part in enumerate(sums):
            if place % ranks == rank:
                self.epoch_means.merge(part)


def check_stage(checkpoint: Mapping[str, Any], stage: str | None, name: str) -> Mapping[str, Any]:
    """What a checkpoint says about itself.

    Raises:
        ValueError: ``name`` is no checkpoint of this program, has a newer format, or is of another stage.
    """
    about = checkpoint.get(CHECKPOINT_KEY)
    if not isinstance(about, Mapping) or not isinstance(about.get("stage"), str):
        raise ValueError(f"{name} was not written by minifold-pl: it has no {CHECKPOINT_KEY!r} entry")
    written = about.get("format", 0)
    if not isinstance(written, int) or written > CHECKPOINT_FORMAT:
        raise ValueError(
            f"{name} has format {str(written)[:20]}, this version reads up to {CHECKPOINT_FORMAT}: update minifold-pl"
        )
    if stage is not None and about["stage"] != stage:
        raise ValueError(f"{name} is a {about['stage']} checkpoint where a {stage} checkpoint is needed")
    return about
