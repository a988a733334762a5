"""Muon: what its steps are, which parameters it moves, and that its state comes back."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from minifold_pl.modules import muon
from minifold_pl.modules.muon import MuonAdamW, orthogonalised
from minifold_pl.modules.optim import OptimizerConfig, build_optimizer, check_groups
from minifold_pl.nn.embeddings import LinearRelativePosition

CONFIG = OptimizerConfig(lr=1e-2, muon_lr=2e-2, weight_decay=0.1, group_lr={"trunk": 2.0})


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "tokens": nn.Embedding(25, 16),
            "trunk": nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16), nn.LayerNorm(16)),
            "out": nn.Linear(16, 3),
        }
    )


def loss(model: nn.Module, seed: int) -> Tensor:
    tokens = torch.randint(25, (8, 5), generator=torch.Generator().manual_seed(seed))
    return (model["out"](model["trunk"](model["tokens"](tokens))) - 1).square().mean()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss(model, step).backward()
        optimizer.step()


@pytest.mark.parametrize("shape", [(12, 12), (8, 40), (40, 8)])
@pytest.mark.parametrize(("bf16", "error"), [(False, 1e-3), (True, 0.1)])
def test_orthogonalised_matrices_have_singular_values_near_1_and_the_vectors_they_had(
    shape: tuple[int, int], bf16: bool, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "_multiplies_bf16", lambda device: bf16)
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    found = orthogonalised(x)
    assert found.shape == x.shape
    values = torch.linalg.svdvals(found)
    strong = torch.linalg.svdvals(x) > 0.1 * torch.linalg.svdvals(x).amax(-1, keepdim=True)
    assert values[strong].min() > 0.6 and values.max() < 1.25
    # With the same singular vectors, the product with the transpose is symmetric and positive.
    product = found @ x.mT
    torch.testing.assert_close(product, product.mT, atol=error, rtol=error)
    assert torch.linalg.eigvalsh(product).min() > -error


@pytest.mark.parametrize("shape", [(24, 64), (64, 24), (32, 32)])
def test_bf16_changes_a_step_by_a_hundredth(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(2))
    found = []
    for bf16 in (False, True):
        monkeypatch.setattr(muon, "_multiplies_bf16", lambda device, bf16=bf16: bf16)
        found.append(orthogonalised(x))
    assert found[1].dtype == x.dtype
    assert 0 < (found[1] - found[0]).norm() / found[0].norm() < 0.02


def test_nothing_stays_nothing() -> None:
    assert not orthogonalised(torch.zeros(2, 8, 8)).any()


def test_it_moves_hidden_matrices_alone_and_each_group_has_its_peak(model: nn.Module) -> None:
    optimizer = build_optimizer(model, CONFIG)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = {g["name"]: ([names[id(p)] for p in g["params"]], g["lr"]) for g in optimizer.param_groups}
    assert groups == {
        "trunk/muon": (["trunk.0.weight", "trunk.2.weight"], 0.04),
        "trunk/vectors": (["trunk.0.bias", "trunk.2.bias", "trunk.3.weight", "trunk.3.bias"], 0.02),
        "rest": (["tokens.weight", "out.weight"], 0.01),
        "rest/vectors": (["out.bias"], 0.01),
    }
    assert type(build_optimizer(model, OptimizerConfig())) is torch.optim.AdamW


def test_a_first_step_is_the_formula(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "_multiplies_bf16", lambda device: False)  # 1.95 g is not rounded as g is
    optimizer = build_optimizer(model, CONFIG)
    weight = model["trunk"][0].weight
    before = weight.detach().clone()
    loss(model, 0).backward()
    gradient = weight.grad.clone()
    optimizer.step()
    # g + μ m with m = g: the factor 1.95 does not change the direction, and orth has no size.
    expected = before * (1 - 0.04 * 0.1) - 0.2 * 0.04 * 32**0.5 * orthogonalised(gradient[None])[0]
    torch.testing.assert_close(weight.detach(), expected)


def test_what_is_not_its_own_is_moved_as_adamw_moves_it(model: nn.Module) -> None:
    """One step: afterwards the matrices differ, and with them all gradients."""
    other = copy.deepcopy(model)
    plain = build_optimizer(other, OptimizerConfig(lr=1e-2, weight_decay=0.1, group_lr={"trunk": 2.0}))
    train(model, build_optimizer(model, CONFIG), range(1))
    train(other, plain, range(1))
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b) is (name not in ("trunk.0.weight", "trunk.2.weight")), name


def test_saved_and_loaded_it_goes_on_bit_for_bit(model: nn.Module) -> None:
    optimizer = build_optimizer(model, CONFIG)
    train(model, optimizer, range(3))
    other = copy.deepcopy(model)
    again = build_optimizer(other, CONFIG)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for m, o in ((model, optimizer), (other, again)):
        train(m, o, range(3, 6))
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_it_learns_and_a_parameter_without_a_gradient_stays(model: nn.Module) -> None:
    optimizer = build_optimizer(model, CONFIG)
    assert isinstance(optimizer, MuonAdamW)
    first = float(loss(model, 0))
    train(model, optimizer, range(60))
    assert float(loss(model, 0)) < 0.2 * first
    optimizer.zero_grad()
    still = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    for name, p in model.named_parameters():
        assert torch.equal(p, still[name])


def test_under_a_gradient_scaler_an_overflow_changes_nothing(model: nn.Module) -> None:
    optimizer = build_optimizer(model, CONFIG)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    before = copy.deepcopy(model.state_dict())
    scaler.scale(loss(model, 0) * math.inf).backward()
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    optimizer.zero_grad()
    scaler.scale(loss(model, 1)).backward()
    scaler.step(optimizer)
    plain = copy.deepcopy(model)
    plain.load_state_dict(before)
    train(plain, build_optimizer(plain, CONFIG), range(1, 2))
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_hooks_around_a_step_are_run_once(model: nn.Module) -> None:
    torch.optim.AdamW(
        [nn.Parameter(torch.zeros(2))]
    )  # torch puts its hooks around a class when it is first made
    optimizer = build_optimizer(model, CONFIG)
    calls: list[None] = []
    optimizer.register_step_post_hook(lambda *_: calls.append(None))
    train(model, optimizer, range(1))
    assert len(calls) == 1


def test_tables_of_vectors_are_not_its_own() -> None:
    model = nn.ModuleDict({"place": LinearRelativePosition(16, 20), "map": nn.Linear(16, 16)})
    groups = {
        g["name"]: g["params"] for g in build_optimizer(model, OptimizerConfig(muon_lr=1e-2)).param_groups
    }
    assert [p is model["map"].weight for p in groups["rest/muon"]] == [True]


def test_a_state_of_other_groups_is_refused_and_says_what_differs(model: nn.Module) -> None:
    state = build_optimizer(model, CONFIG).state_dict()
    check_groups(state, model, CONFIG)
    with pytest.raises(ValueError, match=r"trunk/muon, this config's has trunk: .*muon_lr"):
        check_groups(state, model, replace(CONFIG, muon_lr=None))


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="muon_lr"):
        OptimizerConfig(muon_lr=rate)
