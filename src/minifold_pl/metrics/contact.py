"""The scores of a contact classifier, as one collection of torchmetrics."""

from __future__ import annotations

from typing import Protocol

from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from minifold_pl.constants import NO_LABEL
from minifold_pl.metrics.chain_mean import ChainMean, ChainScore
from minifold_pl.metrics.contacts import ALL, LONG, MEDIUM, SeparationRange, contact_precision, contact_recall
from minifold_pl.types import ProteinBatch


class ContactLogits(Protocol):
    """What a contact classifier answers."""

    @property
    def class_logits(self) -> Tensor:
        """CATH class, ``b 4``."""

    @property
    def architecture_logits(self) -> Tensor:
        """CATH architecture, ``b k``."""

    @property
    def contact_logits(self) -> Tensor:
        """Contacts, ``b l l``."""


class ContactMetrics(MetricCollection):
    """Means over chains: ``update(output, batch)``, ``compute()`` gives a dict of scalars.

    ``class_accuracy`` and ``architecture_accuracy`` over the labelled chains; ``contact_recall`` over all
    pairs (the write-up's); ``precision_{long,medium}_{L,L2,L5}`` of the most probable L, L/2 and L/5 pairs.
    Compute groups are off: they would merge scores that happen to agree on the first batch.
    """

    def __init__(self, prefix: str | None = None) -> None:
        scores: dict[str, ChainScore] = {
            "class_accuracy": class_hit,
            "architecture_accuracy": architecture_hit,
            "contact_recall": _recall,
        }
        for name, separation in (("long", LONG), ("medium", MEDIUM)):
            for suffix, top in (("L", 1), ("L2", 2), ("L5", 5)):
                scores[f"precision_{name}_{suffix}"] = _Precision(separation, top)
        means: dict[str, Metric | MetricCollection] = {
            name: ChainMean(score) for name, score in scores.items()
        }
        super().__init__(means, prefix=prefix, compute_groups=False)


def class_hit(output: ContactLogits, batch: ProteinBatch) -> Float[Tensor, " b"]:
    """1 where the CATH class is right, 0 where it is wrong, NaN without a label."""
    return _hit(output.class_logits, batch.cath_class)


def architecture_hit(output: ContactLogits, batch: ProteinBatch) -> Float[Tensor, " b"]:
    """1 where the CATH architecture is right, 0 where it is wrong, NaN without a label."""
    return _hit(output.architecture_logits, batch.cath_architecture)


def _hit(logits: Float[Tensor, "b k"], labels: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    return (logits.argmax(-1) == labels).float().masked_fill(labels == NO_LABEL, float("nan"))


def _recall(output: ContactLogits, batch: ProteinBatch) -> Float[Tensor, " b"]:
    return contact_recall(output.contact_logits, batch.ca, batch.ca_mask, separation=ALL)


class _Precision:
    """A named score rather than a closure, so that the collection can be pickled to another process."""

    def __init__(self, separation: SeparationRange, top: int) -> None:
        self.separation, self.top = separation, top

    def __call__(self, output: ContactLogits, batch: ProteinBatch) -> Float[Tensor, " b"]:
        return contact_precision(
            output.contact_logits, batch.ca, batch.ca_mask, separation=self.separation, top=self.top
        )
