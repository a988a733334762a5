"""Clipping by module."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from minifold_pl.callbacks.module_clipping import ModuleClipping, clip_
from minifold_pl.modules.epoch_means import EpochMeans


def _model(big: float, small: float) -> nn.Module:
    model = nn.Module()
    model.denoiser, model.pair_stack, model.aux = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
    for module, size in ((model.denoiser, big), (model.pair_stack, small), (model.aux, small)):
        for parameter in module.parameters():
            parameter.grad = torch.full_like(parameter, size)
    model.epoch_means = EpochMeans()
    return model


def _norm(module: nn.Module) -> float:
    return torch.cat([p.grad.flatten() for p in module.parameters()]).norm().item()


def test_after_clipping_every_module_is_within_its_own_norm_and_a_small_one_is_left_alone() -> None:
    model = _model(big=100.0, small=0.01)
    callback = ModuleClipping({"denoiser": 1.0, "pair_stack": 0.5}, rest=None)
    small = _norm(model.pair_stack)
    callback.on_fit_start(SimpleNamespace(), model)
    callback.on_before_optimizer_step(SimpleNamespace(), model, SimpleNamespace())
    assert _norm(model.denoiser) == pytest.approx(1.0, rel=1e-3)
    assert _norm(model.pair_stack) == pytest.approx(small)  # global clipping would have starved it
    assert _norm(model.aux) == pytest.approx(small)
    logged = model.epoch_means.means()
    assert logged["grad/denoiser"] == pytest.approx(100 * 20**0.5)
    assert (logged["grad_clipped/denoiser"], logged["grad_clipped/pair_stack"]) == (1, 0)
    assert "grad/rest" in logged
    assert "grad_clipped/rest" not in logged


def test_clipping_the_whole_gradient_starves_a_small_module_and_shows_it() -> None:
    """What v12 did: the large module's norm decides what is left of the small one's."""
    model = _model(big=100.0, small=0.01)
    small = _norm(model.pair_stack)
    callback = ModuleClipping({"denoiser": None, "pair_stack": None}, rest=None, whole=1.0)
    callback.on_fit_start(SimpleNamespace(), model)
    callback.on_before_optimizer_step(SimpleNamespace(), model, SimpleNamespace())
    parts = [_norm(part) for part in (model.denoiser, model.pair_stack, model.aux)]
    assert sum(norm**2 for norm in parts) ** 0.5 == pytest.approx(1.0, rel=1e-3)
    assert _norm(model.pair_stack) < 0.01 * small
    logged = model.epoch_means.means()
    assert logged["grad/pair_stack"] == pytest.approx(small)
    assert logged["grad/all"] == pytest.approx(100 * 20**0.5, rel=1e-4)
    assert logged["grad_clipped/all"] == 1
    assert "grad_clipped/denoiser" not in logged


def test_clipping_keeps_the_direction() -> None:
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([4.0])]
    assert clip_(gradients, 1.0) == pytest.approx(5.0)
    torch.testing.assert_close(torch.cat(gradients), torch.tensor([0.6, 0.0, 0.8]), atol=1e-5, rtol=0)


def test_a_prefix_that_matches_nothing_is_named() -> None:
    with pytest.raises(ValueError, match="backbone_head"):
        ModuleClipping({"backbone_head": 1.0}).on_fit_start(SimpleNamespace(), _model(1, 1))


def test_an_impossible_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="denoiser"):
        ModuleClipping({"denoiser": 0.0})
    with pytest.raises(ValueError, match="all"):
        ModuleClipping(whole=-1.0)
