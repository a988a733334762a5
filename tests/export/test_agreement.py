from __future__ import annotations

import pytest
import torch

from minifold_pl.export import agreement
from minifold_pl.export.agreement import sample_agreement
from minifold_pl.metrics.lddt import lddt_ca


def _chain(length: int = 50, seed: int = 0) -> torch.Tensor:
    steps = torch.randn(length, 3, generator=torch.Generator().manual_seed(seed))
    return torch.cumsum(3.8 * steps / steps.norm(dim=-1, keepdim=True), 0)


def test_moved_copies_agree_fully() -> None:
    chain = _chain()
    turn = torch.linalg.qr(torch.randn(3, 3))[0]
    samples = torch.stack([chain, chain @ turn.T + 5, chain - 100])
    torch.testing.assert_close(sample_agreement(samples), torch.ones(3, 50), atol=1e-6, rtol=0)


def test_one_sample_agrees_with_nothing() -> None:
    assert torch.equal(sample_agreement(_chain()[None]), torch.zeros(1, 50))


def test_the_odd_one_out_ranks_last_and_the_moved_residues_lowest() -> None:
    chain = _chain()
    bent = chain.clone()
    bent[40:] = bent[40:] + 8 * torch.randn(10, 3)
    scored = sample_agreement(torch.stack([chain, chain + 0.05 * torch.randn(50, 3), bent]))
    assert scored.mean(-1).argmin() == 2
    assert scored[0, :20].mean() > scored[0, 42:].mean() + 0.1


def test_weighted_by_neighbours_it_is_the_lddt_of_two_samples() -> None:
    a, b = _chain(seed=1), _chain(seed=1) + torch.randn(50, 3)
    per_residue = sample_agreement(torch.stack([a, b]))[0]
    near = ((torch.cdist(b, b) < 15) & ~torch.eye(50, dtype=torch.bool)).sum(-1)
    expected = lddt_ca(a[None], b[None], torch.ones(1, 50, dtype=torch.bool))
    assert (per_residue * near).sum() / near.sum() == pytest.approx(float(expected), abs=1e-6)


def test_samples_taken_in_blocks_agree_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = torch.stack([_chain(seed=1) + 0.3 * torch.randn(50, 3) for _ in range(7)])
    at_once = sample_agreement(samples)
    monkeypatch.setattr(agreement, "_DISTANCES_AT_ONCE", 2 * 50**2)
    torch.testing.assert_close(sample_agreement(samples), at_once)


def test_the_order_of_the_samples_changes_nothing() -> None:
    samples = torch.stack([_chain(seed=k) for k in range(4)])
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(sample_agreement(samples[order]), sample_agreement(samples)[order])


def test_scattered_residues_score_zero_not_nan() -> None:
    samples = 1000 * torch.randn(3, 10, 3)
    assert torch.equal(sample_agreement(samples), torch.zeros(3, 10))
