from __future__ import annotations

import pytest
import torch

from minifold_pl.nn.axial import AxialAttention


@pytest.mark.parametrize("axis", ["row", "column"])
def test_it_agrees_with_plain_softmax_attention(axis, reawaken, textbook, make_mask):
    module = reawaken(AxialAttention(10, heads=2, d_head=4, axis=axis)).double()
    pair, mask = torch.randn(3, 14, 14, 10, dtype=torch.float64), make_mask()
    both = mask[:, :, None] & mask[:, None]
    assert torch.allclose(module(pair, mask)[both], textbook(module)(pair, mask)[both], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("axis", ["row", "column"])
def test_masked_residues_do_not_reach_the_others(axis, reawaken, make_mask):
    module, mask = reawaken(AxialAttention(10, heads=2, d_head=4, axis=axis)), make_mask()
    both = mask[:, :, None] & mask[:, None]
    pair = torch.randn(3, 14, 14, 10)
    junk = torch.where(both[..., None], pair, 100 * torch.randn_like(pair))
    assert torch.equal(module(pair, mask)[both], module(junk, mask)[both])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_chain_with_every_residue_masked_is_finite(dtype, reawaken):
    module = reawaken(AxialAttention(10, heads=2, d_head=4))
    pair = torch.randn(1, 6, 6, 10, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        y = module(pair, torch.zeros(1, 6, dtype=torch.bool))
    y.float().sum().backward()
    assert y.isfinite().all() and pair.grad.isfinite().all()
