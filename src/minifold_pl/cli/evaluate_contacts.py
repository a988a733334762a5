"""Scores of predicted contacts and CATH labels, beside predictors that never look at the sequence."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minifold_pl.cli.evaluate_structures import MODEL, Scores
from minifold_pl.cli.generation import out_of_memory_told
from minifold_pl.constants import CATH_CLASSES, NO_LABEL
from minifold_pl.data.collate import collate
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.metrics.contact import architecture_hit, class_hit
from minifold_pl.metrics.contacts import CONTACT_SCORES
from minifold_pl.metrics.separation import SeparationBaseline
from minifold_pl.types import ProteinBatch

SEPARATION = "separation only"
MAJORITY = "majority class"


class _Labels(NamedTuple):
    class_logits: Tensor
    architecture_logits: Tensor
    contact_logits: Tensor


def score_contacts(
    module: Any,
    dataset: ChainDataset,
    train: ChainDataset,
    *,
    batch_size: int,
    advance: Callable[[int], None],
) -> tuple[list[dict[str, Any]], Scores]:
    """Score a contact classifier on ``dataset``; both baselines are counted on ``train``.

    Returns:
        Name, length and observed residues of each chain, and the scores; a label that is missing is NaN.
    """
    separation = _separation_baseline(train, batch_size)
    majority = _majority(train)
    device = next(module.parameters()).device
    order = sorted(range(len(dataset)), key=lambda i: (int(dataset.lengths[i]), i))
    chains: list[dict[str, Any]] = []
    scores: Scores = defaultdict(lambda: defaultdict(list))
    for start in range(0, len(order), batch_size):
        batch = collate([dataset[i] for i in order[start : start + batch_size]])
        with torch.inference_mode(), out_of_memory_told():
            output = module(batch.to(device))
        model = _Labels(
            output.class_logits.float().cpu(),
            output.architecture_logits.float().cpu(),
            output.contact_logits.float().cpu(),
        )
        # Shifted as the model's logits are by the positive weight of its training: the recalls at
        # probability ½ can be compared.
        by_separation = separation(batch.residue_mask.shape[1], module.contact_pos_weight)
        _extend(scores[MODEL], _label_scores(model, batch))
        _extend(scores[MODEL], _contact_scores(model.contact_logits, batch))
        _extend(scores[SEPARATION], _contact_scores(by_separation.expand(len(batch), -1, -1), batch))
        _extend(scores[MAJORITY], _label_scores(majority(len(batch)), batch))
        for name, length, mask in zip(batch.names, batch.lengths.tolist(), batch.ca_mask, strict=True):
            chains.append({"name": name, "length": length, "observed": int(mask.sum())})
        advance(len(batch))
    return chains, {row: dict(by_score) for row, by_score in scores.items()}


def _label_scores(output: _Labels, batch: ProteinBatch) -> dict[str, Tensor]:
    return {
        "class_accuracy": class_hit(output, batch),
        "architecture_accuracy": architecture_hit(output, batch),
    }


def _contact_scores(logits: Tensor, batch: ProteinBatch) -> dict[str, Tensor]:
    return {name: score(logits, batch.ca, batch.ca_mask) for name, score in CONTACT_SCORES.items()}


def _extend(row: dict[str, list[float]], scores: dict[str, Tensor]) -> None:
    for name, values in scores.items():
        row[name].extend(values.double().tolist())


def _separation_baseline(train: ChainDataset, batch_size: int) -> SeparationBaseline:
    baseline = SeparationBaseline()
    order = np.argsort(train.lengths, kind="stable").tolist()
    for start in range(0, len(order), batch_size):
        batch = collate([train[i] for i in order[start : start + batch_size]])
        baseline.update(batch.ca, batch.ca_mask)
    return baseline


def _majority(train: ChainDataset) -> Callable[[int], _Labels]:
    """A classifier that always says the training split's most common class and architecture."""
    store, kinds = train.store, max(len(train.architectures), 1)
    cath_class = _most_common(int(store.cath_classes[i]) for i in train.indices)
    index = {name: k for k, name in enumerate(train.architectures)}
    architecture = _most_common(
        index.get(store.chain_architectures[i] or "", NO_LABEL) for i in train.indices
    )

    def predict(count: int) -> _Labels:
        one_hot = torch.nn.functional.one_hot
        return _Labels(
            one_hot(torch.full((count,), cath_class), len(CATH_CLASSES)).float(),
            one_hot(torch.full((count,), architecture), kinds).float(),
            torch.empty(count, 0, 0),
        )

    return predict


def _most_common(labels: Iterable[int]) -> int:
    known = Counter(label for label in labels if label != NO_LABEL)
    # A tie goes to the smaller label, whatever the order of the chains.
    return min(known, key=lambda label: (-known[label], label)) if known else 0
