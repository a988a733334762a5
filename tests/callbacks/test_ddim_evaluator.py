"""The choice of chains and the rows of the table."""

from __future__ import annotations

import torch

from minifold_pl.callbacks.ddim_evaluator import MODEL, choose_chains, intervals, print_table
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


def test_the_table_shows_whole_intervals(capsys) -> None:
    scores = {k: torch.tensor([0.1, 0.2, 0.3]) for k in ("tm_kabsch", "rmsd", "lddt_ca")}
    print_table("title", {MODEL: intervals(scores), "mirrored truth": intervals(scores)})
    text = capsys.readouterr().out
    assert "…" not in text
    assert "mirrored truth*" in text
    assert text.count("[0.") == 6
