"""Samples of a whole model: guidance, and that a chain's sample is its own.

Checked to fail: with the unconditional half built from the real tokens; with weight 0 run through the batch of both
halves; with one generator for the batch instead of one a chain, or one by place instead of by key; with noise drawn at
the padded length; with a pair stack that is told that padding is residues.
"""

from __future__ import annotations

import pytest
import torch

from minifold_pl.data.tokenizer import null_tokens
from minifold_pl.diffusion.draws import keyed_generator
from minifold_pl.diffusion.samplers import ddim
from minifold_pl.geometry.units import to_angstrom
from minifold_pl.modules.sampling import SamplerConfig

CHAINS = [("one", 12), ("two", 17), ("three", 9), ("four", 14)]


@pytest.fixture
def model(diffusion):
    """With weights at which every part matters: those of maps that start at 0 would hide the sequence."""
    with torch.no_grad():
        for parameter in diffusion.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return diffusion.eval()


@torch.no_grad()
def plain(model, batch, tokens, *, seed: int, steps: int, eta: float) -> torch.Tensor:
    """DDIM of the bare denoiser under the condition of ``tokens``: no guidance anywhere."""
    condition = model.condition(batch, model.encode(tokens))
    result = ddim(
        lambda x_t, t, previous: model.denoiser(x_t, t, condition, previous),
        model.noise_schedule,
        batch.residue_mask,
        generators=[keyed_generator(seed, "sample", name) for name in batch.names],
        steps=steps,
        eta=eta,
    )
    return to_angstrom(result.x0)


@pytest.mark.parametrize("space", ["eps", "x0"])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_weight_1_is_the_conditional_and_0_the_unconditional_sampler_bit_for_bit(
    model, make_batch, space, eta
) -> None:
    batch = make_batch(CHAINS)
    with_sequence = plain(model, batch, batch.tokens, seed=3, steps=4, eta=eta)
    without = plain(model, batch, null_tokens(batch.tokens), seed=3, steps=4, eta=eta)
    assert (with_sequence - without).abs().max() > 0.05  # Å; else nothing is tested
    for weight, expected in ((1.0, with_sequence), (0.0, without)):
        sampler = SamplerConfig(steps=4, eta=eta, guidance=weight, guidance_space=space)
        assert torch.equal(model.sample(batch, sampler, seed=3, keys=batch.names).x0, expected)
    guided = SamplerConfig(steps=4, eta=eta, guidance=3.0, guidance_space=space)
    assert not torch.allclose(
        model.sample(batch, guided, seed=3, keys=batch.names).x0, with_sequence, atol=0.05
    )


def test_the_unconditional_sample_knows_lengths_and_nothing_of_the_sequence(model, make_batch) -> None:
    batch, other = make_batch(CHAINS), make_batch([(f"{name}'", length) for name, length in CHAINS])
    assert not torch.equal(batch.tokens, other.tokens)
    keys = [name for name, _ in CHAINS]
    for weight, same in ((0.0, True), (1.0, False)):
        sampler = SamplerConfig(steps=3, guidance=weight)
        first, second = (model.sample(b, sampler, seed=0, keys=keys).x0 for b in (batch, other))
        assert torch.equal(first, second) == same


@pytest.mark.parametrize(("eta", "guidance"), [(0.0, 1.0), (0.7, 1.0), (0.7, 2.0)])
def test_a_chains_sample_does_not_depend_on_its_company(model, make_batch, eta, guidance) -> None:
    sampler = SamplerConfig(steps=8, eta=eta, guidance=guidance)

    def samples(names: list[str]) -> dict[str, torch.Tensor]:
        chosen = [(name, dict(CHAINS)[name]) for name in names]
        batch = make_batch(chosen)
        x0 = model.sample(batch, sampler, seed=1, keys=batch.names).x0
        return {name: x0[k, :length] for k, (name, length) in enumerate(chosen)}

    everyone = samples(["one", "two", "three", "four"])
    assert all(
        torch.equal(everyone[name], x0) for name, x0 in samples(["one", "two", "three", "four"]).items()
    )
    for company in (
        ["one"],
        ["two"],
        ["three", "one"],
        ["four", "three", "two"],
        ["two", "one", "four", "three"],
    ):
        for name, x0 in samples(company).items():
            # Å. Another batch rounds differently, no more.
            torch.testing.assert_close(x0, everyone[name], atol=2e-3, rtol=0)


def test_another_seed_or_key_is_another_sample(model, make_batch) -> None:
    batch, sampler = make_batch(CHAINS[:2]), SamplerConfig(steps=4)
    first = model.sample(batch, sampler, seed=1, keys=["a", "b"]).x0
    for seed, keys in ((2, ["a", "b"]), (1, ["a", "c"])):
        other = model.sample(batch, sampler, seed=seed, keys=keys).x0
        assert not torch.allclose(first[1], other[1], atol=0.5)
        assert torch.allclose(first[0], other[0]) == (seed == 1)
