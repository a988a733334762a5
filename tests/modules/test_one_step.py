"""x̂0 at given timesteps: the same noise for every model, the same numbers in any batch."""

from __future__ import annotations

import pytest
import torch

from minifold_pl.geometry.units import to_angstrom
from minifold_pl.metrics.tm import tm_kabsch
from minifold_pl.modules.draws import Draws
from minifold_pl.modules.one_step import (
    check_times,
    dashboard_times,
    mostly_noise,
    noised_chains,
    one_step,
    structure_loss,
)
from minifold_pl.modules.sequence_controls import masked_tokens
from minifold_pl.types import Denoised

TIMES = (25, 475, 975)


def test_the_dashboards_timesteps_are_those_of_the_schedule() -> None:
    assert dashboard_times(1000) == (25, 75, 225, 475, 725, 975)
    assert dashboard_times(100) == (2, 8, 22, 48, 72, 98)
    assert dashboard_times(4) == (1, 2, 3)
    assert mostly_noise((699, 700, 975), 1000).tolist() == [False, True, True]


@pytest.mark.parametrize("times", [(), (0,), (1000,), (5, -1)])
def test_impossible_timesteps_are_refused(times) -> None:
    with pytest.raises(ValueError, match="from 1 to 999"):
        check_times(times, 1000)
    assert check_times([75, 25, 75], 1000) == (25, 75)


def test_terms_are_those_of_the_objective_on_the_same_draws(diffusion, batch) -> None:
    diffusion.eval()
    step = one_step(diffusion, batch, TIMES, seed=3)
    assert step.x0.shape == (3, len(batch), *batch.ca.shape[1:])
    target = diffusion.target(batch)
    for k, t in enumerate(TIMES):
        signal, noise = (
            diffusion.noise_schedule.signal(torch.tensor(t)),
            diffusion.noise_schedule.noise(torch.tensor(t)),
        )
        eps = (step.noised[k] / 10 - signal * target.x0) / noise
        draws = Draws(torch.full((len(batch),), t), eps)
        with torch.no_grad():
            prediction, truth = diffusion.predict_structure(batch, batch.tokens, target, draws, False)
            terms = diffusion.objective.per_chain(prediction, truth)
        for name, term in terms.items():
            torch.testing.assert_close(step.terms[name].value[k], term.value, rtol=1e-3, atol=1e-4)
        moved = to_angstrom(prediction.x0 - prediction.x0.sum(1, keepdim=True) / batch.lengths[:, None, None])
        valid = batch.residue_mask[..., None]
        torch.testing.assert_close(step.x0[k] * valid, moved * valid, rtol=1e-3, atol=1e-3)


def test_a_chain_gives_the_same_in_any_batch_and_any_number_of_copies_at_once(diffusion, make_batch) -> None:
    diffusion.eval()
    both = one_step(diffusion, make_batch([("one", 12), ("two", 17)]), TIMES, seed=0)
    alone = one_step(diffusion, make_batch([("two", 17)]), TIMES, seed=0, chains_at_once=1)
    assert torch.equal(both.noised[:, 1, :17], alone.noised[:, 0, :17])
    torch.testing.assert_close(both.x0[:, 1, :17], alone.x0[:, 0, :17], rtol=1e-3, atol=1e-3)
    for name in both.terms:
        torch.testing.assert_close(
            both.terms[name].value[:, 1], alone.terms[name].value[:, 0], rtol=1e-3, atol=1e-4
        )


def test_other_seeds_give_other_noise_and_other_tokens_the_same(diffusion, batch) -> None:
    with torch.no_grad():  # maps that start at 0 would hide the sequence
        for parameter in diffusion.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    diffusion.eval()
    first, other = (one_step(diffusion, batch, (475,), seed=seed) for seed in (0, 1))
    masked = one_step(diffusion, batch, (475,), seed=0, tokens=masked_tokens(batch))
    assert not torch.allclose(first.noised, other.noised)
    assert torch.equal(first.noised, masked.noised)
    for term in ("rg", "fape"):
        assert not torch.equal(first.terms[term].value, masked.terms[term].value)


def test_every_timestep_has_noise_of_its_own(diffusion, batch) -> None:
    x0 = diffusion.target(batch).x0
    noised = noised_chains(diffusion, batch, TIMES, seed=0) / 10
    noises = []
    for x_t, t in zip(noised, TIMES, strict=True):
        signal, noise = (
            getattr(diffusion.noise_schedule, kind)(torch.tensor(t)) for kind in ("signal", "noise")
        )
        noises.append(((x_t - signal * x0) / noise)[batch.residue_mask].flatten())
    for k in range(len(TIMES) - 1):
        assert torch.corrcoef(torch.stack(noises[k : k + 2]))[0, 1].abs() < 0.5


def test_the_terms_of_the_sequence_alone_are_not_structural(diffusion, batch) -> None:
    step = one_step(diffusion.eval(), batch, (475,), seed=0)
    assert set(step.terms) - set(step.structural) == {"rg", "aux"}
    weights = {**dict.fromkeys(step.terms, 0.0), "dist": 2.0, "rg": 5.0}
    torch.testing.assert_close(step.structure_loss(weights), 2 * step.terms["dist"].value)
    assert structure_loss(diffusion, step).shape == (1, len(batch))


def test_an_oracle_scores_one_at_every_timestep_and_no_structural_loss(diffusion, batch, monkeypatch) -> None:
    target = diffusion.target(batch)

    def oracle(x_t, t, condition, previous=None, use_previous=None):
        copies = len(x_t) // len(batch)
        return Denoised(target.x0.repeat(copies, 1, 1), target.rotation.repeat(copies, 1, 1, 1))

    monkeypatch.setattr(diffusion.denoiser, "forward", oracle)
    step = one_step(diffusion.eval(), batch, TIMES, seed=0)
    for x0 in step.x0:
        torch.testing.assert_close(
            tm_kabsch(x0, batch.ca, batch.ca_mask), torch.ones(len(batch)), atol=1e-3, rtol=0
        )
    assert step.terms["fape"].value.max() < 2e-3  # the root's 1e-8 under it, in units of 10 Å
    assert step.terms["dist"].value.max() < 1e-6


def test_nothing_else_moves_neither_random_state_nor_mode_nor_gradients(diffusion, batch) -> None:
    diffusion.train()
    state = torch.get_rng_state()
    step = one_step(diffusion.eval(), batch, TIMES, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert not step.x0.requires_grad
    assert not diffusion.training
