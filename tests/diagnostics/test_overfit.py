"""Learning a batch by heart."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch

from minifold_pl.data.collate import collate
from minifold_pl.diagnostics import overfit as room
from minifold_pl.diagnostics.overfit import OverfitConfig, OverfitPoint, OverfitResult, overfit
from minifold_pl.modules.sampling import SamplerConfig


@pytest.fixture
def batch(chains):
    return collate([chains[0]])


def result(first: dict, last: dict, steps: int = 100) -> str:
    return OverfitResult([OverfitPoint(0, 0.0, first), OverfitPoint(steps, 1.0, last)]).verdict()


def test_a_small_batch_is_learnt_and_the_losses_say_so(contact, batch) -> None:
    told: list[OverfitPoint] = []
    found = overfit(contact, batch, OverfitConfig(seconds=60, steps=40), told.append)
    assert told == found.points
    assert (found.points[0].step, found.points[-1].step) == (0, 40)
    assert found.points[-1].values["loss"] < 0.3 * found.points[0].values["loss"]
    assert "the model learns this batch" in found.verdict()


def test_the_second_stage_is_measured_by_its_samples(diffusion, batch) -> None:
    diffusion.sampler = SamplerConfig(steps=2)
    found = overfit(diffusion, batch, OverfitConfig(seconds=60, steps=30))
    first, last = found.points[0].values, found.points[-1].values
    assert {
        "tm_score",
        "tm_to_mirror",
        "rmsd",
        "one_step_tm_t025",
        "one_step_tm_t975",
        "loss/fape",
    } <= last.keys()
    assert last["loss"] < 0.8 * first["loss"]
    assert "the loss went from" in found.verdict()


def test_the_same_steps_give_the_same_losses(diffusion, batch) -> None:
    diffusion.sampler = SamplerConfig(steps=2)
    found = [overfit(copy.deepcopy(diffusion), batch, OverfitConfig(seconds=600, steps=3)) for _ in range(2)]
    first, second = (one.points[-1].values for one in found)
    assert first == pytest.approx(second, rel=1e-4)


def test_it_ends_with_the_time(contact, batch) -> None:
    found = overfit(contact, batch, OverfitConfig(seconds=0.5))
    assert found.points[-1].seconds < 5
    assert len(found.points) <= room._POINTS + 2


def test_steps_without_a_finite_loss_are_left_out_and_counted(contact, batch, monkeypatch) -> None:
    plain = room.training_loss

    def sometimes(module, batch, step, config):
        return plain(module, batch, step, config) * (float("nan") if step % 2 else 1.0)

    monkeypatch.setattr(room, "training_loss", sometimes)
    found = overfit(contact, batch, OverfitConfig(seconds=60, steps=6))
    assert found.skipped == 3
    assert all(torch.isfinite(p).all() for p in contact.parameters())
    assert "3 of them had no finite loss" in found.verdict()


@pytest.mark.parametrize(("kind", "lr"), [("contact", 1e12), ("diffusion", 1e8), ("diffusion", float("inf"))])
def test_a_learning_rate_far_too_high_ends_in_the_verdict_that_says_so(kind, lr, batch, request) -> None:
    module = request.getfixturevalue(kind)
    if kind == "diffusion":
        module.sampler = SamplerConfig(steps=2)
    found = overfit(module, batch, OverfitConfig(seconds=60, steps=4, lr=lr))
    assert "the loss is nan after 4 steps: lower the learning rate" in found.verdict()


@pytest.mark.parametrize("kind", ["contact", "diffusion"])
def test_one_term_that_is_not_finite_makes_the_loss_so(kind, batch, request, monkeypatch) -> None:
    module = request.getfixturevalue(kind)
    if kind == "contact":
        plain = module.terms
        monkeypatch.setattr(
            module, "terms", lambda *taken: {**plain(*taken), "contact": torch.tensor(float("nan"))}
        )
    else:
        module.sampler = SamplerConfig(steps=2)
        plain = room.one_step

        def lost(*taken, **named):
            step = plain(*taken, **named)
            term = step.terms["dist"]
            return step._replace(terms={**step.terms, "dist": term._replace(value=term.value * float("nan"))})

        monkeypatch.setattr(room, "one_step", lost)
    assert math.isnan(room.measure(module, batch, 0)["loss"])


def test_the_verdict_says_what_was_seen_and_no_more() -> None:
    start = {"loss": 2.0, "tm_score": 0.2, "tm_to_mirror": 0.2}
    assert "does not fall" in result(start, {**start, "loss": 1.9})
    assert "do not follow" in result(start, {**start, "loss": 0.1})
    assert "the fold, not yet" in result(start, {"loss": 0.1, "tm_score": 0.6, "tm_to_mirror": 0.3})
    assert "reaches what was learnt" in result(start, {"loss": 0.1, "tm_score": 0.95, "tm_to_mirror": 0.3})
    assert "the hand is not learnt" in result(start, {"loss": 0.1, "tm_score": 0.35, "tm_to_mirror": 0.97})
    assert "lower the learning rate" in result(start, {**start, "loss": float("nan")})
    assert "learns this batch" in result({"loss": 2.0}, {"loss": 0.1})


@pytest.mark.parametrize("setting", [{"seconds": 0}, {"steps": 0}, {"lr": 0}, {"noise_draws": 0}])
def test_impossible_settings_are_refused_by_name(setting) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        OverfitConfig(**setting)


@pytest.mark.slow
def test_a_chain_is_learnt_by_heart_until_its_sample_is_the_chain(diffusion, chains) -> None:
    # Measured on one core: TM 0.9 after 500 to 700 steps; the module as the shipped small config has it.
    batch = collate([min((chains[i] for i in range(len(chains))), key=lambda item: len(item.coords))])
    diffusion.sampler = replace(diffusion.sampler, steps=25)
    found = overfit(diffusion, batch, OverfitConfig(seconds=600, steps=1200))
    assert found.points[0].values["tm_score"] < 0.5
    assert found.points[-1].values["tm_score"] > 0.8
