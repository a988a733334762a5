from __future__ import annotations

import pytest
import torch

from minifold_pl.nn.pair_attention import attend_pairs

SCALE = 0.5


def arguments(known_bias: bool, dtype=torch.float64):
    shapes = ((2, 3, 5, 4), (2, 3, 5, 4), (2, 3, 5), (2, 5, 5, 6), (3, 6), (3,), (2, 3, 5, 5))
    made = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    return [*made[:6], made[6] if known_bias else None]


def plainly(queries, keys, key_bias, pair, weight, bias, pair_bias):
    if pair_bias is None:
        pair_bias = (pair @ weight.T + bias).permute(0, 3, 1, 2)
    logits = queries @ keys.mT + key_bias.unsqueeze(2) + SCALE * pair_bias
    weights = logits.softmax(-1)
    return weights, torch.einsum("bhij,bijp->bihp", weights, pair)


@pytest.mark.parametrize("known_bias", [True, False])
def test_it_is_softmax_attention_with_a_bias(known_bias):
    args = arguments(known_bias)
    for found, exact in zip(attend_pairs(*args, SCALE), plainly(*args), strict=True):
        assert torch.allclose(found, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("known_bias", [True, False])
def test_its_gradients_are_right(known_bias):
    args = arguments(known_bias)
    torch.autograd.gradcheck(lambda *a: attend_pairs(*a, SCALE), args)


def test_pair_features_without_a_gradient_cost_none():
    args = arguments(False)
    args[3] = args[3].detach()
    weights, gathered = attend_pairs(*args, SCALE)
    leaves = [a for a in args if a is not None and a.requires_grad]
    exact = plainly(*args)
    found = torch.autograd.grad((weights.square().sum() + gathered.sum()), leaves)
    for a, b in zip(
        found, torch.autograd.grad(exact[0].square().sum() + exact[1].sum(), leaves), strict=True
    ):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("known_bias", [True, False])
def test_copies_of_a_chain_that_share_pair_features_get_what_repeated_ones_give_them(known_bias):
    """Three copies of two chains, copy-major: all chains, then all chains again."""
    shapes = ((6, 3, 5, 4), (6, 3, 5, 4), (6, 3, 5), (2, 5, 5, 6), (3, 6), (3,), (6, 3, 5, 5))
    queries, keys, key_bias, pair, weight, bias, pair_bias = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes
    )
    if not known_bias:
        pair_bias = None
    others = [queries, keys, key_bias, weight, bias, *([pair_bias] if known_bias else [])]

    def gradients(pair, shared):
        weights, gathered = attend_pairs(queries, keys, key_bias, shared, weight, bias, pair_bias, SCALE)
        (weights.square().sum() + (gathered * gathered.detach().cos()).sum()).backward()
        found = [weights, gathered, pair.grad, *(x.grad for x in others)]
        for x in (pair, *others):
            x.grad = None
        return found

    for a, b in zip(gradients(pair, pair), gradients(pair, torch.cat([pair, pair, pair])), strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_only_the_products_with_pairs_are_rounded(dtype):
    args = arguments(False, torch.float32)
    leaves = [a for a in args if a is not None]
    with torch.autocast("cpu", dtype=dtype):
        weights, gathered = attend_pairs(*args, SCALE)
    assert weights.dtype == torch.float32 and gathered.dtype == dtype
    exact = plainly(*args)
    assert torch.allclose(weights, exact[0], atol=0.02) and torch.allclose(
        gathered.float(), exact[1], atol=0.1
    )
    gradients = torch.autograd.grad(weights.square().sum() + gathered.float().sum(), leaves)
    assert [g.dtype for g in gradients] == [torch.float32] * len(leaves)
    reference = torch.autograd.grad(exact[0].square().sum() + exact[1].sum(), leaves)
    for a, b in zip(gradients, reference, strict=True):
        assert (a - b).norm() <= 0.03 * (b.norm() + 1)
