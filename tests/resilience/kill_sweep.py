"""Kill a small but complete training at every batch, continue it, and compare with the undisturbed one.

.. code-block:: console

    python -m tests.resilience.kill_sweep                  every case; 20 minutes on 3 cores
    python -m tests.resilience.kill_sweep --sample 12      a seeded sample of them

The training holds everything that keeps state: guidance and self-conditioning draws, EMA, patience, per-module
clipping, DDIM evaluation, random rotations, a joint encoder. Weights, EMA, optimizer, scheduler, callbacks' state,
``metrics.csv`` and ``ddim.jsonl`` must be the same to the last bit.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from tests.resilience.training import Case, kill_at, make_store, outcome, run_to_end, run_until_done

EPOCHS, BATCHES = 3, 6
"""Of the small training, at accumulation 1."""

PLACES_IN_A_BATCH = ("on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end")

_THREE_EPOCHS = ("--patience.patience", "100", "--trainer.max_epochs", "3")
"""Where validations are not one an epoch, patience would end the training elsewhere."""


class Kill(NamedTuple):
    """One case of the sweep."""

    case: Case
    place: str
    count: int

    def __str__(self) -> str:
        return f"{self.case}; killed at {self.place} {self.count}"


def cases() -> list[Case]:
    """Workers × accumulation × saves on and off the epoch's end, and a few that cross other settings."""
    grid = [
        Case(workers=workers, accumulation=accumulation, every_n_steps=every)
        for workers, accumulation, every in product((0, 1, 2), (1, 4), (None, 1))
    ]
    return [
        *grid,
        Case(every_n_steps=1, validations=6, more=("--trainer.val_check_interval", "0.5", *_THREE_EPOCHS)),
        Case(
            every_n_steps=1,
            validations=1,
            more=("--trainer.check_val_every_n_epoch", "2", "--ddim.every_n_epochs", "2", *_THREE_EPOCHS),
        ),
        Case(every_n_steps=1, more=("--ema.decay", "0")),
        Case(every_n_steps=1, more=("--checkpoints.background", "true")),
        Case(every_n_steps=1, workers=1, accumulation=4, more=("--checkpoints.background", "true")),
        Case(every_n_steps=1, workers=1, ranks=2),
        Case(every_n_steps=1, accumulation=4, ranks=2),
    ]


def kills(case: Case) -> Iterator[Kill]:
    """Every batch, in turn at its start, before its step and at its end; and the places around validation."""
    batches = BATCHES // case.ranks
    turn = cases().index(case)
    for k in range(EPOCHS * batches):
        # Neither the epoch nor the place in a window goes with the place in the batch.
        place = ("on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end")[
            (k + k // batches + turn) % 3
        ]
        if place == "on_before_optimizer_step":
            yield Kill(case, place, _steps_before(case, k, batches))
        else:
            yield Kill(case, place, k)
    for epoch in range(EPOCHS):
        yield Kill(case, "on_train_epoch_end", epoch)
    for number in range(min(EPOCHS, case.validations)):
        for place in ("on_validation_batch_end", "sampling", "on_validation_end"):
            yield Kill(case, place, number)


def _steps_before(case: Case, batch: int, batches: int) -> int:
    """Optimizer steps before the one that batch ``batch`` of the training belongs to."""
    per_epoch = -(-batches // case.accumulation)
    return batch // batches * per_epoch + batch % batches // case.accumulation


def sweep(chosen: Sequence[Kill], folder: Path, jobs: int) -> list[str]:
    """Run the cases; returns what differed."""
    store = make_store(folder / "store")
    needed = list(dict.fromkeys(kill.case for kill in chosen))
    begun = monotonic()

    def undisturbed(case: Case) -> dict[str, str]:
        run = folder / f"whole-{needed.index(case)}"
        code = run_to_end(case, store, run)
        assert code == 0, f"{case}: the undisturbed run ends with {code}; see {run.with_suffix('.log')}"
        return outcome(run)

    def disturbed(numbered: tuple[int, Kill]) -> str | None:
        number, kill = numbered
        run = folder / f"killed-{number}"
        code = run_to_end(kill.case, store, run, kill_at(kill.place, kill.count))
        if code == 0:
            return f"{kill}: was not killed"
        try:
            run_until_done(kill.case, store, run)
        except AssertionError as error:
            return f"{kill}: {error}"
        found, expected = outcome(run), whole[kill.case]
        different = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        if different:
            return f"{kill}: differs in {', '.join(different)} ({run})"
        shutil.rmtree(run)
        return None

    problems = []
    with ThreadPoolExecutor(jobs) as pool:
        whole = dict(zip(needed, pool.map(undisturbed, needed), strict=True))
        for done, problem in enumerate(pool.map(disturbed, enumerate(chosen)), start=1):
            if problem:
                problems.append(problem)
                print(problem, flush=True)
            if done % 20 == 0 or done == len(chosen):
                took = monotonic() - begun
                print(f"{done} of {len(chosen)}, {len(problems)} different, {took:.0f} s", flush=True)
    return problems


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sample", type=int, metavar="N", help="only N of the cases, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the runs here")
    args = parser.parse_args()
    chosen = [kill for case in cases() for kill in kills(case)]
    if args.sample is not None:
        chosen = random.Random(args.seed).sample(chosen, args.sample)
    folder = args.keep or Path(tempfile.mkdtemp(prefix="kill-sweep-"))
    folder.mkdir(parents=True, exist_ok=True)
    problems = sweep(chosen, folder, args.jobs)
    if not problems and args.keep is None:
        shutil.rmtree(folder)
    print(f"{len(chosen) - len(problems)} of {len(chosen)} killed runs ended as the undisturbed one")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
