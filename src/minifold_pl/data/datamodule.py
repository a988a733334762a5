"""The data of a training run, as Lightning takes it."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, Subset

from minifold_pl.data.collate import collate
from minifold_pl.data.dataset import ChainDataset, ChainItem, LongChains
from minifold_pl.data.records import TEST, TRAIN, VALIDATION
from minifold_pl.data.sampler import LengthBucketBatchSampler
from minifold_pl.data.store import ChainStore, StoreError, is_store, write_store
from minifold_pl.data.synthetic import SyntheticConfig, generate
from minifold_pl.types import Coordinates, ProteinBatch


class ProteinDataModule(LightningDataModule):
    """Chains from a store, in batches of like lengths.

    The training order, crops and rotations are functions of (seed, epoch, chain) alone, whatever the number
    of workers. Validation and test are the same in every epoch: fixed order, fixed crops, no rotation. Every
    loader yields a :class:`minifold_pl.types.ProteinBatch`. Under DDP use
    ``Trainer(use_distributed_sampler=False)``: the batches are divided among the ranks here.

    Args:
        path: Folder of a store, as ``minifold-pl data prepare`` or ``data synth`` makes it.
        batch_size: Chains a batch and device (the write-up's stage 1: 24, stage 2: 4).
        max_length: Longest chain or crop in residues; null takes chains whole.
        long_chains: ``crop`` takes a random contiguous piece of a longer chain, ``drop`` leaves it out.
        num_workers: Loader processes; 0 loads in the training process itself.
        seed: Key of the order, the crops and the rotations.
        random_rotation: Turn every training chain by a random rotation.
        one_per_cluster: Train on one chain of each sequence cluster only.
        limit_train: Train on a random selection of this many chains; null for all.
        limit_validation: Validate on a random selection of this many chains; null for all.
        drop_last: Leave out the training chains that do not fill a batch, other ones in every epoch.
        synthetic: Make this synthetic set at ``path`` when there is no store yet.
    """

    def __init__(
        self,
        path: str,
        batch_size: int = 24,
        max_length: int | None = 125,
        long_chains: LongChains = "crop",
        num_workers: int = 0,
        seed: int = 0,
        random_rotation: bool = False,
        one_per_cluster: bool = False,
        limit_train: int | None = None,
        limit_validation: int | None = None,
        drop_last: bool = False,
        synthetic: SyntheticConfig | None = None,
    ) -> None:
        super().__init__()
        if num_workers < 0:
            raise ValueError(f"num_workers is {num_workers}; give 0 or more")
        self.path = Path(path).expanduser()
        self.batch_size = batch_size
        self.max_length = max_length
        self.long_chains = long_chains
        self.num_workers = num_workers
        self.seed = seed
        self.random_rotation = random_rotation
        self.one_per_cluster = one_per_cluster
        self.limit_train = limit_train
        self.limit_validation = limit_validation
        self.drop_last = drop_last
        self.synthetic = synthetic
        self.worker_init: Callable[[int], None] | None = None
        """Called with its number in every loader process as it starts."""

    @functools.cached_property
    def store(self) -> ChainStore:
        """The open store; the synthetic one is made first where it is missing.

        Raises:
            ValueError: no store at ``path``, a damaged one, or another synthetic set than ``synthetic`` says.
        """
        self.prepare_data()
        store = ChainStore.open(self.path)
        made_from = store.provenance.get(_SYNTHETIC)
        if self.synthetic is not None and made_from != (wanted := _as_json(self.synthetic)):
            raise StoreError(
                f"the store at {self.path} was made from {made_from or store.provenance}, "
                f"`synthetic` says {wanted}; give another path, remove the store, or set synthetic to null"
            )
        return store

    @property
    def architectures(self) -> tuple[str, ...]:
        """Label set of the CATH architectures: those of the training split. Known before ``setup``."""
        return self.store.architectures

    def prepare_data(self) -> None:
        """Make the synthetic set where it is asked for and missing."""
        if self.synthetic is None or is_store(self.path):
            return
        try:
            write_synthetic(self.path, self.synthetic)
        except StoreError:
            if not is_store(self.path):  # else another process made it meanwhile
                raise

    def setup(self, stage: str | None = None) -> None:
        """Open the store, choose the chains of ``stage`` (``fit``, ``validate``, ``test``, ``predict``)."""
        if stage in (None, "fit"):
            self.train_chains = self._chains(
                TRAIN,
                random_rotation=self.random_rotation,
                one_per_cluster=self.one_per_cluster,
                limit=self.limit_train,
                replace_damaged=True,
            )
        if stage in (None, "fit", "validate"):
            self.validation_chains = self._chains(
                VALIDATION, limit=self.limit_validation, replace_damaged=stage == "fit"
            )
        if stage in (None, "test", "predict"):
            self.test_chains = self._chains(TEST)

    def train_dataloader(self) -> DataLoader[ChainItem]:
        """Training chains, shuffled anew in every epoch."""
        return self._loader(self.train_chains, shuffle=True, drop_last=self.drop_last)

    def val_dataloader(self) -> DataLoader[ChainItem]:
        """Validation chains in a fixed order."""
        return self._loader(self.validation_chains, shuffle=False)

    def test_dataloader(self) -> DataLoader[ChainItem]:
        """Test chains in a fixed order."""
        return self._loader(self.test_chains, shuffle=False)

    def predict_dataloader(self) -> DataLoader[ChainItem]:
        """Test chains, longest first; a plain sampler, which Lightning replaces when it predicts."""
        order = (-self.test_chains.lengths).argsort(kind="stable").tolist()
        return DataLoader(
            Subset(self.test_chains, order),
            batch_size=self.batch_size,
            shuffle=False,
            **self._loader_options(),
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Copies from pinned memory to a GPU do not wait for one another, nor the host for them."""
        if isinstance(batch, ProteinBatch):  # Lightning copies plain tensors asynchronously, and nothing else
            return batch.to(device, non_blocking=device.type == "cuda")
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _chains(self, split: str, **options: Any) -> ChainDataset:
        chains = ChainDataset(
            self.store,
            split,
            max_length=self.max_length,
            long_chains=self.long_chains,
            seed=self.seed,
            needs=self._needs(),
            **options,
        )
        if chains.left_out:
            why = ", ".join(f"{count:,} with {reason}" for reason, count in chains.left_out.items())
            _tell(f"{split}: chains left out, which this model cannot use: {why}")
        return chains

    def _needs(self) -> Coordinates:
        """What the trained model says of the chains it can use; Cα without one."""
        model = self.trainer.lightning_module if self.trainer else None
        needs: Coordinates = getattr(model, "needs", "ca")
        return needs

    def _loader(
        self, chains: ChainDataset, *, shuffle: bool, drop_last: bool = False
    ) -> DataLoader[ChainItem]:
        batches = LengthBucketBatchSampler(
            chains.lengths,
            self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            rank=self.trainer.global_rank if self.trainer else 0,
            world=self.trainer.world_size if self.trainer else 1,
            drop_last=drop_last,
        )
        return DataLoader(chains, batch_sampler=batches, **self._loader_options())

    def _loader_options(self) -> dict[str, Any]:
        return {
            "collate_fn": collate,
            "num_workers": self.num_workers,
            "worker_init_fn": self.worker_init,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
            # The loader draws a base seed every epoch: from here, so that the global state stays as it is.
            "generator": torch.Generator().manual_seed(self.seed),
        }


@rank_zero_only
def _tell(text: str) -> None:
    print(text, file=sys.stderr)


_SYNTHETIC = "synthetic"
"""Key of the provenance that holds the synthetic set's configuration."""


def write_synthetic(path: str | Path, config: SyntheticConfig, *, overwrite: bool = False) -> int:
    """Generate a synthetic set into a store at ``path``; returns how many chains it has."""
    return write_store(path, generate(config), provenance={_SYNTHETIC: _as_json(config)}, overwrite=overwrite)


def _as_json(config: SyntheticConfig) -> dict[str, Any]:
    """The configuration as it comes back from JSON (tuples are lists)."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(config).items()
    }
