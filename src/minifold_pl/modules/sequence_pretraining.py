"""Stage 1 on sequences alone: CATH labels and hidden residues, for an encoder that is trained on structures later."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Int
from torch import Tensor, nn

from minifold_pl.constants import AMINO_ACIDS, NO_LABEL
from minifold_pl.data.cath import topologies
from minifold_pl.data.records import TRAIN
from minifold_pl.data.store import ChainStore
from minifold_pl.losses.classification import contact_bce_per_chain, cross_entropy_per_chain
from minifold_pl.losses.reduction import PerChain
from minifold_pl.losses.trunk import residues_per_chain
from minifold_pl.modules.base import CHECKPOINT_KEY
from minifold_pl.modules.contact_classifier import (
    STAGE1_OPTIMIZER,
    STAGE1_SCHEDULE,
    ContactClassifierModule,
)
from minifold_pl.modules.hidden_residues import hidden_residues, hide_residues
from minifold_pl.modules.init_from import NOWHERE, InitFrom
from minifold_pl.modules.optim import LRSchedule, OptimizerConfig
from minifold_pl.nn.contact_classifier import ContactClassifier, ContactOutput
from minifold_pl.nn.linear import residual_linear
from minifold_pl.types import ProteinBatch

CLASS: Final = "class"
ARCHITECTURE: Final = "architecture"
TOPOLOGY: Final = "topology"
CONTACT: Final = "contact"
HIDDEN: Final = "hidden_residues"


@dataclass(frozen=True, kw_only=True)
class PretrainingWeights:
    """Weight of each loss. One with weight 0 is left out, and what only it needs with it."""

    cath_class: float = 1.0
    """Cross-entropy of the CATH class."""
    architecture: float = 1.0
    """Cross-entropy of the CATH architecture."""
    topology: float = 1.0
    """Cross-entropy of the CATH topology; that of chains whose topology no training chain has is not known."""
    contact: float = 0.0
    """Binary cross-entropy of the contact map, of the chains that have coordinates. At 0 the pair features are not
    computed at all, and learn nothing."""
    hidden_residues: float = 1.0
    """Cross-entropy of residues that were replaced by MASK (Devlin et al. 2019, BERT)."""

    def __post_init__(self) -> None:
        for name, weight in vars(self).items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"weights.{name} is {weight}: give a finite number, 0 or more")
        if not any(vars(self).values()):
            raise ValueError("every weight is 0: raise at least one")

    @property
    def by_term(self) -> dict[str, float]:
        """Those above 0, by the name that the loss is logged by."""
        names = {CLASS: self.cath_class, ARCHITECTURE: self.architecture, TOPOLOGY: self.topology,
                 CONTACT: self.contact, HIDDEN: self.hidden_residues}  # fmt: skip
        return {name: weight for name, weight in names.items() if weight > 0}


_WEIGHTS = PretrainingWeights()


class SequencePretraining(ContactClassifierModule):
    """Trains the encoder of stage 1 on what sequences without coordinates tell.

    A checkpoint serves wherever one of stage 1 does: ``model.init_args.encoder_ckpt`` of a second stage, or
    ``init_from`` of stage 1 itself, which then learns contacts from structures.

    In training the encoder sees each sequence with some residues hidden, and every loss is of that pass. In validation
    the labels are told from the whole sequence. Logs, beside the losses, the accuracy of each label (over the chains
    that have one) and ``residue_accuracy`` of the hidden residues.

    Args:
        encoder: The network; its heads for class and architecture are trained along.
        weights: Of the losses.
        topologies: Outputs of the head for the topology: at least as many as the training split has.
        hidden_share: Share of the residues that are hidden.
        contact_pos_weight: Weight of a contact against a non-contact in the contact loss.
        optimizer: AdamW and its learning-rate groups.
        schedule: Learning rate over the epochs.
        init_from: The stage-1 checkpoint whose weights a new run begins with.
        seed: Seed of every random draw.
    """

    def __init__(
        self,
        encoder: ContactClassifier,
        weights: PretrainingWeights = _WEIGHTS,
        topologies: int = 1400,
        hidden_share: float = 0.15,
        contact_pos_weight: float = 8.0,
        optimizer: OptimizerConfig = STAGE1_OPTIMIZER,
        schedule: LRSchedule = STAGE1_SCHEDULE,
        init_from: InitFrom = NOWHERE,
        seed: int = 0,
    ) -> None:
        super().__init__(encoder, contact_pos_weight, optimizer, schedule, init_from, seed)
        if topologies < 1:
            raise ValueError(f"topologies must be at least 1, got {topologies}")
        if not 0 < hidden_share < 1:
            raise ValueError(f"hidden_share must lie between 0 and 1, got {hidden_share}")
        self.weights = weights.by_term
        self.hidden_share = hidden_share
        self.topology = nn.Linear(encoder.d_single, topologies) if TOPOLOGY in self.weights else None
        self.residues = (
            residual_linear(encoder.d_single, len(AMINO_ACIDS)) if HIDDEN in self.weights else None
        )
        for name, head in ((CLASS, encoder.classes), (ARCHITECTURE, encoder.architectures)):
            # A head that no loss reaches would only decay.
            head.requires_grad_(name in self.weights)
        if CONTACT not in self.weights:
            encoder.contacts.requires_grad_(False)
            for part in (
                encoder.encoder.relative_position,
                encoder.encoder.contact_blocks,
                encoder.encoder.norm_pair,
            ):
                part.requires_grad_(False)
        self.topology_labels: tuple[str, ...] = ()
        """CATH topologies of the training split, in the order of their indices."""
        self._topology_of: dict[str, int] = {}

    # --- labels ----------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Take the training split's labels, which must fit the heads."""
        super().setup(stage)
        store = getattr(getattr(self.trainer, "datamodule", None), "store", None)
        if self.topology is None or not isinstance(store, ChainStore):
            return
        if not self.topology_labels:
            known = {
                code
                for chain in store.indices(TRAIN).tolist()
                if (code := _topology(store, chain)) is not None
            }
            self.topology_labels = tuple(
                sorted(known, key=lambda code: [int(part) for part in code.split(".")])
            )
        if len(self.topology_labels) > self.topology.out_features:
            raise ValueError(
                f"the training split has {len(self.topology_labels)} CATH topologies, the module "
                f"{self.topology.out_features} outputs: set model.init_args.topologies to at least "
                f"{len(self.topology_labels)}"
            )
        index = {code: place for place, code in enumerate(self.topology_labels)}
        found = ((store.name(chain), _topology(store, chain)) for chain in range(len(store)))
        self._topology_of = {name: index[code] for name, code in found if code in index}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the topologies' labels."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[CHECKPOINT_KEY]["topologies"] = list(self.topology_labels)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the topologies' labels."""
        super().on_load_checkpoint(checkpoint)
        self.topology_labels = tuple(checkpoint[CHECKPOINT_KEY].get("topologies", ()))

    def taken_elsewhere(self, about: Mapping[str, Any]) -> Mapping[str, str]:
        """See :meth:`MinifoldModule.taken_elsewhere`: each output of a head stands for one of its labels."""
        theirs = tuple(about.get("topologies") or ())
        other = self.topology is not None and theirs and theirs != self.topology_labels
        more = {TOPOLOGY: "its outputs stand for other CATH topologies"} if other else {}
        return {**super().taken_elsewhere(about), **more}

    def topology_labels_of(self, batch: ProteinBatch) -> Int[Tensor, " b"]:
        """Index of each chain's topology, or ``NO_LABEL``."""
        found = [self._topology_of.get(name, NO_LABEL) for name in batch.names]
        return torch.tensor(found, device=batch.tokens.device)

    # --- losses ----------------------------------------------------------------------------------

    def terms_per_chain(self, output: ContactOutput, batch: ProteinBatch) -> dict[str, PerChain]:
        """Those of the write-up's three terms that have a weight."""
        terms = super().terms_per_chain(output, batch)
        return {name: term for name, term in terms.items() if name in self.weights}

    def losses(self, batch: ProteinBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """See :meth:`MinifoldModule.losses`."""
        shown = self._hide(batch, "losses")
        terms, _ = self._terms(batch, shown, shown)
        return self._total(terms), terms

    def training_step(self, batch: ProteinBatch, batch_idx: int) -> Tensor:
        """One batch: hide residues, read, weigh."""
        shown = self._hide(batch, HIDDEN, self.current_epoch)
        terms, accuracies = self._terms(batch, shown, shown)
        total = self._total(terms)
        self.log_losses("loss", total, terms, self.weights, len(batch))
        for name, (share, count) in accuracies.items():
            self.epoch_means.add({f"train/{name}": share}, count)
        return total

    def _evaluate(self, prefix: str, batch: ProteinBatch, batch_idx: int) -> None:
        if not self.counts(batch_idx):
            return
        terms, accuracies = self._terms(batch, batch.tokens, self._hide(batch, f"{prefix}_{HIDDEN}"))
        self.log_losses(prefix, self._total(terms), terms, self.weights, len(batch))
        for name, (share, count) in accuracies.items():
            self.evaluation_means.add({f"{prefix}/{name}": share}, count)
        if CONTACT in self.weights:
            self.metrics[prefix].update(self(batch), batch)  # type: ignore[operator]  # a module, typed as one or a tensor

    def _log_metrics(self, prefix: str) -> None:
        if CONTACT in self.weights:
            super()._log_metrics(prefix)

    def _total(self, terms: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()

    def _hide(self, batch: ProteinBatch, *key: int | str) -> Int[Tensor, "b n"]:
        # Of a batch that has shapes alone nothing can be hidden.
        if self.residues is None or batch.tokens.is_meta:
            return batch.tokens
        return hide_residues(batch.tokens, self.hidden_share, batch.names, self.seed, *key)

    def _terms(
        self, batch: ProteinBatch, tokens: Int[Tensor, "b n"], shown: Int[Tensor, "b n"]
    ) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, int]]]:
        """Raw terms of the labels from ``tokens``, of hidden residues from ``shown``; accuracies and their counts."""
        single, pooled, contacts = self._read(tokens)
        labels = {
            CLASS: (self.encoder.classes, batch.cath_class),
            ARCHITECTURE: (self.encoder.architectures, batch.cath_architecture),
            TOPOLOGY: (self.topology, self.topology_labels_of(batch)),
        }
        terms: dict[str, PerChain] = {}
        accuracies: dict[str, tuple[Tensor, int]] = {}
        for name, (head, label) in labels.items():
            if name in self.weights and head is not None:
                logits = head(pooled)
                terms[name] = cross_entropy_per_chain(logits, label)
                _note_accuracy(accuracies, f"{name}_accuracy", logits, label)
        if contacts is not None:
            terms[CONTACT] = contact_bce_per_chain(
                contacts, batch.ca, batch.ca_mask, pos_weight=self.contact_pos_weight
            )
        if self.residues is not None:
            guesses = self.residues(single if shown is tokens else self._read(shown)[0])
            hidden = hidden_residues(shown, batch.tokens)
            terms[HIDDEN] = residues_per_chain(guesses, hidden)
            _note_accuracy(accuracies, "residue_accuracy", guesses, hidden)
        return {name: term.mean() for name, term in terms.items()}, accuracies

    def _read(self, tokens: Int[Tensor, "b n"]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Single and pooled features, and contact logits where these are taught."""
        if CONTACT not in self.weights:
            return *self.encoder.encoder.singles(tokens), None
        output: ContactOutput = self.encoder(tokens)
        return output.features.single, output.features.pooled, output.contact_logits


def _topology(store: ChainStore, chain: int) -> str | None:
    """``3.40.50``; None without a code or where the chain's domains disagree."""
    found = topologies(store.cath_codes(chain))
    return found[0] if len(found) == 1 else None


@torch.no_grad()
def _note_accuracy(
    accuracies: dict[str, tuple[Tensor, int]], name: str, logits: Tensor, labels: Tensor
) -> None:
    known = labels != NO_LABEL
    if not labels.is_meta and bool(known.any()):
        right = logits.argmax(-1)[known] == labels[known]
        accuracies[name] = right.float().mean(), int(known.sum())
