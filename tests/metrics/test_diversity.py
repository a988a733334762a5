"""Diversity is 0 for copies, whatever their pose, and what mean TM says for others."""

from __future__ import annotations

import pytest
import torch

from minifold_pl.metrics.diversity import diversity, pairwise_tm
from minifold_pl.metrics.tm_search import tm_score


def test_copies_in_other_poses_have_none_and_their_mirror_image_has_some(
    make_batch, make_walk, rotation
) -> None:
    true, mask = make_batch([make_walk(40), make_walk(30)])
    copies = torch.stack([true, true @ rotation.T + 50, true.flip(2) * torch.tensor([1.0, 1, -1])], 1)
    torch.testing.assert_close(diversity(copies[:, :2], mask), torch.zeros(2), atol=1e-5, rtol=0)
    mirrored = torch.stack([true, -true], 1)
    assert (diversity(mirrored, mask) > 0.3).all()


def test_it_is_one_less_the_mean_over_pairs(make_batch, make_walk) -> None:
    samples = torch.stack([make_batch([make_walk(40), make_walk(30)])[0] for _ in range(3)], 1)
    mask = torch.arange(40)[None] < torch.tensor([[40], [30]])
    by_hand = [tm_score(samples[:, i], samples[:, j], mask) for i, j in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(pairwise_tm(samples, mask), torch.stack(by_hand, 1))
    torch.testing.assert_close(diversity(samples, mask), 1 - torch.stack(by_hand, 1).mean(1))


@pytest.mark.parametrize("count", [0, 1])
def test_one_sample_has_no_diversity(make_batch, make_walk, count) -> None:
    true, mask = make_batch([make_walk(20)])
    assert diversity(true[:, None][:, :count], mask).isnan().all()
