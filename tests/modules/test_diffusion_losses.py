"""Terms that a model of the second stage may have beside those of v8 to v14, and what becomes of them in training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.losses.denoising import DenoisingWeights, SNRWeighting
from minifold_pl.losses.objective import LossWeights, weights_at
from minifold_pl.modules.diffusion import DiffusionModule

OPTION = "--model.init_args."


@pytest.fixture
def built() -> Callable[..., DiffusionModule]:
    """``v13_small`` with other settings."""

    def build(*settings: str) -> DiffusionModule:
        torch.manual_seed(0)
        module = instantiate_model("v13_small.yaml", [OPTION + s for s in settings])
        assert isinstance(module, DiffusionModule)
        return module

    return build


def test_the_terms_of_a_denoiser_are_there_where_they_are_asked_for_and_nowhere_else(
    diffusion, built, batch
) -> None:
    plain = set(diffusion.losses(batch)[1])
    module = built(
        "denoising_weights.x0=1.0", "x0_weighting={floor: 0.25, gamma: 4}", "loss_weights.frame_rot=0.1"
    )
    _, terms = module.losses(batch)
    assert terms.keys() - plain == {"x0", "lddt"}
    assert module.state_dict().keys() == diffusion.state_dict().keys()
    weights = weights_at(module.loss_weights, 1)
    assert weights.keys() == terms.keys()
    assert (weights["x0"], weights["lddt"], weights["frame_rot"]) == (1.0, 0.0, 0.1)
    assert module.objective.x0_weighting == SNRWeighting(floor=0.25, gamma=4)
    assert weights.keys() == {*vars(LossWeights()), *vars(DenoisingWeights())}


def test_every_noised_copy_is_weighed_by_its_own_timestep(built, batch) -> None:
    module = built("denoising_weights.x0=1.0", "noise_draws=3")
    draws = module._training_draws(batch, 0)
    _, target = module.predict_structure(batch, batch.tokens, module.target(batch), draws, False)
    torch.testing.assert_close(target.snr, module.noise_schedule.snr(draws.t))
    assert target.snr.shape == (9,) and target.snr.unique().numel() > 5


def test_the_error_of_x0_reaches_every_module_but_the_heads_beside(built, batch) -> None:
    module = built("denoising_weights.x0=1.0")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    _, terms = module.losses(batch)
    terms["x0"].backward()
    reached = {n.split(".")[0] for n, p in module.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"denoiser", "pair_stack"}


def test_which_chains_are_clamped_depends_on_seed_epoch_copy_and_name_alone(built, make_batch) -> None:
    module = built("fape_clamp=10.0", "fape_clamp_share=0.9", "noise_draws=2")
    batch = make_batch([(f"chain {i}", 8) for i in range(100)])
    clamped = module._training_draws(batch, 0).clamped
    assert clamped.shape == (200,) and set(clamped.tolist()) == {0.0, 1.0}
    assert 0.84 < clamped.mean() < 0.96
    assert torch.equal(clamped, module._training_draws(batch, 0).clamped)
    assert not torch.equal(clamped, module._training_draws(batch, 1).clamped)
    assert not torch.equal(clamped[:100], clamped[100:])
    some = make_batch([(f"chain {i}", 8) for i in range(60, 100)])
    assert torch.equal(clamped[60:100], module._training_draws(some, 0).clamped[:40])


def test_a_draw_more_leaves_the_other_draws_as_they_were(built, diffusion, batch) -> None:
    with_clamp = built("fape_clamp=10.0", "fape_clamp_share=0.9")._training_draws(batch, 2)
    plain = diffusion._training_draws(batch, 2)
    assert plain.clamped is None
    assert torch.equal(with_clamp.t, plain.t) and torch.equal(with_clamp.noise, plain.noise)


def test_validation_clamps_each_chain_to_the_share_that_is_expected(built, batch) -> None:
    """So that its losses do not move with a draw."""
    module = built("fape_clamp=10.0", "fape_clamp_share=0.9")
    draws = module._fixed_draws(batch)
    prediction, target = module.predict_structure(batch, batch.tokens, module.target(batch), draws, False)
    found = module.objective(prediction, target)["fape"]
    whole, none = (
        module.objective(prediction, target._replace(clamped=torch.full((12,), share)))["fape"]
        for share in (1.0, 0.0)
    )
    torch.testing.assert_close(found, 0.9 * whole + 0.1 * none)
    assert none > whole


def test_the_epoch_reports_how_much_was_cropped_and_which_contacts_that_cut(diffusion, batch) -> None:
    pieces = replace(
        batch, cropped=torch.tensor([True, False, True]), contacts_cut=torch.tensor([0.5, 0.0, 0.1])
    )
    diffusion.log_crops(pieces)
    diffusion.log_crops(replace(batch, cropped=torch.zeros(3).bool(), contacts_cut=torch.zeros(3)))
    means = diffusion.epoch_means.means()
    assert means == pytest.approx({"data/crop_share": 1 / 3, "data/contacts_cut": 0.1})
    diffusion.log_crops(diffusion.example_batch(2, 10))  # nobody has said
    assert diffusion.epoch_means.means() == pytest.approx(means)
