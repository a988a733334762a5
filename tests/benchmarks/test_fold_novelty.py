"""How new the folds of a test split are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.fold_novelty import Nearest, main, nearest_folds, table

from minifold_pl.data.datamodule import write_synthetic
from minifold_pl.data.store import ChainStore
from minifold_pl.data.synthetic import SyntheticConfig

SCORES = {"n": 10, "model": 0.4, "ideal helix": 0.3, "centroid": 0.1, "truth": 1.0, "mirrored truth": 0.9}


def test_folds_that_training_has_are_left_out_of_the_mean() -> None:
    by_fold = {"a": SCORES, "b": {**SCORES, "n": 30, "model": 0.2}, "c": {**SCORES, "model": 0.9}}
    text = table([Nearest("a", "x", 0.3), Nearest("b", "x", 0.49), Nearest("c", "y", 0.7)], by_fold)
    assert "| c | 0.70 | 0.900 | 0.300 |" in text
    assert "The 2 of 3" in text and "40 chains: model 0.250, best baseline of each fold 0.300" in text


def test_a_fold_of_training_is_found_again_in_it(tmp_path: Path, monkeypatch) -> None:
    """Against its own split each fold is its own nearest."""
    write_synthetic(tmp_path / "store", SyntheticConfig(n=60, folds=5, min_length=24, max_length=34))
    store = ChainStore.open(tmp_path / "store")
    found = nearest_folds(store)
    assert len(found) == 1 and found[0].fold.endswith("-test") and 0.1 < found[0].tm < 0.9
    monkeypatch.setattr("benchmarks.fold_novelty._one_each", lambda store, split, own=None: _train(store))
    assert all(near.fold == near.training and near.tm > 0.99 for near in nearest_folds(store))


def _train(store: ChainStore) -> dict[str, object]:
    return {str(store.clusters[i]): store.coords(int(i))[:, 1].astype(float) for i in store.indices("train")}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"5": {}}'])
def test_what_is_no_result_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "ladder.json").write_text(content)
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path)])
    assert ended.value.code == 2


def test_the_whole_command_prints_a_line_a_fold(tmp_path: Path, capsys) -> None:
    write_synthetic(tmp_path / "synthetic", SyntheticConfig(n=60, folds=5, min_length=24, max_length=34))
    fold = nearest_folds(ChainStore.open(tmp_path / "synthetic"))[0].fold
    results = {"5": {"models": {"unseen folds": {"by_fold": {fold: SCORES}}}}}
    (tmp_path / "ladder.json").write_text(json.dumps(results))
    assert main([str(tmp_path)]) == 0
    assert f"| {fold} |" in capsys.readouterr().out
