"""Rows of guesses are scored as each guess alone."""

from __future__ import annotations

import torch

from minifold_pl.metrics import comparison
from minifold_pl.metrics.comparison import SEES_ANSWER, TRUTH, baseline_guesses, score_guesses
from minifold_pl.metrics.structure import structure_scores


def test_each_guess_of_each_row_scores_as_it_does_alone(make_batch, make_walk) -> None:
    true, mask = make_batch([make_walk(40), make_walk(30)])
    guesses = torch.stack([true + k * torch.randn_like(true) for k in (1.0, 2.0, 3.0)])
    rows = score_guesses({"model": guesses, **baseline_guesses(true, mask)}, true, mask, mask)
    assert list(rows) == ["model", "centroid", "ideal helix", "mirrored truth", "truth"]
    for k, guess in enumerate(guesses):
        alone = structure_scores(guess, true, mask, mask, searched=True)
        assert rows["model"].keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(
                rows["model"][name][k], value.double(), atol=1e-5, rtol=1e-5, equal_nan=True
            )
    assert all(value.shape == (1, 2) for value in rows[TRUTH].values())
    torch.testing.assert_close(
        rows[TRUTH]["tm_score"], torch.ones(1, 2, dtype=torch.float64), atol=1e-5, rtol=0
    )
    assert (rows["mirrored truth"]["tm_score"] < 0.8).all()
    assert set(SEES_ANSWER) < rows.keys()


def test_long_batches_are_scored_in_parts_with_the_same_result(make_batch, make_walk, monkeypatch) -> None:
    true, mask = make_batch([make_walk(20), make_walk(17), make_walk(12)])
    pred = true + torch.randn_like(true)
    whole = structure_scores(pred, true, mask, mask)
    monkeypatch.setattr("minifold_pl.metrics.structure._PAIRS_AT_ONCE", 400)
    parts = structure_scores(pred, true, mask, mask)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, equal_nan=True)
    assert comparison.baseline_guesses(true, mask)["truth"].shape == (1, 3, 20, 3)
