"""Sample validation chains while training, and score them beside what chance gives."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from minifold_pl.callbacks import ddim_scores
from minifold_pl.callbacks.ddim_records import DDIMRecords
from minifold_pl.callbacks.ddim_scores import MODEL, SEQUENCE, Rows, choose_chains, share_of
from minifold_pl.callbacks.ddim_table import print_table, summary_line
from minifold_pl.callbacks.ema import EMA
from minifold_pl.callbacks.finding import callbacks_of
from minifold_pl.callbacks.guard_events import run_folder
from minifold_pl.callbacks.leaving import Boundaries
from minifold_pl.callbacks.structure_files import write_structures
from minifold_pl.data.collate import collate
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.metrics.bootstrap import Interval, bootstrap_interval
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.ranks import from_all_ranks
from minifold_pl.modules.sampling import SamplerConfig
from minifold_pl.modules.structures import closed

_LOGGED = ("ddim/", "baseline/", f"{SEQUENCE}/", f"{SEQUENCE}_gain/")
"""How the names of logged values begin."""


class DDIMEvaluator(pl.Callback):
    """Every n-th epoch: full-length samples of the same validation chains from the same noise, scored.

    It runs inside validation, so with the averaged weights where :class:`~minifold_pl.callbacks.ema.EMA` keeps them.
    Logs, as means over the chains,

    - ``ddim/{score}``: ``tm_score`` and the GDTs (maximised over superpositions), ``tm_kabsch``, ``rmsd``,
      ``lddt_ca``, ``rg_ratio``, ``ca_bond_share``, …, and from two samples of a chain on their ``diversity``;
    - ``ddim/x0_tm_t025`` … ``ddim/x0_tm_t975``: TM (least RMSD) of one step from a chain noised to that timestep;
    - ``val/sequence/real``, ``…/shuffled``, ``…/mask``: the structural losses of one step at t ≥ 700 with each
      sequence, and ``val/sequence_gain/shuffled``, ``…/mask``: what the real one gains, above 0 where it is read;
    - ``baseline/{row}/{score}``: the same for predictions that need no model. They never change.

    Any of them can be what ``best`` and ``patience`` monitor, which then look at the validations with an evaluation.
    ``ddim.jsonl`` in the run folder has each with 95 % intervals and every setting, a line an evaluation; the last is
    printed as a table at the end.

    Chains, noise and shuffles are functions of ``seed`` and of the chain's name: nothing is drawn from the global
    random state, which training goes on with untouched. Under DDP each chain is sampled on one rank, and every
    rank logs the scores of all. Switched off it does nothing at all.

    .. code-block:: yaml

        ddim: {every_n_epochs: 5, chains: 32}
        best: {monitor: ddim/tm_score, mode: max}

    Args:
        every_n_epochs: Evaluate in the first validation after every n-th epoch, and in the last epoch; 0 for not.
        chains: How many validation chains; the same ones each time.
        batch_size: Chains sampled at once, on each rank.
        samples: Structures of each chain; scores are their means. Their diversity needs 2.
        sampler: Settings; the module's own where null.
        searched: Also the scores that are maximised over superpositions, as the TM-score program's are.
        one_step: Also the one-step scores, beside the floor of a smoother that knows no sequence.
        sequence_test: Also one step with shuffled and MASK sequences at t ≥ 700: does the model read the sequence?
        save: How many of the samples to write, as PDB files in ``samples/`` of the run folder.
        seed: Seed of the choice of chains and of all noise.
    """

    def __init__(
        self,
        every_n_epochs: int = 0,
        chains: int = 32,
        batch_size: int = 16,
        samples: int = 2,
        sampler: SamplerConfig | None = None,
        searched: bool = True,
        one_step: bool = True,
        sequence_test: bool = True,
        save: int = 4,
        seed: int = 0,
    ) -> None:
        for name, value in (("every_n_epochs", every_n_epochs), ("save", save)):
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        for name, value in (("chains", chains), ("batch_size", batch_size), ("samples", samples)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.every_n_epochs = every_n_epochs
        self.chains = chains
        self.batch_size = batch_size
        self.samples = samples
        self.sampler = sampler
        self.searched = searched
        self.one_step = one_step
        self.sequence_test = sequence_test
        self.save = save
        self.seed = seed
        self._history: list[dict[str, Any]] = []
        self._unfinished: dict[str, Any] | None = None
        self._records = DDIMRecords()
        self._unwritten: list[dict[str, Any]] = []
        self._rows: dict[str, dict[str, Interval]] = {}
        self._baselines: Rows | None = None

    # --- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The evaluations of finished validations; one that is cut off is repeated."""
        if not self.every_n_epochs:
            return {}
        return {"history": list(self._history), "unwritten": self._records.waiting}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with them."""
        self._history = list(state_dict.get("history", ()))
        self._unwritten = list(state_dict.get("unwritten", ()))

    # --- when ------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget records of steps that will be taken again.

        Raises:
            ValueError: the module does not sample structures, the data cannot say which chains it validates on, or
                ``best`` or ``patience`` monitor a score that nothing measures.
        """
        if not self.every_n_epochs:
            for monitor in _monitored(trainer):
                if monitor.startswith("ddim/"):
                    raise ValueError(
                        f"{monitor} is monitored, but nothing measures it: set ddim.every_n_epochs"
                    )
            return
        if not isinstance(pl_module, DiffusionModule):
            raise ValueError(
                f"DDIMEvaluator samples a DiffusionModule, not a {type(pl_module).__name__}; "
                "set ddim.every_n_epochs to 0"
            )
        _validation_chains(trainer)
        self._baselines = None
        self._history = [past for past in self._history if past["step"] <= trainer.global_step]
        self._unfinished = None
        if trainer.is_global_zero:
            self._records.take_up(run_folder(trainer).path, trainer.global_step, self._unwritten)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Evaluate after the last batch: the averaged weights are in place, whatever the order of callbacks."""
        if not self.every_n_epochs or trainer.sanity_checking or not self._due(trainer):
            return
        if batch_idx + 1 != trainer.num_val_batches[dataloader_idx]:
            return
        assert isinstance(pl_module, DiffusionModule)
        values = self._evaluate(trainer, pl_module)
        # The same on every rank: syncing changes nothing and spares a warning a value.
        pl_module.log_dict(values, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The evaluation counts from here on, before any callback that saves here."""
        if self._unfinished is not None:
            self._history.append(self._unfinished)
            self._unfinished = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Try again to write what the disk did not take."""
        self._records.write(run_folder(trainer).path)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the last evaluation as a table."""
        self._records.write(run_folder(trainer).path)
        if self._rows and trainer.is_global_zero:
            print_table(self._title(pl_module), self._rows)

    def gives(self, name: str) -> bool:
        """Whether ``name`` is a value that it logs."""
        return self.every_n_epochs > 0 and name.startswith(_LOGGED)

    def measured_at(self, step: int) -> bool:
        """Whether the last evaluation was after this optimizer step."""
        return self._last("step") == step

    def _due(self, trainer: pl.Trainer) -> bool:
        if trainer.state.fn != "fit":
            return False
        finished = _finished_epochs(trainer)
        if finished == trainer.max_epochs or trainer.global_step == trainer.max_steps:
            return True
        return finished // self.every_n_epochs > self._last("finished") // self.every_n_epochs

    def _last(self, what: str) -> int:
        return int(self._history[-1][what]) if self._history else 0

    # --- what ------------------------------------------------------------------------------------

    def _evaluate(self, trainer: pl.Trainer, module: DiffusionModule) -> dict[str, float]:
        chains = _validation_chains(trainer)
        chosen = choose_chains(chains, self.chains, self.seed)
        shares = [share_of(chains, chosen, rank, trainer.world_size) for rank in range(trainer.world_size)]
        share = shares[trainer.global_rank]
        rows, structures = self._scores(trainer, module, chains, share, max(map(len, shares)))
        saved = {i: structures[i] for i in chosen[: self.save] if i in structures}
        rows, saved = _gathered(trainer, _Share(share, rows, saved), chosen)
        self._rows = {row: intervals(values) for row, values in rows.items()}
        self._unfinished = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "finished": _finished_epochs(trainer),
        }
        if trainer.is_global_zero:
            record = {
                "epoch": trainer.current_epoch + 1,
                "step": trainer.global_step,
                "chains": len(chosen),
                **self._settings(trainer, module),
                "scores": {
                    row: {k: _plain(v) for k, v in cells.items()} for row, cells in self._rows.items()
                },
            }
            self._write(trainer, module, chains, saved)
            self._records.add(run_folder(trainer).path, record)
            print(f"  {summary_line(len(chosen), self._rows)}", flush=True)
        values = named_values(self._rows)
        for monitor in _monitored(trainer):
            if monitor.startswith(_LOGGED) and monitor not in values:
                known = ", ".join(sorted(name for name in values if not name.startswith("baseline/")))
                raise ValueError(f"{monitor} is monitored, but not among what was measured: {known}")
        return values

    def _scores(
        self, trainer: pl.Trainer, module: DiffusionModule, chains: ChainDataset, share: list[int], most: int
    ) -> tuple[Rows, dict[int, Tensor]]:
        boundaries = Boundaries(trainer, -(-most // self.batch_size))
        rows, structures = ddim_scores.sampled_rows(
            module, chains, share, self.sampler, samples=self.samples, batch_size=self.batch_size,
            searched=self.searched, seed=self.seed, between_batches=boundaries,
        )  # fmt: skip
        boundaries.finish()
        if self.one_step:
            found = ddim_scores.one_step_rows(
                module,
                chains,
                share,
                batch_size=self.batch_size,
                sequence_test=self.sequence_test,
                seed=self.seed,
            )
            rows = {row: {**rows.get(row, {}), **scores} for row, scores in {**rows, **found}.items()}
        if self._baselines is None:
            self._baselines = ddim_scores.baseline_rows(
                module, chains, share, batch_size=self.batch_size, searched=self.searched,
                with_wiener=self.one_step, seed=self.seed,
            )  # fmt: skip
        return {**rows, **self._baselines}, structures

    def _write(
        self, trainer: pl.Trainer, module: DiffusionModule, chains: ChainDataset, saved: Mapping[int, Tensor]
    ) -> None:
        if not saved:
            return
        settings = ", ".join(f"{name} {value}" for name, value in self._settings(trainer, module).items())
        folder = run_folder(trainer).samples / f"epoch-{trainer.current_epoch + 1:03d}"
        remark = f"Optimizer step {trainer.global_step}, {settings}"
        taken: set[str] = set()
        for i, structure in saved.items():
            batch = collate([chains[i]])
            chain = closed(structure, batch.tokens[0], batch.bonded[0, : len(structure)])
            try:
                write_structures(folder, batch, [chain], taken, [remark])
            except (OSError, ValueError) as error:  # a sample that went astray is too large for the format
                rank_zero_warn(f"a sample cannot be written to {folder} ({error}); training goes on without")

    def _settings(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
        assert isinstance(module, DiffusionModule)
        sampler = self.sampler or module.sampler
        return {
            **sampler.told(),
            "samples": self.samples,
            "seed": self.seed,
            "weights": "raw" if _averages(trainer) is None else "ema",
        }

    def _title(self, module: pl.LightningModule) -> str:
        assert isinstance(module, DiffusionModule)
        sampler = self.sampler or module.sampler
        return (
            f"held-out chains, epoch {self._last('epoch')}: n = {self._rows[MODEL]['tm_kabsch'].n}, "
            f"{sampler.in_words()}, seed {self.seed}"
        )


def awaited(trainer: pl.Trainer, name: str) -> bool:
    """Whether ``name`` is a score of an evaluator that this validation did not measure.

    What monitors it has then nothing to judge by: neither an old value nor a missing one means anything.
    """
    callbacks = getattr(trainer, "callbacks", ())
    givers = [c for c in callbacks if isinstance(c, DDIMEvaluator) and c.gives(name)]
    return bool(givers) and not any(c.measured_at(trainer.global_step) for c in givers)


def _monitored(trainer: pl.Trainer) -> set[str]:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning's connector
    return {m for m in (getattr(callback, "monitor", None) for callback in callbacks) if isinstance(m, str)}


def intervals(scores: Mapping[str, Tensor]) -> dict[str, Interval]:
    """Mean and 95 % bootstrap interval of each score."""
    return {name: bootstrap_interval(values) for name, values in scores.items()}


class _Share(NamedTuple):
    """What one rank found."""

    indices: list[int]
    rows: Rows
    saved: dict[int, Tensor]


def named_values(rows: Mapping[str, Mapping[str, Interval]]) -> dict[str, float]:
    """The means under the names that are logged; what no chain defines is left out."""
    values = {}
    for row, cells in rows.items():
        prefix = "ddim" if row == MODEL else f"baseline/{row.replace(' ', '_')}"
        for name, cell in cells.items():
            if cell.n:
                values[ddim_scores.sequence_name(row, name) or f"{prefix}/{name}"] = cell.mean
    return values


def _gathered(trainer: pl.Trainer, mine: _Share, chosen: list[int]) -> tuple[Rows, dict[int, Tensor]]:
    """The rows of all ranks, the chains in the order of ``chosen``: the same on every rank and for any number."""
    parts = from_all_ranks(trainer.world_size, mine)
    filled = [part for part in parts if part.indices]
    place = {i: k for k, i in enumerate(i for part in filled for i in part.indices)}
    order = torch.tensor([place[i] for i in chosen])
    rows = ddim_scores.joined([part.rows for part in filled])
    saved = {i: part.saved[i] for i in chosen for part in filled if i in part.saved}
    return {row: {k: v[order] for k, v in scores.items()} for row, scores in rows.items()}, saved


def _averages(trainer: pl.Trainer) -> EMA | None:
    return next((callback for callback in callbacks_of(trainer, EMA) if callback.decay > 0), None)


def _finished_epochs(trainer: pl.Trainer) -> int:
    """Epochs whose last batch is taken."""
    return trainer.current_epoch + int(trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)


def _validation_chains(trainer: pl.Trainer) -> ChainDataset:
    chains = getattr(getattr(trainer, "datamodule", None), "validation_chains", None)
    if not isinstance(chains, ChainDataset):
        raise ValueError(
            "DDIMEvaluator takes its chains from the data module's validation_chains; train with a "
            "ProteinDataModule, or set ddim.every_n_epochs to 0"
        )
    return chains


def _plain(cell: Interval) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {k: v if isfinite(v) else None for k, v in cell._asdict().items()}
