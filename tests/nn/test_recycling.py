"""The trunk's features, read again."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from minifold_pl.nn.null_condition import NullCondition
from minifold_pl.nn.pair_stack import PairStack
from minifold_pl.nn.recycling import Recycling, recycled
from minifold_pl.types import SequenceFeatures


@pytest.fixture
def parts(reawaken):
    stack = PairStack(
        d_single_in=8, d_pair_in=6, d_pair=10, blocks=2, heads=2, d_head=4, triangle_hidden=4, outer_hidden=4
    )
    return Recycling(8, 10, heads=2), reawaken(stack)


@pytest.fixture
def inputs(make_mask):
    mask = make_mask()
    b, n = mask.shape
    features = SequenceFeatures(torch.randn(b, n, 8), torch.randn(b, n, n, 6), torch.randn(b, 4))
    return features, mask, torch.arange(n).expand(b, n)


@pytest.mark.parametrize("recycles", [0, 1, 3])
def test_before_training_any_number_of_passes_is_one_pass(recycles, parts, inputs) -> None:
    recycling, stack = parts
    features, mask, places = inputs
    single, pair = recycled(recycling, stack, features, mask, places, recycles=recycles)
    assert torch.equal(single, features.single.masked_fill(~mask[..., None], 0))
    torch.testing.assert_close(pair, stack(features, mask, places), rtol=0, atol=1e-6)


def test_each_pass_changes_single_and_pair_features_once_it_is_trained(parts, inputs, reawaken) -> None:
    recycling, stack = parts
    reawaken(recycling)
    found = [recycled(recycling, stack, *inputs, recycles=k) for k in range(3)]
    for before, after in pairwise(found):
        assert all((a - b).abs().max() > 1e-2 for a, b in zip(before, after, strict=True))


def test_the_gradient_goes_through_the_last_pass_alone(parts, inputs, reawaken) -> None:
    recycling, stack = parts
    reawaken(recycling)
    graphs = []
    stack.register_forward_hook(lambda module, args, output: graphs.append(output.requires_grad))
    single, pair = recycled(recycling, stack, *inputs, recycles=2)
    assert graphs == [False, False, True]
    (single.square().sum() + (pair * torch.randn_like(pair)).sum()).backward()
    assert all(p.grad is not None for p in [*recycling.parameters(), *stack.parameters()])
    assert recycling.single.weight.grad.any() and recycling.pooled.weight.grad.any()


def test_also_without_a_recycle_every_parameter_has_a_gradient(parts, inputs, reawaken) -> None:
    """Distributed training waits for those that have none."""
    recycling, stack = parts
    single, pair = recycled(reawaken(recycling), stack, *inputs, recycles=0)
    (single.sum() + pair.sum()).backward()
    assert all(p.grad is not None for p in recycling.parameters())


def test_a_chain_does_not_feel_its_batch_or_its_padding(parts, inputs, reawaken) -> None:
    recycling, stack = parts
    reawaken(recycling)
    features, mask, places = inputs
    single, pair = recycled(recycling, stack, features, mask, places, recycles=2)
    assert not single[~mask].any()
    for row, n in enumerate(mask.sum(1).tolist()):
        one = slice(row, row + 1)
        alone = SequenceFeatures(features.single[one, :n], features.pair[one, :n, :n], features.pooled[one])
        s, p = recycled(recycling, stack, alone, mask[one, :n], places[one, :n], recycles=2)
        torch.testing.assert_close(single[row, :n], s[0], rtol=0, atol=1e-4)
        torch.testing.assert_close(pair[row, :n, :n], p[0], rtol=0, atol=1e-4)


def test_the_null_condition_knows_separations_and_nothing_else(make_mask) -> None:
    mask = make_mask()
    places = torch.arange(14).expand(3, 14)
    null = NullCondition(8, 10, max_rel=4)
    single, pair = null(mask, places)
    assert single.shape == (3, 14, 8) and pair.shape == (3, 14, 14, 10)
    assert not single[~mask].any() and not pair[0, 9:].any() and not pair[0, :, 9:].any()
    assert torch.equal(single[0, 0], single[1, 7])
    assert torch.equal(pair[0, 2, 3], pair[1, 5, 6])
    assert not torch.allclose(pair[0, 2, 3], pair[0, 3, 2])
    assert torch.equal(null(mask, places + 40)[1], pair)
    gap = null(mask, places + (places > 3) * 100)[1]
    assert not torch.allclose(gap[0, 3, 4], pair[0, 3, 4])
    assert pair[0, :9, :9].var(-1, unbiased=False).mean().item() == pytest.approx(1, abs=0.05)
