"""Stage 1: contacts and CATH labels from sequence, trained from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from minifold_pl.losses.classification import contact_bce_per_chain, cross_entropy_per_chain
from minifold_pl.losses.reduction import PerChain
from minifold_pl.metrics.contact import ContactMetrics
from minifold_pl.modules.base import MinifoldModule
from minifold_pl.modules.init_from import NOWHERE, InitFrom
from minifold_pl.modules.optim import LRSchedule, OptimizerConfig, WarmupCosine
from minifold_pl.nn.contact_classifier import ContactClassifier, ContactOutput
from minifold_pl.types import Coordinates, ProteinBatch, SequenceFeatures

STAGE1_OPTIMIZER = OptimizerConfig(lr=2e-4)
STAGE1_SCHEDULE = WarmupCosine()


class ContactClassifierModule(MinifoldModule):
    """Trains a :class:`ContactClassifier`; the total is class CE + architecture CE + contact BCE.

    Args:
        encoder: The network.
        contact_pos_weight: Weight of a contact against a non-contact in the contact loss.
        optimizer: AdamW and its learning-rate groups.
        schedule: Learning rate over the epochs.
        init_from: The stage-1 checkpoint whose weights a new run begins with.
        seed: Seed of every random draw.
    """

    stage: ClassVar[str] = "contact"
    needs: Coordinates = "none"  # class and architecture are learned from sequences alone

    def __init__(
        self,
        encoder: ContactClassifier,
        contact_pos_weight: float = 8.0,
        optimizer: OptimizerConfig = STAGE1_OPTIMIZER,
        schedule: LRSchedule = STAGE1_SCHEDULE,
        init_from: InitFrom = NOWHERE,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer=optimizer, schedule=schedule, seed=seed, init_from=init_from)
        if contact_pos_weight <= 0:
            raise ValueError(f"contact_pos_weight must be above 0, got {contact_pos_weight}")
        self.encoder = encoder
        self.contact_pos_weight = contact_pos_weight
        self.weights = {"class": 1.0, "architecture": 1.0, "contact": 1.0}
        self.metrics = torch.nn.ModuleDict({name: ContactMetrics() for name in ("val", "test")})

    @property
    def max_residues(self) -> int | None:
        """The longest chain that the encoder's positions reach."""
        return self.encoder.max_residues

    def forward(self, batch: ProteinBatch) -> ContactOutput:
        """Logits and features of the batch's sequences."""
        return self.encoder(batch.tokens)

    def terms(self, output: ContactOutput, batch: ProteinBatch) -> dict[str, Tensor]:
        """The three raw terms; a missing label is left out of its own term only."""
        return {name: term.mean() for name, term in self.terms_per_chain(output, batch).items()}

    def terms_per_chain(self, output: ContactOutput, batch: ProteinBatch) -> dict[str, PerChain]:
        """The three raw terms of every chain, and which chains have what each is measured by."""
        return {
            "class": cross_entropy_per_chain(output.class_logits, batch.cath_class),
            "architecture": cross_entropy_per_chain(output.architecture_logits, batch.cath_architecture),
            "contact": contact_bce_per_chain(
                output.contact_logits, batch.ca, batch.ca_mask, pos_weight=self.contact_pos_weight
            ),
        }

    def losses(self, batch: ProteinBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """See :meth:`MinifoldModule.losses`."""
        terms = self.terms(self(batch), batch)
        return sum(self.weights[name] * term for name, term in terms.items()), terms  # type: ignore[return-value]

    def embed(self, batch: ProteinBatch) -> SequenceFeatures:
        """Features for the second stage, with one attention-pooled embedding a chain."""
        return self.encoder.encode(batch.tokens)

    def setup(self, stage: str) -> None:
        """Take the training split's labels, which must fit the head."""
        super().setup(stage)
        heads = self.encoder.architectures.out_features
        if len(self.architecture_labels) > heads:
            raise ValueError(
                f"the training split has {len(self.architecture_labels)} CATH architectures, the encoder "
                f"{heads} outputs: set model.init_args.encoder.init_args.architectures to at least "
                f"{len(self.architecture_labels)}"
            )

    def taken_elsewhere(self, about: Mapping[str, Any]) -> Mapping[str, str]:
        """See :meth:`MinifoldModule.taken_elsewhere`: each output of the head stands for one of the labels."""
        labels = about.get("architectures")
        theirs = tuple(map(str, labels)) if isinstance(labels, list | tuple) else ()
        if not self.architecture_labels or self.architecture_labels == theirs:
            return {}
        return {"encoder.architectures": "its outputs stand for other CATH architectures"}

    def training_step(self, batch: ProteinBatch, batch_idx: int) -> Tensor:
        """One batch."""
        output = self(batch)
        total = self._log("loss", output, batch)
        with torch.no_grad():
            known = batch.cath_class >= 0
            if known.any():
                right = output.class_logits.argmax(-1)[known] == batch.cath_class[known]
                self.epoch_means.add({"train/class_accuracy": right.float().mean()}, int(known.sum()))
        return total

    def validation_step(self, batch: ProteinBatch, batch_idx: int) -> None:
        """Losses, and the metrics of the epoch."""
        self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: ProteinBatch, batch_idx: int) -> None:
        """As in validation."""
        self._evaluate("test", batch, batch_idx)

    def predict_step(self, batch: ProteinBatch, batch_idx: int) -> ContactOutput:
        """Logits and embeddings."""
        return self(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the means and metrics of the epoch."""
        super().on_validation_epoch_end()
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log the means and metrics of the epoch."""
        super().on_test_epoch_end()
        self._log_metrics("test")

    def _log(self, prefix: str, output: ContactOutput, batch: ProteinBatch) -> Tensor:
        terms = self.terms(output, batch)
        total = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        self.log_losses(prefix, total, terms, self.weights, len(batch))
        return total

    def _evaluate(self, prefix: str, batch: ProteinBatch, batch_idx: int) -> None:
        if not self.counts(batch_idx):
            return
        output = self(batch)
        self._log(prefix, output, batch)
        self.metrics[prefix].update(output, batch)  # type: ignore[operator]  # a module, typed as one or a tensor

    def _log_metrics(self, prefix: str) -> None:
        metrics = self.metrics[prefix]
        self.log_dict({f"{prefix}/{k}": v for k, v in metrics.compute().items()})  # type: ignore[operator]
        metrics.reset()  # type: ignore[operator]
