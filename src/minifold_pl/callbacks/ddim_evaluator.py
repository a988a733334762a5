"""Sample validation chains while training, and score them beside what chance gives."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from minifold_pl.callbacks.structure_files import write_structures
from minifold_pl.data.collate import collate
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.diffusion.draws import keyed_generator
from minifold_pl.metrics import baselines
from minifold_pl.metrics.bootstrap import Interval, bootstrap_interval
from minifold_pl.metrics.structure import structure_scores
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.sampling import SamplerConfig
from minifold_pl.types import ProteinBatch

MODEL = "model"
SEES_THE_ANSWER = ("mirrored truth",)
OTHER_CHAINS = 8
"""Draws of another random chain for each target; their mean stands in the table."""
COLUMNS = ("tm_kabsch", "rmsd", "lddt_ca")
"""What the table shows; ``ddim.jsonl`` has every score."""


class DDIMEvaluator(pl.Callback):
    """Every n-th epoch: full-length samples of the same validation chains from the same noise, scored.

    It runs inside validation, so with the averaged weights where :class:`~minifold_pl.callbacks.ema.EMA` is used.
    Logs ``ddim/{score}`` and ``baseline/{row}/{score}``; writes ``ddim.jsonl`` with 95 % intervals and every setting
    to the run folder, prints a line an evaluation and a table at the end.

    .. code-block:: yaml

        ddim: {every_n_epochs: 5, chains: 32}

    Args:
        every_n_epochs: Epochs between evaluations; 0 never evaluates.
        chains: How many validation chains; the same ones each time.
        batch_size: Chains sampled at once.
        sampler: Settings; the module's own where null.
        save: How many of the samples to write, as PDB files in ``samples/epoch-…`` of the run folder.
        seed: Seed of the choice of chains and of the noise.
    """

    def __init__(
        self,
        every_n_epochs: int = 0,
        chains: int = 32,
        batch_size: int = 16,
        sampler: SamplerConfig | None = None,
        save: int = 4,
        seed: int = 0,
    ) -> None:
        if every_n_epochs < 0:
            raise ValueError(f"every_n_epochs must not be negative, got {every_n_epochs}")
        if chains < 1 or batch_size < 1:
            raise ValueError(f"chains and batch_size must be at least 1, got {chains} and {batch_size}")
        self.every_n_epochs = every_n_epochs
        self.chains = chains
        self.batch_size = batch_size
        self.sampler = sampler
        self.save = save
        self.seed = seed
        self._history: list[dict[str, Any]] = []
        self._rows: dict[str, dict[str, Interval]] = {}

    def state_dict(self) -> dict[str, Any]:
        """What was measured so far."""
        return {"history": self._history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with it."""
        self._history = list(state_dict["history"])

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
        if trainer.sanity_checking or not self._due(trainer):
            return
        if batch_idx + 1 != trainer.num_val_batches[dataloader_idx]:
            return
        if not isinstance(pl_module, DiffusionModule):
            raise ValueError(f"DDIMEvaluator samples a DiffusionModule, not a {type(pl_module).__name__}")
        values = self._evaluate(trainer, pl_module)
        pl_module.log_dict(values, on_step=False, on_epoch=True, batch_size=1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the last evaluation as a table."""
        if self._rows and trainer.is_global_zero:
            print_table(self._title(pl_module), self._rows)

    def _due(self, trainer: pl.Trainer) -> bool:
        if self.every_n_epochs == 0 or trainer.state.fn != "fit":
            return False
        epoch = trainer.current_epoch + 1
        return epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs

    def _evaluate(self, trainer: pl.Trainer, module: DiffusionModule) -> dict[str, float]:
        chains: ChainDataset = trainer.datamodule.validation_chains  # type: ignore[attr-defined]
        chosen = choose_chains(chains, self.chains, self.seed)
        share = chosen[trainer.global_rank :: trainer.world_size]
        scores = self._scores(module, chains, share)
        gathered = _gather(trainer, scores)
        self._rows = {row: intervals(values) for row, values in gathered.items()}
        record = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "chains": len(chosen),
            **self._settings(module),
            "scores": {row: {k: v._asdict() for k, v in cells.items()} for row, cells in self._rows.items()},
        }
        self._history.append({"epoch": record["epoch"], "tm_kabsch": self._rows[MODEL]["tm_kabsch"].mean})
        if trainer.is_global_zero:
            with open(Path(trainer.default_root_dir) / "ddim.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            print(f"  {self._line(len(chosen))}", flush=True)
        values = {f"ddim/{name}": cell.mean for name, cell in self._rows[MODEL].items()}
        for row, cells in self._rows.items():
            if row != MODEL:
                values |= {f"baseline/{row.replace(' ', '_')}/{k}": v.mean for k, v in cells.items()}
        return values

    def _scores(
        self, module: DiffusionModule, chains: ChainDataset, share: Sequence[int]
    ) -> dict[str, dict[str, Tensor]]:
        gathered: dict[str, list[dict[str, Tensor]]] = {}
        pool = {i: torch.as_tensor(chains[i].coords[:, 1]) for i in choose_chains(chains, 256, self.seed)}
        for start in range(0, len(share), self.batch_size):
            indices = share[start : start + self.batch_size]
            batch = collate([chains[i] for i in indices]).to(module.device)
            sampled = module.sample(batch, self.sampler, seed=self.seed, keys=batch.names)
            if start == 0 and self.save and module.trainer.is_global_zero:
                self._write(module, batch, sampled.x0)
            for row, guesses in {MODEL: [sampled.x0], **self._baselines(batch, indices, pool)}.items():
                gathered.setdefault(row, []).append(_mean_scores(guesses, batch))
        return {
            row: {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
            for row, parts in gathered.items()
        }

    def _write(self, module: DiffusionModule, batch: ProteinBatch, ca: Tensor) -> None:
        folder = Path(module.trainer.default_root_dir) / "samples" / f"epoch-{module.current_epoch + 1:03d}"
        settings = ", ".join(f"{name} {value:g}" for name, value in self._settings(module).items())
        write_structures(folder, batch[: self.save], ca[: self.save], set(), [f"DDIM, {settings}"])

    def _baselines(
        self, batch: ProteinBatch, indices: Sequence[int], pool: Mapping[int, Tensor]
    ) -> dict[str, list[Tensor]]:
        ca, mask = batch.ca.float(), batch.ca_mask
        generators = [keyed_generator(self.seed, "random_chain", name) for name in batch.names]
        others = []
        for _ in range(OTHER_CHAINS):
            rows = [
                baselines.random_chain(
                    ca[k : k + 1],
                    mask[k : k + 1],
                    [other for j, other in pool.items() if j != i] or [ca[k].cpu()],
                    generators[k : k + 1],
                )
                for k, i in enumerate(indices)
            ]
            others.append(torch.cat(rows))
        return {
            "other chain": others,
            "centroid": [baselines.centroid(ca, mask)],
            "ideal helix": [baselines.ideal_helix(ca, mask)],
            "mirrored truth": [baselines.mirrored_truth(ca, mask)],
        }

    def _settings(self, module: pl.LightningModule) -> dict[str, Any]:
        assert isinstance(module, DiffusionModule)
        sampler = self.sampler or module.sampler
        return {
            "steps": sampler.steps,
            "eta": sampler.eta,
            "guidance": sampler.guidance,
            "seed": self.seed,
        }

    def _line(self, count: int) -> str:
        cells = [f"{row} {_cell(cells['tm_kabsch'])}" for row, cells in self._rows.items()]
        return f"TM of {count} held-out chains: " + " · ".join(cells)

    def _title(self, module: pl.LightningModule) -> str:
        s = self._settings(module)
        return (
            f"held-out chains, epoch {self._history[-1]['epoch']}: DDIM-{s['steps']}, eta {s['eta']:g}, "
            f"guidance {s['guidance']:g}, seed {s['seed']}"
        )


def _mean_scores(guesses: Sequence[Tensor], batch: ProteinBatch) -> dict[str, Tensor]:
    """Scores of each chain, as means over several guesses at it."""
    found = [structure_scores(ca.float(), batch.ca.float(), batch.ca_mask, batch.bonded) for ca in guesses]
    return {name: torch.stack([scores[name].float().cpu() for scores in found]).mean(0) for name in found[0]}


def choose_chains(chains: ChainDataset, count: int, seed: int) -> list[int]:
    """Up to ``count`` chains of a dataset, the same ones for the same seed; cropped ones only where all are."""
    generator = keyed_generator(seed, "choose_chains")
    order = torch.randperm(len(chains), generator=generator).tolist()
    uncropped = chains.store.lengths[chains.indices] == chains.lengths
    whole = [i for i in order if uncropped[i]]
    return sorted((whole or order)[:count])


def intervals(scores: Mapping[str, Tensor]) -> dict[str, Interval]:
    """Mean and 95 % bootstrap interval of each score."""
    return {name: bootstrap_interval(values) for name, values in scores.items()}


def print_table(title: str, rows: Mapping[str, Mapping[str, Interval]]) -> None:
    """Scores as a table, the model first."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for row, cells in rows.items():
        name = f"{row}*" if row in SEES_THE_ANSWER else row
        style = "bold" if row == MODEL else None
        table.add_row(
            name, *(_cell(cells[column], 2 if column == "rmsd" else 3) for column in COLUMNS), style=style
        )
    table.caption = "mean [95 % bootstrap interval]; * sees the answer. TM at the RMSD-optimal superposition."
    console = Console()
    # Narrower and the intervals would be cut; elsewhere than on a terminal nothing says how wide to be.
    console.width = max(console.width, 96)
    console.print(table)


def _cell(cell: Interval, digits: int = 3) -> str:
    mean, low, high = (f"{value:.{digits}f}" for value in (cell.mean, cell.low, cell.high))
    return f"{mean} [{low}–{high}]"


def _gather(trainer: pl.Trainer, scores: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    if trainer.world_size == 1:
        return scores
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, scores)
    filled = [part for part in parts if part]
    return {
        row: {name: torch.cat([part[row][name] for part in filled]) for name in filled[0][row]}
        for row in filled[0]
    }
