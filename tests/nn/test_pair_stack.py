from __future__ import annotations

import pytest
import torch

from minifold_pl.nn.embeddings import LinearRelativePosition
from minifold_pl.nn.pair_stack import PairStack
from minifold_pl.types import SequenceFeatures

BLOCKS = ["enhanced", "axial"]


def index_of(mask):
    return torch.arange(mask.shape[1]).expand(mask.shape)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_chain_does_not_feel_its_batch_or_its_padding(
    block, small_stack, reawaken, make_features, make_mask
):
    stack = reawaken(small_stack(block=block))
    mask = make_mask()
    features = make_features(mask)
    together = stack(features, mask, index_of(mask))
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = SequenceFeatures(
            features.single[row : row + 1, :length],
            features.pair[row : row + 1, :length, :length],
            features.pooled[row : row + 1],
        )
        own = torch.ones(1, length, dtype=torch.bool)
        expected = stack(alone, own, index_of(own))[0]
        assert torch.allclose(together[row, :length, :length], expected, atol=2e-5)


def test_padding_is_zero_even_where_the_input_was_not_a_number(
    small_stack, reawaken, make_features, make_mask
):
    stack, mask = reawaken(small_stack()), make_mask()
    features = make_features(mask)
    both = mask[:, :, None] & mask[:, None]
    clean = stack(features, mask, index_of(mask))
    features.single[~mask] = torch.nan
    features.pair[~both] = torch.inf
    dirty = stack(features, mask, index_of(mask))
    assert torch.equal(clean, dirty)
    assert dirty[~both].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("block", BLOCKS)
def test_outputs_and_gradients_are_finite_with_an_empty_chain_aboard(
    block, dtype, small_stack, reawaken, make_features, make_mask
):
    stack, mask = reawaken(small_stack(block=block)), make_mask((14, 0))
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        pair = stack(make_features(mask), mask, index_of(mask))
    pair.float().square().sum().backward()
    assert pair.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in stack.parameters())


@pytest.mark.parametrize("block", BLOCKS)
def test_every_parameter_gets_a_gradient(block, small_stack, reawaken, make_features, make_mask):
    stack, mask = reawaken(small_stack(block=block)), make_mask()
    (stack(make_features(mask), mask, index_of(mask)) * torch.randn(12)).square().sum().backward()
    assert [n for n, p in stack.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_recomputed_activations_give_the_same_output_and_gradients(
    small_stack, reawaken, make_features, make_mask
):
    stack, mask = reawaken(small_stack()), make_mask()
    features = make_features(mask)
    results = []
    for stack.checkpoint_activations in (False, True):
        stack.zero_grad()
        pair = stack(features, mask, index_of(mask))
        pair.square().sum().backward()
        results.append((pair.detach(), [p.grad.clone() for p in stack.parameters()]))
    (pair, grads), (pair_again, grads_again) = results
    assert torch.equal(pair, pair_again)
    assert all(torch.equal(a, b) for a, b in zip(grads, grads_again, strict=True))


def test_it_starts_as_the_identity_on_its_embedding(small_stack, make_features, make_mask):
    stack, mask = small_stack(), make_mask()
    features = make_features(mask)
    deep = stack(features, mask, index_of(mask))
    stack.blocks = torch.nn.ModuleList()
    assert torch.equal(deep, stack(features, mask, index_of(mask)))


def test_a_position_embedding_of_the_wrong_width_is_refused_by_name():
    with pytest.raises(ValueError, match=r"relative_position.d=8.*d_pair=128"):
        PairStack(relative_position=LinearRelativePosition(8))


def test_it_compiles_to_one_graph(small_stack, reawaken, make_features, make_mask):
    stack, mask = reawaken(small_stack()), make_mask()
    features = make_features(mask)
    compiled = torch.compile(stack, backend="aot_eager", fullgraph=True)
    expected = stack(features, mask, index_of(mask))
    assert torch.allclose(compiled(features, mask, index_of(mask)), expected, atol=1e-5)
