from __future__ import annotations

import torch

from minifold_pl.losses.reduction import PerChain, chain_mean, pair_mask, zero_masked


def test_every_chain_counts_the_same_however_long() -> None:
    values = torch.tensor([[1.0, 1.0, 1.0, 1.0], [9.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[True] * 4, [True] + [False] * 3])
    assert chain_mean(values, mask).mean() == 5.0


def test_a_chain_with_nothing_valid_contributes_nothing() -> None:
    values = torch.tensor([[2.0, 4.0], [float("inf"), float("nan")]], requires_grad=True)
    term = chain_mean(values, torch.tensor([[True, True], [False, False]]))
    assert term.value.tolist() == [3.0, 0.0] and term.counted.tolist() == [True, False]
    assert term.mean() == 3.0


def test_a_batch_with_nothing_valid_is_zero_with_zero_gradient() -> None:
    values = torch.randn(2, 3, requires_grad=True)
    mean = chain_mean(values, torch.zeros(2, 3, dtype=torch.bool)).mean()
    mean.backward()
    assert mean == 0 and values.grad is not None and torch.equal(values.grad, torch.zeros(2, 3))


def test_the_mean_divides_by_the_counted_chains_only() -> None:
    assert PerChain(torch.tensor([4.0, 0.0]), torch.tensor([True, False])).mean() == 4.0


def test_masked_rows_reach_neither_value_nor_gradient() -> None:
    x = torch.tensor([[[1.0], [float("nan")]]], requires_grad=True)
    kept = zero_masked(x, torch.tensor([[True, False]]))
    (kept**2).sum().backward()
    assert kept.flatten().tolist() == [1.0, 0.0]
    assert x.grad is not None and x.grad.flatten().tolist() == [2.0, 0.0]


def test_pairs_are_of_two_different_valid_residues() -> None:
    pairs = pair_mask(torch.tensor([[True, True, False, True]]))
    assert pairs[0].nonzero().tolist() == [[0, 1], [0, 3], [1, 0], [1, 3], [3, 0], [3, 1]]
    assert pair_mask(torch.ones(1, 4, dtype=torch.bool), separation=3)[0].nonzero().tolist() == [
        [0, 3],
        [3, 0],
    ]
