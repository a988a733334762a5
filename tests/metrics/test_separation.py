import pytest
import torch

from minifold_pl.metrics.contacts import LONG, contact_map, contact_precision, contact_recall
from minifold_pl.metrics.separation import SeparationBaseline


def test_probability_is_the_counted_share_at_each_separation(make_batch, make_walk):
    ca, mask = make_batch([make_walk(20), make_walk(12)])
    baseline = SeparationBaseline(separations=8)
    baseline.update(ca, mask)
    contact = contact_map(ca)
    for separation in range(1, 7):
        hits = pairs = 0
        for k, length in enumerate((20, 12)):
            hits += sum(bool(contact[k, i, i + separation]) for i in range(length - separation))
            pairs += length - separation
        assert baseline.probabilities()[separation].item() == pytest.approx((hits + 0.5) / (pairs + 1))
    assert baseline.pairs[7] == sum(n - s for n in (20, 12) for s in range(7, n))


def test_two_updates_are_one(make_batch, make_walk):
    ca, mask = make_batch([make_walk(20), make_walk(12)])
    together, apart = SeparationBaseline(), SeparationBaseline()
    together.update(ca, mask)
    for k in range(2):
        apart.update(ca[k : k + 1], mask[k : k + 1])
    assert torch.equal(together.contacts, apart.contacts)
    assert torch.equal(together.pairs, apart.pairs)


def test_masked_residues_are_not_counted(make_batch, make_walk):
    ca, mask = make_batch([make_walk(20)])
    mask[0, 15:] = False
    cut, masked = SeparationBaseline(), SeparationBaseline()
    cut.update(ca[:, :15], mask[:, :15])
    masked.update(ca.masked_fill(~mask[..., None], float("nan")), mask)
    assert torch.equal(cut.contacts, masked.contacts)
    assert torch.equal(cut.pairs, masked.pairs)


def test_tables_survive_a_state_dict(make_batch, make_walk):
    baseline = SeparationBaseline()
    baseline.update(*make_batch([make_walk(20)]))
    copy = SeparationBaseline()
    copy.load_state_dict(baseline.state_dict())
    assert torch.equal(copy(30), baseline(30))
    assert not torch.equal(SeparationBaseline()(30), baseline(30))


def test_logits_depend_on_the_separation_alone_also_beyond_the_table():
    logits = SeparationBaseline(separations=4)(9)
    assert logits.shape == (9, 9)
    assert torch.equal(logits, logits.T)
    assert torch.equal(logits[0, 3:], logits[0, 3].expand(6))
    assert torch.equal(logits.diagonal(2), logits[0, 2].expand(7))


def test_positive_weight_shifts_the_logits_to_the_minimum_of_the_weighted_loss(make_batch, make_walk):
    ca, mask = make_batch([make_walk(40) for _ in range(8)])
    baseline = SeparationBaseline()
    baseline.update(ca, mask)
    pair = (mask[:, :, None] & mask[:, None, :]).triu(1)
    target = contact_map(ca)[pair].float()

    def loss(shift):
        logits = (baseline(40, pos_weight=5.0) + shift).expand(8, 40, 40)[pair]
        weight = torch.tensor(5.0)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)

    assert loss(0.0) < loss(0.3)
    assert loss(0.0) < loss(-0.3)


def test_separation_alone_scores_as_measured_on_real_chains(real_chains, make_batch):
    train, held_out = make_batch(real_chains[:70]), make_batch(real_chains[70:])
    baseline = SeparationBaseline()
    baseline.update(*train)
    ca, mask = held_out
    logits = baseline(ca.shape[1], pos_weight=10.0).expand(len(ca), -1, -1)
    precision = contact_precision(logits, ca, mask, separation=LONG, top=1)
    # Measured on a large set: 0.025 to 0.03 for the top L at long range, recall 0.71 over all pairs.
    assert 0.015 < precision.nanmean() < 0.06
    assert contact_recall(logits, ca, mask).mean().item() == pytest.approx(0.71, abs=0.08)


def test_table_of_one_entry_is_refused():
    with pytest.raises(ValueError, match="separations is 1"):
        SeparationBaseline(separations=1)
