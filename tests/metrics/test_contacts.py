import pytest
import torch

from minifold_pl.metrics.contacts import (
    ALL,
    LONG,
    MEDIUM,
    SeparationRange,
    contact_map,
    contact_precision,
    contact_recall,
)


@pytest.fixture
def folded(make_batch):
    """Two hairpins, so that every range has contacts: strands 5 Å apart, 3.4 Å a residue."""

    def hairpin(length):
        place = torch.arange(length)
        along = torch.where(place < length // 2, place, length - 1 - place) * 3.4
        across = (place >= length // 2) * 5.0
        return torch.stack([along, across, 0.0 * across], -1)

    return make_batch([hairpin(60), hairpin(40)])


def perfect(ca):
    return torch.where(contact_map(ca), 5.0, -5.0)


def loop_precision(logits, ca, first, last, top):
    """Pair by pair, with a sort: right where no two logits are equal."""
    n = len(ca)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n) if first <= j - i <= last]
    pairs.sort(key=lambda ij: -logits[ij])
    pairs = pairs[: max(1, n // top)]
    return sum((ca[i] - ca[j]).norm().item() < 8 for i, j in pairs) / len(pairs)


@pytest.mark.parametrize("separation", [LONG, MEDIUM])
@pytest.mark.parametrize("top", [1, 2, 5])
def test_precision_agrees_with_a_sorted_loop(folded, separation, top):
    ca, mask = folded
    logits = perfect(ca) * 0.1 + torch.randn(2, 60, 60)
    measured = contact_precision(logits, ca, mask, separation=separation, top=top)
    for k, length in enumerate((60, 40)):
        expected = loop_precision(logits[k], ca[k, :length], separation.first, separation.last or 999, top)
        assert measured[k].item() == pytest.approx(expected, abs=1e-6)


def test_true_map_has_full_precision_and_recall(folded):
    ca, mask = folded
    logits = perfect(ca)
    # L/5 pairs: the hairpins have more long-range contacts than that, but fewer than L.
    torch.testing.assert_close(contact_precision(logits, ca, mask, top=5), torch.ones(2))
    torch.testing.assert_close(contact_recall(logits, ca, mask), torch.ones(2))
    torch.testing.assert_close(contact_recall(-logits, ca, mask), torch.zeros(2))


def test_ties_count_as_their_mean(folded):
    ca, mask = folded
    flat = torch.zeros(2, 60, 60)
    pairs = torch.ones(60, 60).triu(24).bool() & mask[:, :, None] & mask[:, None, :]
    density = (contact_map(ca) & pairs).sum((1, 2)) / pairs.sum((1, 2))
    torch.testing.assert_close(contact_precision(flat, ca, mask, top=5), density)


def test_masked_residues_change_no_contact_score(folded):
    ca, mask = folded
    mask = mask.clone()
    mask[0, 10:14] = False
    logits = perfect(ca) + torch.randn(2, 60, 60)
    outside = ~(mask[:, :, None] & mask[:, None, :])
    other_ca = ca.masked_fill(~mask[..., None], float("nan"))
    for score in (contact_precision, contact_recall):
        expected = score(logits, ca, mask)
        for filling in (99.0, float("nan")):
            torch.testing.assert_close(score(logits.masked_fill(outside, filling), other_ca, mask), expected)


def test_score_of_a_chain_does_not_depend_on_padding(folded):
    ca, mask = folded
    logits = torch.randn(2, 60, 60)
    alone = contact_precision(logits[1:, :40, :40], ca[1:, :40], mask[1:, :40])
    torch.testing.assert_close(contact_precision(logits, ca, mask)[1:], alone)


def test_range_without_pairs_has_no_precision(make_batch, make_walk):
    ca, mask = make_batch([make_walk(24), make_walk(25)])
    precision = contact_precision(torch.zeros(2, 25, 25), ca, mask)
    assert precision[0].isnan()
    assert precision[1].isfinite()


def test_fewer_pairs_than_l_are_all_looked_at(make_batch):
    ca, mask = make_batch([torch.zeros(26, 3)])  # 3 long-range pairs, all in contact
    assert contact_precision(torch.randn(1, 26, 26), ca, mask).item() == 1


def test_recall_over_all_pairs_starts_at_neighbours(make_batch):
    line = torch.arange(6) * 3.8
    ca, mask = make_batch([torch.stack([line, 0 * line, 0 * line], -1)])
    logits = torch.full((1, 6, 6), -9.0)
    logits[0].diagonal(1).fill_(9.0)
    # Contacts: 5 neighbours and 4 next neighbours at 7.6 Å.
    assert contact_recall(logits, ca, mask, separation=ALL).item() == pytest.approx(5 / 9)
    assert contact_recall(logits, ca, mask, separation=SeparationRange(2)).item() == 0


def test_nan_logits_are_never_a_hit(folded):
    ca, mask = folded
    logits = torch.full((2, 60, 60), float("nan"))
    torch.testing.assert_close(contact_precision(logits, ca, mask), torch.zeros(2))
    torch.testing.assert_close(contact_recall(logits, ca, mask), torch.zeros(2))
