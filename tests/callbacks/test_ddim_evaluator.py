"""The choice of chains and the rows of the table."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from minifold_pl.callbacks.ddim_evaluator import MODEL, DDIMEvaluator, choose_chains, intervals, print_table
from minifold_pl.data.datamodule import write_synthetic
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.data.store import ChainStore
from minifold_pl.data.synthetic import SyntheticConfig


def test_the_same_seed_chooses_the_same_whole_chains(tmp_path) -> None:
    write_synthetic(tmp_path / "s", SyntheticConfig(n=60, folds=5, min_length=24, max_length=34))
    chains = ChainDataset(ChainStore.open(tmp_path / "s"), "train", max_length=28)
    chosen = choose_chains(chains, 5, seed=3)
    assert chosen == choose_chains(chains, 5, seed=3)
    assert len(set(chosen)) == 5
    assert all(chains.store.lengths[chains.indices[i]] <= 28 for i in chosen)
    assert len(choose_chains(chains, 10_000, seed=3)) < len(chains)  # the cropped ones stay out


@pytest.mark.parametrize("setting", [{"every_n_epochs": -1}, {"chains": 0}, {"batch_size": 0}])
def test_impossible_settings_are_refused_by_name(setting) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        DDIMEvaluator(**setting)


def test_a_model_that_cannot_sample_is_refused(tiny, make_trainer) -> None:
    with pytest.raises(ValueError, match="samples a DiffusionModule, not a Tiny"):
        make_trainer(DDIMEvaluator(every_n_epochs=1), max_epochs=1).fit(tiny)


@pytest.mark.parametrize("steps", [-1, 40])
def test_it_is_due_every_nth_epoch_and_in_the_last(steps) -> None:
    evaluator = DDIMEvaluator(every_n_epochs=3)

    def due(batch: int, fn: str = "fit", last: bool = True) -> bool:
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(is_last_batch=last)))
        trainer = SimpleNamespace(
            current_epoch=(batch - 1) // 5, max_epochs=8 if steps < 0 else -1, max_steps=steps, global_step=batch,
            state=SimpleNamespace(fn=fn), fit_loop=loop,
        )  # fmt: skip
        found = evaluator._due(trainer)
        if found:
            evaluator._history.append({"step": batch, "finished": trainer.current_epoch + last})
        return found

    assert [epoch for epoch in range(1, 9) if due(5 * epoch)] == [3, 6, 8]
    evaluator._history.clear()
    # Validations in the middle of epochs: the first one after three whole epochs.
    assert [batch for batch in range(2, 40, 2) if due(batch, last=batch % 5 == 0)] == [16, 30]
    assert not due(40, fn="validate")


def test_the_table_shows_whole_intervals(capsys) -> None:
    scores = {k: torch.tensor([0.1, 0.2, 0.3]) for k in ("tm_kabsch", "rmsd", "lddt_ca")}
    print_table("title", {MODEL: intervals(scores), "mirrored truth": intervals(scores)})
    text = capsys.readouterr().out
    assert "…" not in text
    assert "mirrored truth*" in text
    assert text.count("[0.") == 6
