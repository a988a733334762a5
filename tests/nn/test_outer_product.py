from __future__ import annotations

import torch

from minifold_pl.nn.outer_product import OuterProduct


def test_it_agrees_with_the_full_outer_product():
    module = OuterProduct(10, 7, hidden=3).double()
    single = torch.randn(2, 5, 10, dtype=torch.float64)
    y = module.norm(single)
    outer = torch.einsum("biu,bjv->bijuv", module.left(y), module.right(y)).flatten(-2)
    assert torch.allclose(module(single), module.out(outer), rtol=1e-12)
