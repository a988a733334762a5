"""The first stage: its loss, labels and embedding."""

from __future__ import annotations

from dataclasses import replace

import torch

from minifold_pl.constants import NO_LABEL


def test_the_total_is_the_sum_of_the_three_terms(contact, batch) -> None:
    contact.eval()
    total, terms = contact.losses(batch)
    assert terms.keys() == {"class", "architecture", "contact"}
    torch.testing.assert_close(total, sum(terms.values()))


def test_a_missing_label_leaves_its_own_term_only(contact, batch) -> None:
    contact.eval()
    _, full = contact.losses(batch)
    unlabelled = replace(batch, cath_class=torch.full_like(batch.cath_class, NO_LABEL))
    _, partial = contact.losses(unlabelled)
    assert partial["class"] == 0
    assert full["class"] > 0
    assert torch.equal(full["contact"], partial["contact"])
    assert torch.isfinite(partial["architecture"])


def test_every_parameter_gets_a_gradient(contact, batch) -> None:
    labelled = replace(batch, cath_architecture=torch.zeros_like(batch.cath_architecture))
    total, _ = contact.losses(labelled)
    total.backward()
    assert [n for n, p in contact.named_parameters() if p.grad is None] == []


def test_the_pooled_embedding_does_not_depend_on_the_batch(contact, make_batch) -> None:
    contact.eval()
    with torch.no_grad():
        both = contact.embed(make_batch([("one", 12), ("two", 40)])).pooled
        alone = contact.embed(make_batch([("one", 12)])).pooled
    torch.testing.assert_close(both[:1], alone, rtol=1e-4, atol=1e-5)
