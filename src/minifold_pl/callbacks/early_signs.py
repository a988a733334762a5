"""Stop a run that cannot learn after minutes, with the reason."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, Final, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info

from minifold_pl.callbacks import early_checks, early_wiring
from minifold_pl.callbacks.ddim_scores import choose_chains
from minifold_pl.callbacks.early_checks import EarlyLimits, Finding
from minifold_pl.callbacks.guard_events import record
from minifold_pl.data.collate import collate
from minifold_pl.data.dataset import ChainDataset, ChainItem
from minifold_pl.data.store_format import StoreError
from minifold_pl.diffusion.draws import keyed_generator
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.ranks import from_all_ranks
from minifold_pl.run.halt import RunHalted
from minifold_pl.types import ProteinBatch

_SHORT: Final = 128
"""Residues. Chains up to here are taken where there are enough: the checks cost seconds then."""
_GRADIENT_CHAINS: Final = 2
_LIMITS = EarlyLimits()


class EarlySigns(pl.Callback):
    """Ask a model that has just begun to train the cheap questions that one which cannot learn fails.

    Before the first step: does the denoiser turn along with the chain, where it claims to; does the sampler reach the
    truth with a denoiser that knows it; are the losses finite; do they reach every part of the model. Then, on the same
    training chains with the same noise each time:

    - from ``first`` steps on: has the loss fallen against the start; are the predictions of the right size, of the
      right hand and different for different chains;
    - from ``floor_after`` steps on: are they better at t = 475 than a smoother of noise that knows nothing;
    - from ``sequence_after`` steps on: is the real sequence better than a shuffled one at t ≥ 700.

    Steps are full steps: one at half the peak of its learning rate counts half, so that a warm-up is waited for. What
    is wrong before the first step ends the run at once; later only what is wrong in ``patience`` checks in a row does.
    A check that is passed proves little: stopping a run that would have learned is worse than stopping one late.

    The run halts as the other guards do it (exit code 70: it is not started again by itself). Event ``early_sign`` for
    each sign, ``early_signs`` for each check with its figures, which are logged as ``early/…``. Draws are functions of
    ``seed`` and the chains' names: training is the same bit for bit with the checks and without. Under DDP the first
    rank asks and all do the same. Off by default.

    .. code-block:: yaml

        early_signs: {action: stop}

    Args:
        action: ``stop`` halts the run, ``warn`` tells and goes on; null asks nothing.
        first: Full steps after which the first check comes.
        every_n_steps: Full steps from one check to the next.
        last: Full steps after which no check comes any more.
        floor_after: Full steps after which predictions must be above the floor; null for never.
        sequence_after: Full steps after which the sequence must be read; null for never.
        patience: Checks in a row that must show a sign before the run is stopped for it.
        chains: Training chains that are looked at, the same ones each time.
        limits: What counts as a sign.
        seed: Key of the choice of chains, the noise and the shuffles.
    """

    def __init__(
        self,
        action: Literal["stop", "warn"] | None = None,
        first: int = 200,
        every_n_steps: int = 500,
        last: int = 10_000,
        floor_after: int | None = 3000,
        sequence_after: int | None = 5000,
        patience: int = 2,
        chains: int = 24,
        limits: EarlyLimits = _LIMITS,
        seed: int = 0,
    ) -> None:
        if action not in (None, "stop", "warn"):
            raise ValueError(f"action is {action!r}; allowed are 'stop', 'warn' and null")
        for name, value in (("first", first), ("every_n_steps", every_n_steps), ("patience", patience)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if chains < 2:
            raise ValueError(f"chains must be at least 2, got {chains}: one says nothing of another")
        if last < first:
            raise ValueError(f"last ({last}) lies before first ({first}): no check would be left")
        self.action = action
        self.first = first
        self.every_n_steps = every_n_steps
        self.last = last
        self.floor_after = floor_after
        self.sequence_after = sequence_after
        self.patience = patience
        self.chains = chains
        self.limits = limits
        self.seed = seed
        self._began = False
        self._taken = 0.0
        """Full steps so far."""
        self._checked = 0.0
        """Full steps at the last check."""
        self._start_loss: float | None = None
        """Of the fixed noised chains before the first step; None where the run began with trained weights."""
        self._in_a_row: dict[str, int] = {}
        self._last_step = 0
        self._batches: list[ProteinBatch] = []

    # --- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where the checks stand."""
        if self.action is None:
            return {}
        return {
            "began": self._began,
            "taken": self._taken,
            "checked": self._checked,
            "start_loss": self._start_loss,
            "in_a_row": dict(self._in_a_row),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there; a run that was not asked before is asked from here on."""
        self._began = bool(state_dict.get("began", False))
        self._taken = float(state_dict.get("taken", 0.0))
        self._checked = float(state_dict.get("checked", 0.0))
        self._start_loss = state_dict.get("start_loss")
        self._in_a_row = dict(state_dict.get("in_a_row", {}))

    # --- when ------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ask what can be asked before the first step.

        Raises:
            RunHalted: something is wired wrongly.
            ValueError: the module predicts no structures, or the data cannot say which chains it trains on.
        """
        self._last_step = trainer.global_step
        if self.action is None:
            return
        module = _diffusion(pl_module)
        if self._began:
            return
        fresh = trainer.global_step == 0 and not module.initialised
        findings, loss = self._asked(trainer, module, start=True)
        self._began = True
        self._start_loss = loss if fresh else None
        self._judge(trainer, findings, at_once=True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count full steps, and ask where it is time.

        Raises:
            RunHalted: the model shows signs that it cannot learn.
        """
        if self.action is None or trainer.global_step == self._last_step or self._taken > self.last:
            return
        if getattr(pl_module, "teaches_trunk_alone", False):  # the denoiser has not begun to learn
            self._last_step = trainer.global_step
            return
        self._taken += (trainer.global_step - self._last_step) * _share_of_peak(trainer)
        self._last_step = trainer.global_step
        if not self._due():
            return
        findings, _ = self._asked(trainer, _diffusion(pl_module), start=False)
        self._checked = self._taken
        self._judge(trainer, findings, at_once=False)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the chains go."""
        self._batches = []

    def _due(self) -> bool:
        return self._taken <= self.last and self._interval(self._taken) > self._interval(self._checked)

    def _interval(self, taken: float) -> int:
        # Sums of shares are rounded.
        past = taken - self.first + 1e-6
        return -1 if past < 0 else int(past // self.every_n_steps)

    # --- what ------------------------------------------------------------------------------------

    def _asked(
        self, trainer: pl.Trainer, module: DiffusionModule, *, start: bool
    ) -> tuple[list[Finding], float | None]:
        """The answers, the same on every rank: two machines may round to different sides of a limit."""
        mine: tuple[list[Finding], float | None] = ([], None)
        if trainer.is_global_zero:
            with _evaluating(module), trainer.precision_plugin.forward_context():
                mine = self._at_start(trainer, module) if start else self._later(trainer, module)
        return from_all_ranks(trainer.world_size, mine)[0]

    def _at_start(self, trainer: pl.Trainer, module: DiffusionModule) -> tuple[list[Finding], float]:
        batches = self._chosen(trainer, module)
        found = early_checks.measure(module, batches, self.seed, _at_once(trainer, module))
        return [
            *self._wiring(module, batches[0]),
            early_wiring.sampler_wiring(module, batches[0], self.limits, self.seed),
            early_checks.finite_losses(found),
            early_wiring.gradients(module, batches[0][:_GRADIENT_CHAINS], self.seed, trained=False),
        ], early_checks.mean_loss(found)

    def _later(self, trainer: pl.Trainer, module: DiffusionModule) -> tuple[list[Finding], float]:
        batches, limits = self._chosen(trainer, module), self.limits
        found = early_checks.measure(module, batches, self.seed, _at_once(trainer, module))
        findings = [
            *self._wiring(module, batches[0]),
            early_checks.finite_losses(found),
            early_wiring.gradients(module, batches[0][:_GRADIENT_CHAINS], self.seed, trained=True),
            early_checks.right_scale(module, found, limits),
            early_checks.right_hand(module, found, limits),
            early_checks.told_apart(found, limits),
        ]
        if self._start_loss is not None:
            findings.append(early_checks.fallen(found, self._start_loss, limits))
        if self.floor_after is not None and self._taken >= self.floor_after:
            findings.append(early_checks.above_floor(module, found, limits))
        if self.sequence_after is not None and self._taken >= self.sequence_after:
            findings.append(early_checks.reads_sequence(found, limits))
        return findings, early_checks.mean_loss(found)

    def _wiring(self, module: DiffusionModule, batch: ProteinBatch) -> list[Finding]:
        if not early_wiring.turns_along(module):
            return []
        return [early_wiring.equivariance(module, batch, self.limits, self.seed)]

    def _judge(self, trainer: pl.Trainer, findings: list[Finding], *, at_once: bool) -> None:
        step = trainer.global_step
        wrong = [finding for finding in findings if finding.wrong]
        self._in_a_row = {finding.check: self._in_a_row.get(finding.check, 0) + 1 for finding in wrong}
        values = dict(early_checks.figures(findings))
        record(
            trainer, "early_signs", step=step, values=values,
            passed=[finding.check for finding in findings if not finding.wrong],
            signs=[finding.check for finding in wrong],
        )  # fmt: skip
        patience = 1 if at_once else self.patience
        for finding in wrong:
            count = self._in_a_row[finding.check]
            record(
                trainer, "early_sign", step=step, check=finding.check, reason=finding.told, in_a_row=count,
                figures=finding.figures,
            )  # fmt: skip
            rank_zero_info(f"  early sign at step {step} ({finding.check}, {count} in a row): {finding.told}")
        spent = [finding for finding in wrong if self._in_a_row[finding.check] >= patience]
        if spent and self.action == "stop":
            raise RunHalted(
                f"after {step} steps this run shows that it cannot learn: {'; '.join(f.told for f in spent)} "
                "(early_signs holds the limits; early_signs.action warn goes on all the same)"
            )

    def _chosen(self, trainer: pl.Trainer, module: DiffusionModule) -> list[ProteinBatch]:
        """The chains that are looked at, short ones where there are enough, like lengths together."""
        if not self._batches:
            chains = _training_chains(trainer)
            order = choose_chains(chains, len(chains), self.seed)
            drawn = torch.randperm(len(order), generator=keyed_generator(self.seed, "early_signs", "chains"))
            order = [order[i] for i in drawn.tolist()]
            short = [i for i in order if int(chains.lengths[i]) <= _SHORT]
            order = [*short, *sorted(set(order) - set(short), key=lambda i: int(chains.lengths[i]))]
            items: list[ChainItem] = []
            for i in order:
                if len(items) == self.chains:
                    break
                with contextlib.suppress(StoreError):  # a damaged one is another guard's
                    items.append(chains[i])
            if len(items) < 2:
                raise ValueError(
                    "early_signs needs two sound training chains; set early_signs.action to null"
                )
            items.sort(key=lambda item: len(item.bonded))
            size = 8
            self._batches = [collate(items[k : k + size]) for k in range(0, len(items), size)]
        return [batch.to(module.device) for batch in self._batches]


def _training_chains(trainer: pl.Trainer) -> ChainDataset:
    chains = getattr(getattr(trainer, "datamodule", None), "train_chains", None)
    if not isinstance(chains, ChainDataset):
        raise ValueError(
            "early_signs looks at the chains of a ProteinDataModule; give the trainer one, or set "
            "early_signs.action to null"
        )
    own = copy.copy(chains)
    own.quarantine = None  # looking at a chain is not to change what stands in for a damaged one
    return own


def _diffusion(module: pl.LightningModule) -> DiffusionModule:
    if not isinstance(module, DiffusionModule):
        raise ValueError(
            f"early_signs asks a DiffusionModule, not a {type(module).__name__}; set early_signs.action to null"
        )
    return module


def _share_of_peak(trainer: pl.Trainer) -> float:
    """The learning rate over its peak, the highest of all groups'; 1 where the peak itself is 0."""
    shares = [
        float(group["lr"]) / float(group["initial_lr"])
        for optimizer in trainer.optimizers
        for group in optimizer.param_groups
        if group.get("initial_lr")
    ]
    return max(shares) if shares else 1.0


def _at_once(trainer: pl.Trainer, module: DiffusionModule) -> int:
    """As many noised copies as a training step has at the least, so that memory is never what ends a run."""
    size = int(getattr(getattr(trainer, "datamodule", None), "batch_size", 8))
    return max(8, size * module.noise_draws)


@contextlib.contextmanager
def _evaluating(module: DiffusionModule) -> Iterator[None]:
    """Evaluation mode, and whatever is drawn in it is not drawn from training's random numbers."""
    modes = [(part, part.training) for part in module.modules()]
    devices = [module.device] if module.device.type == "cuda" else []
    module.eval()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for part, mode in modes:
            part.training = mode
