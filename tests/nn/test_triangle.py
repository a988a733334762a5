from __future__ import annotations

import pytest
import torch

from minifold_pl.nn.triangle import TriangleMultiplication


@pytest.mark.parametrize("outgoing", [True, False])
def test_it_agrees_with_the_textbook_einsum(outgoing, reawaken, textbook, make_mask):
    module = reawaken(TriangleMultiplication(10, 6, outgoing)).double()
    mask = make_mask()
    pair = torch.randn(3, 14, 14, 10, dtype=torch.float64)
    both = mask[:, :, None] & mask[:, None]
    assert torch.allclose(
        module(pair, mask)[both], textbook(module)(pair, mask)[both], rtol=1e-10, atol=1e-12
    )


def test_single_precision_agrees_with_double_to_a_millionth(reawaken, textbook, make_mask):
    module = reawaken(TriangleMultiplication(16, 8))
    mask = make_mask((40, 33))
    pair = torch.randn(2, 40, 40, 16)
    low = module(pair, mask)
    exact = textbook(module.double())(pair.double(), mask)
    both = mask[:, :, None] & mask[:, None]
    error = (low.double() - exact)[both].norm() / exact[both].norm()
    assert error < 1e-6


def test_outgoing_and_incoming_mirror_each_other_under_transposition(reawaken, make_mask):
    outgoing = reawaken(TriangleMultiplication(10, 6, True))
    incoming = TriangleMultiplication(10, 6, False)
    incoming.load_state_dict(outgoing.state_dict())
    pair, mask = torch.randn(3, 14, 14, 10), make_mask()
    # the sum of a[i,k] b[j,k] over the transposed edges is that of a[k,i] b[k,j]; the gate stays behind
    torch.nn.init.zeros_(outgoing.gate.weight)
    torch.nn.init.zeros_(incoming.gate.weight)
    assert torch.allclose(outgoing(pair.transpose(1, 2), mask), incoming(pair, mask), atol=1e-5)


@pytest.mark.parametrize("outgoing", [True, False])
def test_masked_residues_do_not_reach_the_others(outgoing, reawaken, make_mask):
    module, mask = reawaken(TriangleMultiplication(10, 6, outgoing)), make_mask()
    both = mask[:, :, None] & mask[:, None]
    pair = torch.randn(3, 14, 14, 10)
    junk = torch.where(both[..., None], pair, 1e3 * torch.randn_like(pair))
    assert torch.equal(module(pair, mask)[both], module(junk, mask)[both])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_512_large_terms_stay_finite_in_half_precision(dtype, reawaken):
    module = reawaken(TriangleMultiplication(4, 2, True))
    with torch.no_grad():  # every edge about 20: the sum is 512 · 400 = 2e5, beyond fp16's 65504
        module.edges.weight.zero_()
        module.edges.bias.fill_(20.0)
    pair = torch.randn(1, 512, 512, 4, requires_grad=True)
    mask = torch.ones(1, 512, dtype=torch.bool)
    with torch.autocast("cpu", dtype=dtype):
        y = module(pair, mask)
    assert y.isfinite().all()
    y.float().square().mean().backward()
    assert pair.grad.isfinite().all()


def test_the_sum_is_clamped_before_the_norm(reawaken):
    module = reawaken(TriangleMultiplication(4, 2, True))
    seen = []
    module.norm_sum.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        module.edges.bias.fill_(1e3)
    module(torch.randn(1, 8, 8, 4), torch.ones(1, 8, dtype=torch.bool))
    assert seen[0].abs().max() == 1e4


def test_fp16_sums_in_single_precision_and_bfloat16_does_not(reawaken, make_mask):
    module, seen = reawaken(TriangleMultiplication(10, 6)), []
    module.norm_sum.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype=dtype):
            module(torch.randn(3, 14, 14, 10), make_mask())
    assert seen == [torch.float32, torch.bfloat16]
