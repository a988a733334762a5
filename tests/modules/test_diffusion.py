"""The second stage: its draws, its gradients, its samples."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.constants import CLS, EOS, MASK, PAD
from minifold_pl.geometry.measures import pairwise_distances
from minifold_pl.losses.objective import weighted_total, weights_at
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.draws import Draws
from minifold_pl.modules.optim import build_optimizer
from minifold_pl.modules.sampling import SamplerConfig


def _leave_zero(module: DiffusionModule) -> None:
    """Maps that start at zero would stop every gradient behind them."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))


def _total(module: DiffusionModule, batch, again: bool = False):
    target = module.target(batch)
    prediction, target = module.predict_structure(
        batch, batch.tokens, target, module._training_draws(batch, 0), again
    )
    return module.objective(prediction, target)


def test_v13_counts_35_to_38_million_parameters_with_the_encoder_frozen() -> None:
    module = instantiate_model("v13.yaml")
    total = sum(p.numel() for p in module.parameters())
    frozen = sum(p.numel() for p in module.encoder.parameters())
    assert 35e6 <= total <= 38e6
    assert total == pytest.approx(35.07e6, rel=0.02)  # Mini-Fold v13, sum of its modules
    assert frozen == pytest.approx(1.191e6, rel=0.02)
    assert sum(p.numel() for p in module.parameters() if p.requires_grad) == total - frozen


def test_a_frozen_encoder_stays_in_evaluation_mode_and_gets_no_gradient(diffusion, batch) -> None:
    _leave_zero(diffusion)
    diffusion.train()
    assert not diffusion.encoder.training
    assert diffusion.denoiser.training
    total = weighted_total(_total(diffusion, batch), weights_at(diffusion.loss_weights, 1))
    total.backward()
    assert all(p.grad is None for p in diffusion.encoder.parameters())
    assert any(p.grad.abs().sum() > 0 for p in diffusion.pair_stack.parameters() if p.grad is not None)


def test_a_joint_encoder_gets_gradients(batch) -> None:
    module = instantiate_model("v13_small.yaml", ["--model.init_args.freeze_encoder=false"])
    module.train()
    assert module.encoder.training
    total, _ = module.losses(batch)
    total.backward()
    assert sum(p.grad is not None for p in module.encoder.parameters()) > 10


def test_draws_depend_on_seed_epoch_and_chain_and_not_on_the_batch(diffusion, make_batch) -> None:
    both = make_batch([("one", 12), ("two", 16)])
    alone = make_batch([("two", 16)])
    epoch_0, epoch_1 = diffusion._training_draws(both, 0), diffusion._training_draws(both, 1)
    single = diffusion._training_draws(alone, 0)
    assert epoch_0.t[1] == single.t[0]
    assert torch.equal(epoch_0.noise[1, :16], single.noise[0, :16])
    assert not torch.equal(epoch_0.noise, epoch_1.noise)
    assert epoch_0.t[0] != epoch_0.t[1] or not torch.equal(epoch_0.noise[0], epoch_0.noise[1])


def test_validation_draws_are_fixed_and_cover_every_band_of_noise(diffusion, batch) -> None:
    first, second = diffusion._fixed_draws(batch), diffusion._fixed_draws(batch)
    assert torch.equal(first.t, second.t)
    assert torch.equal(first.noise, second.noise)
    bands = first.t.view(diffusion.val_draws, len(batch))
    assert all(band.min() >= 1 and band.max() < 1000 for band in bands)
    assert (bands[0] <= 251).all()
    assert (bands[-1] >= 750).all()


def test_validation_losses_of_two_epochs_differ_by_the_model_alone(diffusion, batch) -> None:
    values: list[torch.Tensor] = []
    diffusion.eval()
    diffusion.log_losses = lambda prefix, total, terms, weights, size: values.append(terms["fape"])
    for epoch in (0, 7):
        type(diffusion).current_epoch = property(lambda self, epoch=epoch: epoch)
        try:
            with torch.no_grad():
                diffusion.validation_step(batch, 0)
        finally:
            del type(diffusion).current_epoch
    assert torch.equal(values[0], values[1])


def test_conditions_are_dropped_by_example_and_keep_the_mask(diffusion, make_batch) -> None:
    batch = make_batch([(f"chain {i}", 10) for i in range(64)])
    tokens = diffusion._drop_conditions(batch, 0)
    inner = tokens[:, 1:11]
    dropped = (inner == MASK).all(1)
    assert 0 < dropped.sum() < 24  # p = 0.1 of 64: six on average, per example and not per batch
    assert torch.equal(inner[~dropped], batch.tokens[:, 1:11][~dropped])
    assert torch.equal(tokens.ne(PAD), batch.tokens.ne(PAD))
    assert (tokens[:, 0] == CLS).all()
    assert (tokens[:, 11] == EOS).all()
    assert torch.equal(tokens, diffusion._drop_conditions(batch, 0))


def test_a_batch_without_any_condition_has_finite_losses_and_gradients(diffusion, batch) -> None:
    module = diffusion
    module.p_uncond = 1.0
    tokens = module._drop_conditions(batch, 0)
    target = module.target(batch)
    prediction, target = module.predict_structure(
        batch, tokens, target, module._training_draws(batch, 0), True
    )
    total = weighted_total(module.objective(prediction, target), weights_at(module.loss_weights, 1))
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


def test_noise_draws_share_the_trunk_and_change_nothing_else(diffusion, batch) -> None:
    one = diffusion
    calls = []
    one.pair_stack.register_forward_hook(lambda *_: calls.append(1))
    target = one.target(batch)
    draws = [one._fixed_draws(batch)]
    many, _ = one.predict_structure(batch, batch.tokens, target, draws[0], False)
    assert len(calls) == 1
    size = len(batch)
    for k in range(one.val_draws):
        rows = slice(k * size, (k + 1) * size)
        alone, _ = one.predict_structure(
            batch, batch.tokens, target, Draws(draws[0].t[rows], draws[0].noise[rows]), False
        )
        torch.testing.assert_close(many.x0[rows], alone.x0, rtol=1e-4, atol=1e-5)


def _cut_gradients(module: DiffusionModule, batch) -> list[str]:
    """Weights of the denoiser's first layer that a self-conditioned step under autocast does not reach."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = _total(module, batch, again=True)
    terms["fape"].backward()
    named = [(n, p) for n, p in module.denoiser.named_parameters() if p.ndim == 2 and "layers.0" in n]
    assert len(named) > 5
    return [n for n, p in named if p.grad is None or not bool(p.grad.abs().sum() > 0)]


def _autocast_keeps_copies_without_a_graph() -> bool:
    layer = torch.nn.Linear(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            layer(torch.zeros(1, 2))
        layer(torch.zeros(1, 2)).float().sum().backward()
    return layer.weight.grad is None


def test_self_conditioning_under_autocast_leaves_the_gradients_whole(diffusion, batch) -> None:
    """Weights that autocast keeps from the first pass, which has no graph, must not serve the second."""
    _leave_zero(diffusion)
    assert _cut_gradients(diffusion, batch) == []


def test_without_clearing_the_cache_gradients_are_cut_where_torch_keeps_such_copies(
    diffusion, batch, monkeypatch
) -> None:
    if not _autocast_keeps_copies_without_a_graph():
        pytest.skip(f"torch {torch.__version__} keeps no copies that were made without a graph")
    _leave_zero(diffusion)
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: None)
    assert _cut_gradients(diffusion, batch) != []


def test_the_autocast_cache_is_cleared_between_the_two_passes(diffusion, batch, monkeypatch) -> None:
    happened: list[str] = []
    clear = torch.clear_autocast_cache
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: (happened.append("clear"), clear()))
    diffusion.denoiser.register_forward_pre_hook(lambda *_: happened.append("pass"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _total(diffusion, batch, again=True)
        assert happened == ["pass", "clear", "pass"]


def test_a_training_step_weighs_each_chain_alike_whatever_its_place_or_company(diffusion, make_batch) -> None:
    """Self-conditioning is drawn by batch; everything else belongs to the chain."""
    diffusion.self_conditioning = 0.0
    diffusion.log_losses = lambda *_: None
    diffusion.eval()
    sizes = [("one", 12), ("two", 17), ("three", 9), ("four", 20)]
    with torch.no_grad():
        together = diffusion.training_step(make_batch(sizes), 0)
        reordered = diffusion.training_step(make_batch(sizes[::-1]), 3)
        alone = [diffusion.training_step(make_batch([chain]), 0) for chain in sizes]
    torch.testing.assert_close(together, reordered, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=1e-3, atol=1e-4)
    assert max(alone) - min(alone) > 0.01


def test_self_conditioning_is_drawn_with_its_probability_from_seed_epoch_and_place(diffusion, batch) -> None:
    module = diffusion
    module.self_conditioning = 0.5
    module.log_losses = lambda *_: None
    passes: list[int] = []
    module.denoiser.register_forward_pre_hook(lambda *_: passes.append(1))

    def counts() -> list[int]:
        found = []
        for place in range(12):
            passes.clear()
            with torch.no_grad():
                module.training_step(batch, place)
            found.append(len(passes))
        return found

    first = counts()
    assert set(first) == {1, 2}
    assert counts() == first


def test_one_optimizer_step_moves_everything_but_the_frozen_encoder(diffusion, batch) -> None:
    _leave_zero(diffusion)
    diffusion.train()
    optimizer = build_optimizer(diffusion, diffusion.optimizer_config)
    before = {k: v.clone() for k, v in diffusion.state_dict().items()}
    weighted_total(_total(diffusion, batch, again=True), weights_at(diffusion.loss_weights, 1)).backward()
    optimizer.step()
    moved = {k.split(".")[0] for k, v in diffusion.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"pair_stack", "denoiser", "aux", "rg_head"}


def test_every_loss_term_has_a_weight_and_the_total_is_their_sum(diffusion, batch) -> None:
    total, terms = diffusion.losses(batch)
    weights = weights_at(diffusion.loss_weights, 1)
    assert terms.keys() == weights.keys()
    torch.testing.assert_close(total, sum(weights[k] * terms[k] for k in terms))


def test_the_auxiliary_loss_never_reaches_the_main_pair_stack(diffusion, batch) -> None:
    terms = _total(diffusion, batch)
    terms["aux"].backward()
    assert all(p.grad is None for p in diffusion.pair_stack.parameters())
    assert any(p.grad is not None for p in diffusion.aux.parameters())


def test_every_trained_parameter_gets_a_gradient(diffusion, batch) -> None:
    total = weighted_total(_total(diffusion, batch, again=True), weights_at(diffusion.loss_weights, 1))
    total.backward()
    missing = [n for n, p in diffusion.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def test_a_sample_depends_on_seed_and_key_and_not_on_its_batch(diffusion, make_batch) -> None:
    sampler = SamplerConfig(steps=3, eta=0.5)
    diffusion.eval()
    both = diffusion.sample(make_batch([("one", 12), ("two", 17)]), sampler, seed=1, keys=["a", "b"])
    alone = diffusion.sample(make_batch([("one", 12)]), sampler, seed=1, keys=["a"])
    other = diffusion.sample(make_batch([("one", 12)]), sampler, seed=2, keys=["a"])
    torch.testing.assert_close(both.x0[0, :12], alone.x0[0, :12], rtol=1e-3, atol=1e-3)
    assert (other.x0 - alone.x0).abs().max() > 0.1


def test_a_sample_is_in_angstrom_centred_and_looks_at_no_coordinates(diffusion, batch) -> None:
    sampler = SamplerConfig(steps=2)
    diffusion.eval()
    first = diffusion.sample(batch, sampler, seed=0, keys=batch.names)
    blind = replace(batch, coords=torch.full_like(batch.coords, float("nan")))
    second = diffusion.sample(blind, sampler, seed=0, keys=batch.names)
    assert torch.equal(first.x0, second.x0)
    valid = batch.residue_mask[..., None]
    assert (first.x0 * valid).sum(1).abs().max() < 1e-2
    assert pairwise_distances(first.x0)[0, :12, :12].max() > 3.0


@pytest.mark.parametrize(
    "setting", ["p_uncond=1.5", "self_conditioning=-0.1", "noise_draws=0", "val_draws=0"]
)
def test_impossible_settings_are_refused_by_name(setting) -> None:
    from minifold_pl.cli.errors import UserError

    with pytest.raises(UserError, match=setting.split("=")[0]):
        instantiate_model("v13_small.yaml", [f"--model.init_args.{setting}"])


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "distance bias"])
def test_each_noised_copy_reads_the_pair_features_of_its_own_chain(bias: bool) -> None:
    """Two different chains, three copies: what each copy becomes is what it becomes alone."""
    torch.manual_seed(0)
    module = instantiate_model(
        "v15_small", [f"--model.init_args.denoiser.init_args.distance_bias={bias}"]
    ).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        batch = module.example_batch(2, 24)
        batch = replace(
            batch, tokens=torch.cat([batch.tokens[:1], batch.tokens[:1, [0, *range(24, 0, -1), 25]]])
        )
        t, noise = torch.tensor([100, 300, 500, 700, 900, 50]), torch.randn(6, 24, 3)
        together, _ = module.predict_structure(
            batch, batch.tokens, module.target(batch), Draws(t, noise), True
        )
        for copy in range(3):
            rows = slice(2 * copy, 2 * copy + 2)
            alone, _ = module.predict_structure(
                batch, batch.tokens, module.target(batch), Draws(t[rows], noise[rows]), True
            )
            torch.testing.assert_close(together.x0[rows], alone.x0, rtol=1e-4, atol=1e-4)
