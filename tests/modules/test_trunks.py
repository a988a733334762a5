"""The sampler that keeps what it knows against the one that computes everything at every step.

Checked to fail: with the null trunk kept by length alone, whatever the places in the chain; with the halves of the
first batch given to the second; with a pair bias of another layer.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from minifold_pl.data.tokenizer import null_tokens
from minifold_pl.diffusion.draws import keyed_generator
from minifold_pl.diffusion.process import eps_to_x0, x0_to_eps
from minifold_pl.diffusion.samplers import ddim
from minifold_pl.geometry.units import to_model_units
from minifold_pl.modules.sampling import SamplerConfig
from minifold_pl.modules.trunks import Trunk, Trunks
from minifold_pl.types import Denoised

CHAINS = [("one", 12), ("two", 17), ("three", 9), ("four", 17)]


@pytest.fixture
def model(diffusion):
    """With weights at which every part matters: those of maps that start at 0 would hide the sequence."""
    with torch.no_grad():
        for parameter in diffusion.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return diffusion.eval()


@torch.no_grad()
def naive(model, batch, sampler: SamplerConfig, *, seed: int, keys) -> torch.Tensor:
    """Encoder, pair stack and denoiser at every step, for each half on its own: nothing is kept. Model units."""

    def half(tokens, x_t, t, previous):
        condition = model.condition(batch, model.encode(tokens))
        return model.denoiser(x_t, t, condition, previous)

    def guided(x_t, t, previous):
        with_sequence = half(batch.tokens, x_t, t, previous and previous[0])
        without = half(null_tokens(batch.tokens), x_t, t, previous and previous[1])
        w, schedule = sampler.guidance, model.noise_schedule
        if sampler.guidance_space == "x0":
            x0 = without.x0 + w * (with_sequence.x0 - without.x0)
        else:
            eps = [x0_to_eps(x_t, t, one.x0, schedule) for one in (without, with_sequence)]
            x0 = eps_to_x0(x_t, t, eps[0] + w * (eps[1] - eps[0]), schedule)
        return _Pair((with_sequence, without), x0)

    result = ddim(
        guided,
        model.noise_schedule,
        batch.residue_mask,
        generators=[keyed_generator(seed, "sample", key) for key in keys],
        steps=sampler.steps,
        eta=sampler.eta,
    )
    return result.x0


class _Pair(tuple):
    def __new__(cls, halves: tuple[Denoised, Denoised], x0: torch.Tensor):
        made = super().__new__(cls, halves)
        made.x0, made.rotation, made.local_atoms = x0, halves[0].rotation, None
        return made


@pytest.mark.parametrize(("space", "eta"), [("x0", 0.0), ("x0", 0.7), ("eps", 0.0)])
def test_what_is_kept_changes_no_sample(model, make_batch, space, eta) -> None:
    sampler = SamplerConfig(steps=10, eta=eta, guidance=2.0, guidance_space=space)
    batch = make_batch(CHAINS)
    truth = naive(model, batch, sampler, seed=5, keys=batch.names)
    with model.sharing_trunks():
        model.sample(
            make_batch(CHAINS[::-1][:3]), sampler, seed=1, keys=["a", "b", "c"]
        )  # something is known
        kept = model.sample(batch, sampler, seed=5, keys=batch.names).x0
    # eps: rounding comes back 642 times as large at the noisiest step
    torch.testing.assert_close(to_model_units(kept), truth, atol=1e-5 if space == "x0" else 1e-3, rtol=0)


@pytest.fixture
def counted(model):
    """Trunks that say how many sequences were run."""
    ran: list[int] = []

    def compute(tokens, mask, residue_index) -> Trunk:
        ran.append(len(tokens))
        return model._trunk(tokens, mask, residue_index)

    with torch.no_grad():
        yield Trunks(compute), ran


def of(trunks: Trunks, batch, tokens=None) -> Trunk:
    return trunks.of(batch.tokens if tokens is None else tokens, batch.residue_mask, batch.residue_index)


def test_a_sequence_is_run_once_however_often_and_in_whatever_company_it_comes(counted, make_batch) -> None:
    trunks, ran = counted
    first = of(trunks, make_batch(CHAINS[:2]))
    again = of(trunks, make_batch([CHAINS[1], CHAINS[1], CHAINS[2]]))
    assert ran == [2, 1]
    torch.testing.assert_close(again.pair[1, :17, :17], first.pair[1, :17, :17], rtol=0, atol=0)
    alone = Trunks(trunks._compute)
    torch.testing.assert_close(of(alone, make_batch([CHAINS[2]])).single[0, :9], again.single[2, :9])
    assert not again.pair[2, 9:].any()
    assert not again.pair[2, :, 9:].any()


def test_without_its_sequence_a_chain_is_its_length(counted, make_batch) -> None:
    trunks, ran = counted
    batch = make_batch(CHAINS)
    null = null_tokens(batch.tokens)
    known = of(trunks, batch, null)
    assert ran == [3]  # two of the four have 17 residues
    assert torch.equal(known.pair[1], known.pair[3])
    # A crop has other places and the same separations; a chain with a gap in its numbering has others.
    crop = dataclasses.replace(batch, residue_index=batch.residue_index + 40)
    of(trunks, crop, null)
    assert ran == [3]
    gap = dataclasses.replace(batch, residue_index=batch.residue_index + 9 * (batch.residue_index > 4))
    jumped = of(trunks, gap, null)
    assert ran == [3, 3]
    assert not torch.allclose(jumped.pair[1], known.pair[1], atol=1e-3)


def test_a_batch_of_new_sequences_is_computed_as_it_is(counted, model, make_batch) -> None:
    trunks, _ = counted
    batch = make_batch(CHAINS)
    plain = model._trunk(batch.tokens, batch.residue_mask, batch.residue_index)
    for kept, computed in zip(of(trunks, batch), plain, strict=True):
        assert torch.equal(kept, computed)


def test_the_oldest_is_forgotten_where_memory_is_short(counted, make_batch) -> None:
    trunks, ran = counted
    one = of(trunks, make_batch([("one", 16)]))
    size = sum(x.numel() * x.element_size() for x in one)
    small = Trunks(trunks._compute, kept_bytes=2 * size)
    ran.clear()
    for name in ("one", "two", "one", "three", "one", "two"):
        of(small, make_batch([(name, 16)]))
    assert ran == [1, 1, 1, 1]  # "two" was not asked for the longest when "three" came
    of(Trunks(trunks._compute, kept_bytes=0), make_batch([("one", 16), ("one", 16)]))


def test_trunks_are_forgotten_when_sharing_ends(model, make_batch) -> None:
    batch, sampler = make_batch(CHAINS[:2]), SamplerConfig(steps=2)
    with model.sharing_trunks() as outer:
        with model.sharing_trunks() as inner:
            assert inner is outer
        model.sample(batch, sampler, seed=0, keys=batch.names)
    before = model.sample(batch, sampler, seed=0, keys=batch.names).x0
    with torch.no_grad():
        model.pair_stack.norm.weight.mul_(2.0)
    assert not torch.allclose(before, model.sample(batch, sampler, seed=0, keys=batch.names).x0, atol=0.05)
