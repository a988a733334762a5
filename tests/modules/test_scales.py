"""The scale that is each chain's own size: noise, samples and one-step estimates go through it and come back in Å."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from minifold_pl.cli.errors import UserError
from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.geometry.measures import radius_of_gyration
from minifold_pl.metrics.wiener import wiener_smoother
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.one_step import noised_chains, one_step
from minifold_pl.modules.sampling import SamplerConfig
from minifold_pl.types import Denoised


@pytest.fixture
def rg(diffusion) -> DiffusionModule:
    diffusion.scale = "rg"
    return diffusion.eval()


def _oracle(module: DiffusionModule, truth) -> None:
    module.denoiser.forward = lambda x_t, *_: Denoised(
        truth.x0.repeat(len(x_t) // len(truth.x0), 1, 1),
        truth.rotation.repeat(len(x_t) // len(truth.x0), 1, 1, 1),
    )


def test_a_target_has_a_radius_of_gyration_of_one_and_remembers_its_unit(rg, batch) -> None:
    target = rg.target(batch)
    assert torch.allclose(target.unit, radius_of_gyration(batch.ca, batch.ca_mask))
    assert torch.allclose(radius_of_gyration(target.x0, target.mask), torch.ones(len(batch)), atol=1e-5)


def test_the_unit_goes_with_every_copy_of_a_chain(rg, batch) -> None:
    target = rg.target(batch)
    _, repeated = rg.predict_structure(batch, batch.tokens, target, rg._fixed_draws(batch), False)
    assert torch.equal(repeated.unit, target.unit.repeat(rg.val_draws))


def test_losses_of_a_large_and_a_small_copy_of_a_chain_differ_in_nothing_but_angstrom(rg, batch) -> None:
    """That is what the scale was for, and what it costs: the noise of a large chain is as large as the chain."""
    large = replace(batch, coords=2 * batch.coords)
    draws = rg._fixed_draws(batch)
    found = [
        rg.objective(*rg.predict_structure(b, b.tokens, rg.target(b), draws, False)) for b in (batch, large)
    ]
    for name in ("fape", "frame_rot", "dist", "chirality", "angle"):
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-3, atol=1e-5)
    assert not torch.allclose(found[0]["bond"], found[1]["bond"])
    noised = [noised_chains(rg, b, (475,), seed=0) for b in (batch, large)]
    torch.testing.assert_close(noised[1], 2 * noised[0], rtol=1e-4, atol=1e-3)


def test_a_sample_gets_the_size_that_the_sequence_is_said_to_have(rg, batch) -> None:
    truth = rg.target(batch)
    _oracle(rg, truth)
    sizes = torch.tensor([7.0, 9.0, 30.0])
    rg.rg_head.forward = lambda pooled, mask: sizes.log()
    blind = replace(batch, coords=torch.full_like(batch.coords, float("nan")))
    sample = rg.sample(blind, SamplerConfig(steps=3), seed=0, keys=batch.names)
    assert torch.allclose(radius_of_gyration(sample.x0, batch.residue_mask), sizes, rtol=1e-3)


def test_a_one_step_estimate_is_in_angstrom(rg, batch) -> None:
    _oracle(rg, rg.target(batch))
    step = one_step(rg, batch, (75, 725), seed=0)
    true = (
        batch.ca
        - (batch.ca * batch.residue_mask[..., None]).sum(1, keepdim=True) / batch.lengths[:, None, None]
    )
    for x0 in step.x0:
        torch.testing.assert_close(
            x0 * batch.residue_mask[..., None], true * batch.residue_mask[..., None], rtol=1e-3, atol=1e-3
        )
    assert torch.equal(step.unit, rg.target(batch).unit)


def test_the_smoother_is_told_how_much_noise_there_is(rg, batch) -> None:
    """With the noise of the other scale it would be another guess."""
    step = one_step(rg, batch, (475,), seed=0, estimate=wiener_smoother)
    alpha_bar = rg.noise_schedule.alpha_bar(torch.full((len(batch),), 475), torch.float64)
    right = wiener_smoother(step.noised[0], alpha_bar, batch.residue_mask, step.unit)
    wrong = wiener_smoother(step.noised[0], alpha_bar, batch.residue_mask)
    torch.testing.assert_close(step.x0[0], right, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(step.x0[0], wrong, atol=0.1)


def test_a_scale_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match="scale"):
        instantiate_model("v13_small.yaml", ["--model.init_args.scale=nanometre"])
