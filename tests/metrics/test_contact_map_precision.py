import torch

from minifold_pl.metrics.contacts import CONTACT_SCORES, contact_map_precision, contact_recall


def test_precision_and_recall_of_a_map_by_hand():
    # A straight chain at 3.8 Å: contacts are the pairs with |i − j| ≤ 2.
    ca = torch.tensor([[[3.8 * i, 0.0, 0.0] for i in range(6)]])
    mask = torch.ones(1, 6, dtype=torch.bool)
    logits = torch.full((1, 6, 6), -5.0)
    for i, j in ((0, 1), (1, 2), (0, 5), (2, 5)):
        logits[0, i, j] = logits[0, j, i] = 5.0
    assert contact_map_precision(logits, ca, mask).tolist() == [0.5]
    torch.testing.assert_close(contact_recall(logits, ca, mask), torch.tensor([2 / 9]))
    assert CONTACT_SCORES["contact_precision"](logits, ca, mask).tolist() == [0.5]
    mask[0, 5] = False  # an unknown residue is in no pair
    assert contact_map_precision(logits, ca, mask).tolist() == [1.0]
    assert contact_map_precision(torch.full_like(logits, -5.0), ca, mask).isnan().all()
