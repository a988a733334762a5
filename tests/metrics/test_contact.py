import pickle
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from minifold_pl.constants import NO_LABEL
from minifold_pl.metrics.contact import ContactMetrics
from minifold_pl.metrics.contacts import LONG, MEDIUM, contact_map, contact_precision, contact_recall
from minifold_pl.types import ProteinBatch


class Output(NamedTuple):
    class_logits: Tensor
    architecture_logits: Tensor
    contact_logits: Tensor


@pytest.fixture
def make_protein_batch(make_batch, make_walk):
    def make(lengths, classes):
        ca, mask = make_batch([make_walk(n) for n in lengths])
        b, n = mask.shape
        coords = torch.zeros(b, n, 4, 3)
        coords[:, :, 1] = ca
        labels = torch.tensor(classes)
        return ProteinBatch(
            names=tuple(map(str, range(b))),
            tokens=torch.zeros(b, n + 2, dtype=torch.long),
            residue_mask=mask,
            coords=coords,
            atom_mask=mask[..., None].expand(b, n, 4),
            bonded=mask,
            residue_index=torch.arange(n).expand(b, n),
            cath_class=labels,
            cath_architecture=labels,
        )

    return make


def random_output(batch):
    b, n = batch.residue_mask.shape
    return Output(torch.randn(b, 4), torch.randn(b, 7), torch.randn(b, n, n))


def test_accuracy_counts_labelled_chains_alone(make_protein_batch):
    batch = make_protein_batch([30, 30, 30], [0, 2, NO_LABEL])
    output = random_output(batch)._replace(
        class_logits=torch.eye(4)[[0, 1, 3]], architecture_logits=torch.eye(7)[[5, 5, 5]]
    )
    metrics = ContactMetrics()
    metrics.update(output, batch)
    scores = metrics.compute()
    assert scores["class_accuracy"].item() == 0.5
    assert scores["architecture_accuracy"].item() == 0


def test_collection_names_and_values_are_those_of_the_scores(make_protein_batch):
    batches = [make_protein_batch([60, 45], [0, 1]), make_protein_batch([50], [2])]
    outputs = [random_output(batch) for batch in batches]
    metrics = ContactMetrics(prefix="val/")
    for output, batch in zip(outputs, batches, strict=True):
        metrics.update(output, batch)
    scores = metrics.compute()
    assert len(scores) == 9

    def mean(score, **kwargs):
        return torch.cat(
            [
                score(o.contact_logits, b.ca, b.ca_mask, **kwargs)
                for o, b in zip(outputs, batches, strict=True)
            ]
        ).mean()

    torch.testing.assert_close(scores["val/contact_recall"], mean(contact_recall))
    for name, separation in (("long", LONG), ("medium", MEDIUM)):
        for suffix, top in (("L", 1), ("L2", 2), ("L5", 5)):
            expected = mean(contact_precision, separation=separation, top=top)
            torch.testing.assert_close(scores[f"val/precision_{name}_{suffix}"], expected)


def test_scores_that_agree_on_the_first_batch_stay_apart(make_protein_batch):
    first, second = make_protein_batch([60], [0]), make_protein_batch([60], [0])
    metrics = ContactMetrics()
    metrics.update(Output(torch.eye(4)[[0]], torch.eye(7)[[0]], contact_map(first.ca).float()), first)
    metrics.update(Output(torch.eye(4)[[0]], torch.eye(7)[[1]], contact_map(second.ca).float()), second)
    scores = metrics.compute()
    assert scores["class_accuracy"].item() == 1
    assert scores["architecture_accuracy"].item() == 0.5


def test_reset_forgets_every_score(make_protein_batch):
    batch = make_protein_batch([60], [0])
    metrics = ContactMetrics()
    metrics.update(random_output(batch), batch)
    metrics.reset()
    assert all(metric.chains == 0 for metric in metrics.values())


def test_collection_can_be_pickled():
    assert len(pickle.loads(pickle.dumps(ContactMetrics()))) == 9
