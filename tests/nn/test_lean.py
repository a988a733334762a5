from __future__ import annotations

import pytest
import torch
from torch import nn

from minifold_pl.nn import lean
from minifold_pl.nn.triangle import TriangleMultiplication


def maps():
    layers = nn.LayerNorm(5).double(), nn.Linear(5, 6).double(), nn.Linear(5, 3).double()
    for parameter in (p for layer in layers for p in layer.parameters()):
        nn.init.normal_(parameter)
    return layers


def test_normed_maps_are_two_maps_of_a_norm():
    norm, first, second = maps()
    x = torch.randn(7, 5, dtype=torch.float64)
    found = lean.normed_maps(x, norm, first, second)
    assert torch.equal(found[0], first(norm(x))) and torch.equal(found[1], second(norm(x)))


def test_their_gradients_are_right():
    norm, first, second = maps()
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    leaves = [x, *norm.parameters(), *first.parameters(), *second.parameters()]

    def gradients(a, b):
        return torch.autograd.grad((a.square().sum() + b.sin().sum()), leaves)

    y = norm(x)
    for found, exact in zip(
        gradients(*lean.normed_maps(x, norm, first, second)), gradients(first(y), second(y)), strict=True
    ):
        assert torch.allclose(found, exact, rtol=1e-9, atol=1e-10)


def test_a_gate_and_its_gradients():
    x, gate = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.equal(lean.gated(x, gate), x * gate.sigmoid())
    assert torch.autograd.gradcheck(lean.gated, (x, gate))


def test_a_closed_gate_has_a_finite_gradient():
    x, gate = torch.ones(3, requires_grad=True), torch.full((3,), -1e4, requires_grad=True)
    lean.gated(x, gate).sum().backward()
    assert x.grad.eq(0).all() and gate.grad.eq(0).all()


def test_clamping_is_done_in_place_and_stops_gradients_beyond_the_bound():
    leaf = torch.tensor([-3.0, -1.0, 0.5, 2.5], requires_grad=True)
    x = leaf * 1.0
    out = lean.clamped(x, 2.0)
    assert out.tolist() == [-2.0, -1.0, 0.5, 2.0] and out.data_ptr() == x.data_ptr()
    out.sum().backward()
    assert leaf.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("outgoing", [True, False])
def test_with_and_without_gradients_the_triangle_update_is_the_same(outgoing, reawaken, make_mask):
    module = reawaken(TriangleMultiplication(10, 6, outgoing))
    pair, mask = torch.randn(3, 14, 14, 10), make_mask()
    with torch.no_grad():
        plain = module(pair, mask)
    assert torch.equal(module(pair, mask), plain)


def test_a_triangle_update_keeps_a_third_less_than_its_plain_form(monkeypatch, reawaken, make_mask):
    module, mask = reawaken(TriangleMultiplication(16, 8)), make_mask()
    pair = torch.randn(3, 14, 14, 16, requires_grad=True)

    def kept() -> int:
        storages = {}
        own = {p.untyped_storage().data_ptr() for p in (*module.parameters(), pair)}

        def pack(x):
            storages[x.untyped_storage().data_ptr()] = x
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            out = module(pair, mask)
        own.add(out.untyped_storage().data_ptr())  # the caller's
        return sum(x.untyped_storage().nbytes() for place, x in storages.items() if place not in own)

    less = kept()
    monkeypatch.setattr(lean, "worthwhile", lambda _: False)
    assert less < 0.7 * kept()


def test_under_autocast_and_without_gradients_the_plain_form_runs():
    x = torch.zeros(1)
    assert lean.worthwhile(x)
    with torch.no_grad():
        assert not lean.worthwhile(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not lean.worthwhile(x)
