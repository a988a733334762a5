"""Compiled blocks: the same numbers, names and checkpoints; and training without a compiler."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch

from minifold_pl.modules import compiling
from minifold_pl.modules.compiling import ReplayedDenoiser, blocks, compile_blocks
from minifold_pl.modules.draws import Draws
from minifold_pl.modules.load import build_module
from minifold_pl.modules.sampling import SamplerConfig

CPU = torch.device("cpu")


def test_every_block_and_layer_is_compiled_and_no_name_changes(diffusion) -> None:
    names = set(diffusion.state_dict())
    chosen = list(blocks(diffusion))
    stacks = (diffusion.pair_stack.blocks, diffusion.aux.pair_stack.blocks, diffusion.denoiser.layers)
    assert len(chosen) == len(set(chosen)) == sum(map(len, stacks))
    for block in chosen:
        block.compile(dynamic=True)
    assert set(diffusion.state_dict()) == names
    assert all(block._compiled_call_impl is not None for block in chosen)
    # The average of the weights is a copy of the module: it need not be compiled, but it must be possible to make.
    assert set(copy.deepcopy(diffusion).state_dict()) == names


@pytest.mark.parametrize(("given", "mode"), [("blocks", "blocks"), ("off", "off"), (False, "off")])
def test_nothing_is_compiled_before_training_starts(diffusion, given, mode) -> None:
    config = copy.deepcopy(diffusion.model_config)
    config["init_args"]["compile"] = given
    module = build_module(config)
    assert module.compile_mode == mode
    assert all(block._compiled_call_impl is None for block in blocks(module))


def test_without_a_compiler_one_warning_and_training_goes_on(diffusion, monkeypatch) -> None:
    def broken(*args, **kwargs):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found")

    monkeypatch.setattr(compiling.torch, "compile", broken)
    with pytest.warns(UserWarning, match=r"goes on uncompiled.*No working C\+\+ compiler") as told:
        assert compile_blocks(diffusion, CPU) is False
    assert len(told) == 1
    assert all(block._compiled_call_impl is None for block in blocks(diffusion))


def gradients(module, batch, *, self_condition: bool) -> dict[str, torch.Tensor]:
    module.zero_grad()
    target = module.target(batch)
    draws = Draws(torch.full((len(batch),), 400), torch.randn_like(target.x0))
    prediction, target = module.predict_structure(batch, batch.tokens, target, draws, self_condition)
    sum(module.objective(prediction, target).values()).backward()
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="a CPU is compiled for by g++")
def test_compiled_blocks_give_the_same_losses_and_gradients_at_any_length(diffusion, make_batch) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in diffusion.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    plain = copy.deepcopy(diffusion.eval())  # no dropout
    assert compile_blocks(diffusion, CPU)
    torch._dynamo.utils.counters.clear()
    for lengths, again in (((24, 20), False), ((40, 33), True), ((16, 9), False)):
        batch = make_batch([(f"{n}", n) for n in lengths])
        torch.manual_seed(1)
        found = gradients(diffusion, batch, self_condition=again)
        torch.manual_seed(1)
        for name, expected in gradients(plain, batch, self_condition=again).items():
            torch.testing.assert_close(
                found[name], expected, rtol=2e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )
    assert not torch._dynamo.utils.counters["graph_break"]


def test_graphs_change_nothing_where_there_is_no_gpu(diffusion, make_batch) -> None:
    batch = make_batch([("one", 12), ("two", 9)])
    plain, graphs = (SamplerConfig(steps=2, guidance=2.0, compile=mode) for mode in ("off", "graphs"))
    expected = diffusion.eval().sample(batch, plain, seed=0, keys=batch.names)
    with pytest.warns(UserWarning, match="acts on a GPU alone"):
        found = diffusion.sample(batch, graphs, seed=0, keys=batch.names)
    assert torch.equal(found.x0, expected.x0)
    with pytest.raises(ValueError, match="'off' and 'graphs'"):
        SamplerConfig(compile="fast")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="a CPU is compiled for by g++")
def test_a_compiled_sampler_draws_the_same(diffusion, make_batch, monkeypatch) -> None:
    """The path of the graphs, without the graphs themselves, which need a GPU."""
    with torch.no_grad():
        for parameter in diffusion.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    batch = make_batch([("one", 12), ("two", 9)])
    sampler = SamplerConfig(steps=4, guidance=2.0)
    expected = diffusion.eval().sample(batch, sampler, seed=0, keys=batch.names)
    replayed = ReplayedDenoiser(diffusion.denoiser, mode="default")
    monkeypatch.setattr(diffusion, "_replayed", lambda: replayed)
    graphs = SamplerConfig(steps=4, guidance=2.0, compile="graphs")
    found = diffusion.sample(batch, graphs, seed=0, keys=batch.names)
    torch.testing.assert_close(found.x0, expected.x0, atol=1e-3, rtol=0)  # Å


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="a CPU is compiled for by g++")
def test_what_was_compiled_before_changes_no_bit_of_what_comes(diffusion, make_batch) -> None:
    """A run that goes on compiles anew, for other lengths first."""
    diffusion.eval()  # no dropout

    def train(module, lengths: list[int], state: dict | None) -> dict:
        torch._dynamo.reset()
        assert compile_blocks(module, CPU)
        optimizer = torch.optim.AdamW(module.denoiser.parameters(), lr=1e-3)
        if state is not None:
            module.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        for length in lengths:
            optimizer.zero_grad()
            batch = make_batch([("a", length), ("b", length - 3)])
            torch.manual_seed(length)
            gradients(module, batch, self_condition=length % 2 == 1)
            optimizer.step()
        return copy.deepcopy({"model": module.state_dict(), "optimizer": optimizer.state_dict()})

    begun = copy.deepcopy(diffusion)
    half = train(begun, [24, 33], None)
    whole = train(copy.deepcopy(diffusion), [24, 33, 40, 17], None)
    resumed = train(copy.deepcopy(diffusion), [40, 17], half)
    for name, value in whole["model"].items():
        assert torch.equal(resumed["model"][name], value), name
