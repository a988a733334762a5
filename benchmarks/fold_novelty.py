"""How new the folds are that a rung calls unseen: TM-align of each against the folds of training.

    python -m benchmarks.fold_novelty FOLDER

FOLDER is what `minifold-pl diagnose ladder --rungs 5 --out FOLDER` wrote. Prints a Markdown table, a fold of the test
split a line: the training fold nearest to it, the TM-score of the alignment (tmtools, TM-align; normalised by either
chain's length, the lower of both), and the mean TM-score of the model's samples there; then the model's and the best
baseline's mean over the folds that no training fold is like.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tmtools import tm_align

from minifold_pl.constants import CA_ATOM
from minifold_pl.data.store import ChainStore
from minifold_pl.metrics.comparison import SEES_ANSWER

SAME_FOLD = 0.5
"""TM-score from which two chains are of one fold (Xu & Zhang 2010)."""


class Nearest(NamedTuple):
    """A test fold and what training has like it."""

    fold: str
    training: str
    tm: float


def nearest_folds(store: ChainStore) -> list[Nearest]:
    """Of each fold of the test split the nearest one of training, by a chain of each."""
    test, training = (_one_each(store, split) for split in ("test", "train"))
    found = []
    for fold, chain in test.items():
        tms = {other: _alike(chain, trace) for other, trace in training.items()}
        best = max(tms, key=lambda other: tms[other])
        found.append(Nearest(fold, best, tms[best]))
    return found


def table(nearest: Sequence[Nearest], by_fold: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown.

    Raises:
        KeyError: The scores are of other folds.
    """
    lines = [
        "| fold | nearest training fold, TM-align | model's TM-score | best baseline |",
        "|---|---|---|---|",
    ]
    new: list[Mapping[str, Any]] = []
    for fold, _, tm in sorted(nearest, key=lambda found: found.tm):
        scores = by_fold[fold]
        lines.append(f"| {fold} | {tm:.2f} | {scores['model']:.3f} | {_baseline(scores):.3f} |")
        if tm < SAME_FOLD:
            new.append(scores)
    if new:
        chains = sum(scores["n"] for scores in new)
        ours, theirs = (
            math.fsum(scores["n"] * score(scores) for scores in new) / chains
            for score in (lambda scores: scores["model"], _baseline)
        )
        lines.append(
            f"\nThe {len(new)} of {len(nearest)} that no training fold is like (below {SAME_FOLD}), {chains} chains: "
            f"model {ours:.3f}, best baseline of each fold {theirs:.3f}."
        )
    return "\n".join(lines)


def _baseline(scores: Mapping[str, Any]) -> float:
    return max(value for row, value in scores.items() if row not in ("n", "model", *SEES_ANSWER))


def _one_each(store: ChainStore, split: str) -> dict[str, np.ndarray]:
    """The first chain of each cluster, Cα (l, 3) in Å."""
    found: dict[str, np.ndarray] = {}
    for i in store.indices(split):
        found.setdefault(str(store.clusters[i]), store.coords(int(i))[:, CA_ATOM].astype(np.float64))
    return found


def _alike(one: np.ndarray, other: np.ndarray) -> float:
    found = tm_align(one, other, "A" * len(one), "A" * len(other))
    return float(min(found.tm_norm_chain1, found.tm_norm_chain2))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 2 where the folder holds no rung 5."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fold_novelty",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    args = parser.parse_args(argv)
    try:
        rung = json.loads((args.folder / "ladder.json").read_text(encoding="utf-8"))["5"]
        nearest = nearest_folds(ChainStore.open(args.folder / "synthetic"))
        print(table(nearest, rung["models"]["unseen folds"]["by_fold"]))
    except (OSError, ValueError, LookupError, TypeError) as error:
        parser.error(f"{args.folder} holds no result of rung 5: {error!r}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
