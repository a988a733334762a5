"""Recycling and the learned null condition in training and sampling."""

from __future__ import annotations

import copy

import pytest
import torch

from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.data.tokenizer import null_tokens
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.hidden_residues import without_residues
from minifold_pl.modules.sampling import SamplerConfig


def _build(*settings: str) -> DiffusionModule:
    torch.manual_seed(0)
    module = instantiate_model("v13_small.yaml", ["--model.init_args." + s for s in settings])
    assert isinstance(module, DiffusionModule)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return module


@pytest.fixture(scope="module")
def _learned() -> DiffusionModule:
    return _build("null_condition=learned", "recycles=3", "p_uncond=0.5")


@pytest.fixture
def learned(_learned) -> DiffusionModule:
    return copy.deepcopy(_learned)


def _passes(module: DiffusionModule) -> list[int]:
    """Sizes of the batches that go through the pair stack."""
    seen: list[int] = []
    module.pair_stack.register_forward_hook(lambda m, args, out: seen.append(len(out)))
    return seen


def test_neither_has_parameters_where_it_is_not_asked_for(diffusion, learned) -> None:
    new = {name.split(".")[0] for name in learned.state_dict().keys() - diffusion.state_dict().keys()}
    assert new == {"null_condition", "recycling"}
    assert diffusion.state_dict().keys() <= learned.state_dict().keys()


def test_a_chain_of_masks_alone_gets_the_null_condition_and_the_others_their_own(learned, batch) -> None:
    learned.eval()
    tokens = batch.tokens.clone()
    tokens[1] = null_tokens(tokens)[1]
    assert without_residues(tokens).tolist() == [False, True, False]
    condition = learned.condition(batch, learned.encode(tokens), tokens)
    single, pair = learned.null_condition(batch.residue_mask, batch.residue_index)
    assert torch.equal(condition.single[1], single[1]) and torch.equal(condition.pair[1], pair[1])
    known = learned.condition(batch, learned.encode(batch.tokens))
    torch.testing.assert_close(condition.pair[[0, 2]], known.pair[[0, 2]])
    assert not torch.allclose(known.pair[1], pair[1])


def test_dropped_conditions_teach_the_null_condition(learned, make_batch) -> None:
    batch = make_batch([(f"chain {i}", 9) for i in range(8)])
    tokens = learned._drop_conditions(batch, 0)
    assert 0 < without_residues(tokens).sum() < 8
    prediction, target = learned.predict_structure(
        batch, tokens, learned.target(batch), learned._training_draws(batch, 0), True, 1
    )
    learned.objective(prediction, target)["fape"].backward()
    assert all(p.grad is not None and p.grad.any() for p in learned.null_condition.parameters())
    assert all(p.grad is not None for p in learned.recycling.parameters())


def test_the_unconditional_half_of_guidance_costs_no_pass(learned, batch) -> None:
    module = learned.eval()
    module.recycling, module.recycles = None, 0
    seen = _passes(module)
    module.sample(batch, SamplerConfig(steps=2, guidance=1.5), seed=0, keys=batch.names)
    assert seen == [3]
    by_masks = _build("null_condition=mask").eval()
    seen = _passes(by_masks)
    by_masks.sample(batch, SamplerConfig(steps=2, guidance=1.5), seed=0, keys=batch.names)
    assert sum(seen) > 3


def test_guidance_0_knows_nothing_of_the_sequence(learned, batch, make_batch) -> None:
    module = learned.eval()
    free = SamplerConfig(steps=2, guidance=0.0)
    other = make_batch([("four", 12), ("five", 16), ("six", 9)])
    first, second = (module.sample(b, free, seed=0, keys=("a", "b", "c")).x0 for b in (batch, other))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-4)
    named = SamplerConfig(steps=2)
    first, second = (module.sample(b, named, seed=0, keys=("a", "b", "c")).x0 for b in (batch, other))
    assert (first - second).abs().max() > 1e-2


def test_the_number_of_passes_is_drawn_by_key_and_sampling_takes_all(learned, batch) -> None:
    drawn = [learned._recycles(epoch, step) for epoch in range(4) for step in range(25)]
    assert set(drawn) == {0, 1, 2, 3}
    assert drawn == [learned._recycles(epoch, step) for epoch in range(4) for step in range(25)]
    seen = _passes(learned)
    target, draws = learned.target(batch), learned._training_draws(batch, 0)
    learned.predict_structure(batch, batch.tokens, target, draws, False, 1)
    assert len(seen) == 2
    learned.predict_structure(batch, batch.tokens, target, draws, False)
    assert len(seen) == 6
    learned.eval().sample(batch, SamplerConfig(steps=2), seed=0, keys=batch.names)
    assert len(seen) == 10


@pytest.mark.parametrize(
    ("setting", "told"), [("recycles=-1", "recycles"), ("null_condition=zero", "null_condition")]
)
def test_settings_that_make_no_sense_are_refused(setting: str, told: str) -> None:
    with pytest.raises((Exception, SystemExit), match=told):
        _build(setting)
