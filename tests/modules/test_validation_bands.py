"""Validation losses by band of noise: which example counts where, and that nothing else changes."""

from __future__ import annotations

import math

import pytest
import torch

from minifold_pl.losses.objective import final_weights, weights_at
from minifold_pl.losses.reduction import PerChain
from minifold_pl.modules.band_losses import BANDS, BandLosses, band_of, named_band_losses


def _examples(count: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    t = torch.randint(1, 1000, (count,), generator=generator)
    terms = {
        name: PerChain(torch.rand(count, generator=generator), torch.rand(count, generator=generator) > 0.2)
        for name in ("fape", "dist")
    }
    return t, terms


def test_bands_are_equal_thirds_of_the_timesteps_from_low_to_high_noise() -> None:
    bands = band_of(torch.arange(1, 1000), 1000)
    assert bands.bincount().tolist() == [333, 333, 333]
    assert (bands.diff() >= 0).all()
    assert band_of(torch.tensor([1, 9]), 10).tolist() == [0, 2]


def test_a_band_holds_the_mean_of_its_own_counted_examples() -> None:
    t, terms = _examples(200)
    metric = BandLosses(("fape", "dist"), 1000)
    for rows in torch.arange(200).split(37):
        metric.update(t[rows], {k: PerChain(v.value[rows], v.counted[rows]) for k, v in terms.items()})
    found = metric.compute()
    assert tuple(found) == BANDS
    for i, band in enumerate(BANDS):
        for name, term in terms.items():
            chosen = (band_of(t, 1000) == i) & term.counted
            torch.testing.assert_close(found[band][name], term.value[chosen].mean())


def test_what_is_not_counted_may_be_anything() -> None:
    metric = BandLosses(("fape",), 1000)
    value = torch.tensor([1.0, math.nan, math.inf])
    metric.update(torch.tensor([10, 20, 30]), {"fape": PerChain(value, torch.tensor([True, False, False]))})
    assert metric.compute()["low"]["fape"] == 1


def test_a_band_without_examples_is_left_out_and_not_zero() -> None:
    metric = BandLosses(("fape", "dist"), 1000)
    one = PerChain(torch.ones(1), torch.tensor([True]))
    none = PerChain(torch.zeros(1), torch.tensor([False]))
    metric.update(torch.tensor([999]), {"fape": one, "dist": none})
    found = metric.compute()
    assert found.keys() == {"high"}
    assert found["high"].keys() == {"fape"}
    named = named_band_losses(found, {"fape": 2.0, "dist": 1.0}, "val_band")
    assert named == {"val_band/high/total": torch.tensor(2.0), "val_band/high/fape": torch.tensor(1.0)}


def test_a_term_of_weight_0_is_logged_and_stays_out_of_the_total() -> None:
    found = {"low": {"fape": torch.tensor(1.0), "clash": torch.tensor(math.inf)}}
    named = named_band_losses(found, {"fape": 1.0, "clash": 0.0}, "val_band")
    assert named["val_band/low/total"] == 1
    assert "val_band/low/clash" in named


def _validated(module, *batches) -> dict[str, torch.Tensor]:
    logged: dict[str, torch.Tensor] = {}
    module.log_dict = lambda values, **_: logged.update(values)
    module.log_losses = lambda prefix, total, terms, *_: logged.update(
        {f"{prefix}/{name}": term for name, term in terms.items()}
    )
    module.eval()
    with torch.no_grad():
        for i, batch in enumerate(batches):
            module.validation_step(batch, i)
        module.on_validation_epoch_end()
    return logged


def test_validation_logs_every_term_of_every_band_and_the_same_in_every_epoch(diffusion, make_batch) -> None:
    batches = [make_batch([("one", 12), ("two", 16)]), make_batch([("three", 9)])]
    first = _validated(diffusion, *batches)
    weights = weights_at(diffusion.loss_weights, 1)
    for band in BANDS:
        names = {f"val_band/{band}/{term}" for term in (*weights, "total")}
        assert names <= first.keys()
        total = sum(w * first[f"val_band/{band}/{term}"] for term, w in weights.items())
        torch.testing.assert_close(first[f"val_band/{band}/total"], total)
    again = _validated(diffusion, *batches[::-1])
    for name, value in first.items():
        if name.startswith("val_band/"):
            torch.testing.assert_close(again[name], value, rtol=1e-4, atol=1e-6)
    # More noise, more error: without it the bands would be three names for one number.
    assert first["val_band/high/dist"] > 1.5 * first["val_band/low/dist"]


def test_bands_together_are_the_validation_loss(diffusion, batch) -> None:
    """Four draws a chain, three chains: the mean of the examples, put together from the bands."""
    logged = _validated(diffusion, batch)
    bands = band_of(diffusion._fixed_draws(batch).t, 1000).bincount(minlength=3)
    together = sum(n * logged[f"val_band/{b}/dist"] for n, b in zip(bands.tolist(), BANDS, strict=True))
    assert float(together) / int(bands.sum()) == pytest.approx(float(logged["val/dist"]), rel=1e-5)


def test_one_epochs_bands_are_not_in_the_next_and_test_has_its_own(diffusion, make_batch) -> None:
    one, two = make_batch([("one", 12)]), make_batch([("two", 16)])
    _validated(diffusion, one)
    after = _validated(diffusion, two)
    fresh = _validated(diffusion, two)
    assert after["val_band/low/dist"] == fresh["val_band/low/dist"]
    with torch.no_grad():
        diffusion.test_step(one, 0)
        logged: dict[str, torch.Tensor] = {}
        diffusion.log_dict = lambda values, **_: logged.update(values)
        diffusion.on_test_epoch_end()
    assert "test_band/low/dist" in logged


def test_the_score_is_the_total_at_final_weights_whatever_the_epoch(diffusion, batch, monkeypatch) -> None:
    logged = _validated(diffusion, batch)
    weights = final_weights(diffusion.loss_weights)
    assert weights["bond"] == 3.0  # at epoch 1 it is 1.2
    first = logged["val/score"]
    assert first == pytest.approx(sum(float(w * logged[f"val/{k}"]) for k, w in weights.items()))
    monkeypatch.setattr(type(diffusion), "current_epoch", property(lambda _: 7))
    assert _validated(diffusion, batch)["val/score"] == first


def test_bands_leave_no_trace_in_parameters_or_checkpoints(diffusion, batch) -> None:
    before = list(diffusion.state_dict()), [n for n, _ in diffusion.named_modules()]
    _validated(diffusion, batch)
    assert (list(diffusion.state_dict()), [n for n, _ in diffusion.named_modules()]) == before
