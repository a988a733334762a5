"""Whether a model reads the sequence, on models of which it is known."""

from __future__ import annotations

import pytest
import torch

from minifold_pl.data.dataset import ChainDataset
from minifold_pl.diagnostics.sequence import sequence_gains, sequence_scores, verdict
from minifold_pl.diagnostics.steps import LOSS, StepScores
from minifold_pl.metrics.bootstrap import Interval
from minifold_pl.modules.sequence_controls import MASKED, OTHER, REAL, SHUFFLED

TIMES = (725, 975)


def reader(diffusion, chains, monkeypatch, reads) -> None:
    """A model that gives the truth away where ``reads(tokens, real tokens)``, else noise."""
    real = {}
    for i in range(len(chains)):
        item = chains[i]
        real[item.name] = torch.as_tensor(item.tokens)
    plain = diffusion.predict_structure

    def predict(batch, tokens, target, draws, again):
        prediction, repeated = plain(batch, tokens, target, draws, again)
        right = torch.tensor(
            [reads(row[: len(real[name])], real[name]) for row, name in zip(tokens, batch.names, strict=True)]
        ).repeat(len(draws.t) // len(batch))
        x0 = torch.where(right[:, None, None], repeated.x0, draws.noise)
        rotation = torch.where(right[:, None, None, None], repeated.rotation, torch.eye(3))
        return prediction._replace(x0=x0, rotation=rotation), repeated

    monkeypatch.setattr(diffusion, "predict_structure", predict)


def same_order(tokens, real) -> bool:
    return torch.equal(tokens, real)


def same_composition(tokens, real) -> bool:
    return torch.equal(tokens.sort().values, real.sort().values)


def nothing(tokens, real) -> bool:
    return True


@pytest.mark.parametrize(
    ("reads", "says"),
    [(same_order, "reads the sequence"), (same_composition, "composition at most"), (nothing, "no sign")],
)
def test_the_verdict_is_what_the_model_was_made_to_do(diffusion, chains, monkeypatch, reads, says) -> None:
    reader(diffusion, chains, monkeypatch, reads)
    found = sequence_scores(diffusion, chains, TIMES, seed=0, batch_size=2)
    assert list(found.rows) == [REAL, SHUFFLED, MASKED, OTHER]
    gains = sequence_gains(found)
    assert says in verdict(gains, float(found.rows[REAL][LOSS].mean()))
    if reads is same_composition:
        assert gains[SHUFFLED].mean == 0


def test_gains_are_paired_by_chain_and_noise() -> None:
    real = torch.tensor([[1.0, 10.0, 100.0], [3.0, 30.0, 300.0]])
    rows = {REAL: {LOSS: real}, SHUFFLED: {LOSS: real + 0.5}}
    gain = sequence_gains(StepScores(TIMES, ("a", "b", "c"), rows))[SHUFFLED]
    # Chains differ a hundredfold, the gain does not: unpaired its interval would be wide.
    assert gain.mean == pytest.approx(0.5)
    assert gain.high - gain.low < 1e-9


def test_a_verdict_needs_more_than_one_chain_and_a_difference_from_0() -> None:
    def gain(low, high, n=20):
        return Interval((low + high) / 2, low, high, n)

    nan = float("nan")
    assert "one chain says nothing" in verdict({SHUFFLED: Interval(0.3, nan, nan, 1)}, 1.0)
    assert "no sign" in verdict({SHUFFLED: gain(-0.1, 0.2), MASKED: gain(-0.2, 0.1)}, 1.0)
    mixed = verdict({SHUFFLED: gain(-0.1, 0.2), MASKED: gain(-0.2, -0.1)}, 1.0)
    assert "MASK does better" in mixed and "not read the sequence as it should" in mixed
    # 0 within the interval says nothing unless the interval is narrow.
    for wide in (gain(-0.2, 0.1), gain(-0.005, 0.02), gain(-0.02, 0.005)):
        told = verdict({SHUFFLED: gain(0.1, 0.2), MASKED: wide}, 1.0)
        assert "MASK cannot be told apart" in told and "as well" not in told
    assert "MASK does as well" in verdict({SHUFFLED: gain(0.1, 0.2), MASKED: gain(-0.005, 0.01)}, 1.0)
    # It is a share of the loss.
    assert "MASK does as well" in verdict({SHUFFLED: gain(30, 40), MASKED: gain(-0.2, 0.1)}, 50.0)
    unclear = verdict({SHUFFLED: gain(-0.1, 0.2), MASKED: gain(0.1, 0.2)}, 1.0)
    assert "composition at most" not in unclear and "shuffled cannot be told apart" in unclear
    assert "composition at most" in verdict({SHUFFLED: gain(0, 0.001), MASKED: gain(0.1, 0.2)}, 1.0)


def test_a_single_chain_has_no_other_chains_sequence(diffusion, chains) -> None:
    alone = ChainDataset(chains.store, "train", limit=1)
    found = sequence_scores(diffusion, alone, TIMES, seed=0, batch_size=2)
    assert list(found.rows) == [REAL, SHUFFLED, MASKED]
