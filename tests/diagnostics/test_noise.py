"""One-step estimates beside the floor."""

from __future__ import annotations

import pytest
import torch

from minifold_pl.data.collate import collate
from minifold_pl.diagnostics.noise import FLOOR, MODEL, noise_scores
from minifold_pl.metrics.tm import tm_kabsch
from minifold_pl.metrics.wiener import wiener_smoother
from minifold_pl.modules.one_step import noised_chains

TIMES = (25, 475, 975)


def test_every_chain_has_every_score_at_every_timestep_for_model_and_floor(diffusion, chains) -> None:
    counted: list[int] = []
    found = noise_scores(diffusion, chains, TIMES, seed=0, batch_size=2, advance=counted.append)
    assert sum(counted) == len(chains) == len(found.chains)
    assert set(found.chains) == {chains[i].name for i in range(len(chains))}
    assert found.times == TIMES
    for row in (MODEL, FLOOR):
        assert {"tm_kabsch", "rmsd", "loss", "loss/fape", "loss/dist"} <= found.rows[row].keys()
        assert not {"loss/rg", "loss/aux"} & found.rows[row].keys()  # they look at the sequence alone
        assert all(values.shape == (3, len(chains)) for values in found.rows[row].values())
    # Less signal, worse floor.
    assert found.rows[FLOOR]["tm_kabsch"].mean(1).diff().max() < 0
    assert found.rows[FLOOR]["loss"].mean(1).diff().min() > 0


def test_the_floor_is_the_smoothers_guess_from_the_models_own_noise(diffusion, chains) -> None:
    found = noise_scores(diffusion, chains, TIMES, seed=4, batch_size=3)
    for i in range(len(chains)):
        batch = collate([chains[i]])
        place = found.chains.index(batch.names[0])
        for k, t in enumerate(TIMES):
            noised = noised_chains(diffusion, batch, (t,), seed=4)[0]
            alpha_bar = diffusion.noise_schedule.alpha_bar(torch.tensor([t]), torch.float64)
            guess = wiener_smoother(noised, alpha_bar, batch.residue_mask)
            expected = float(tm_kabsch(guess, batch.ca.float(), batch.ca_mask))
            assert float(found.rows[FLOOR]["tm_kabsch"][k, place]) == pytest.approx(expected, abs=1e-3)


def test_an_oracle_is_above_the_floor_with_every_chain(diffusion, chains, monkeypatch) -> None:
    batch_targets = {}

    def predict(batch, tokens, target, draws, again):
        prediction, repeated = plain(batch, tokens, target, draws, again)
        batch_targets["seen"] = True
        return prediction._replace(x0=repeated.x0, rotation=repeated.rotation), repeated

    plain = diffusion.predict_structure
    monkeypatch.setattr(diffusion, "predict_structure", predict)
    found = noise_scores(diffusion, chains, TIMES, seed=0, batch_size=2)
    assert batch_targets["seen"]
    assert found.rows[MODEL]["tm_kabsch"].min() > 0.999
    assert (found.rows[MODEL]["tm_kabsch"] > found.rows[FLOOR]["tm_kabsch"]).all()
    # The floor is made from the noise, not from the oracle.
    assert found.rows[FLOOR]["tm_kabsch"][-1].max() < 0.5


def test_batches_do_not_matter(diffusion, chains) -> None:
    one, five = (noise_scores(diffusion, chains, TIMES, seed=0, batch_size=size) for size in (1, 5))
    assert one.chains == five.chains
    for row, scores in one.rows.items():
        for name, values in scores.items():
            torch.testing.assert_close(five.rows[row][name], values, atol=2e-3, rtol=2e-3, equal_nan=True)


def test_a_timestep_out_of_range_is_refused(diffusion, chains) -> None:
    with pytest.raises(ValueError, match="from 1 to 999"):
        noise_scores(diffusion, chains, (1000,), seed=0, batch_size=2)
