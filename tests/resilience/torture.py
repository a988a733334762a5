"""Kill small trainings at random moments until enough of them have died, and compare with undisturbed ones.

.. code-block:: console

    python -m tests.resilience.torture --kills 200 --seed 1                 SIGKILL
    python -m tests.resilience.torture --kills 60 --signals TERM USR1       no applied step may be lost

Each training goes on until it is done, killed again and again, from its start (imports apart) to its end. At least
``--inside-saves`` of the kills wait for a checkpoint that is being written. Every training must end as the
undisturbed one with the same settings did, to the last bit, and none may be stuck.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from mmap import mmap
from pathlib import Path
from threading import Lock
from time import monotonic, sleep

from tests.resilience.training import Case, latest_step, make_store, outcome, run_to_end, start, wait
from torch.optim.optimizer import register_optimizer_step_post_hook

from minifold_pl.checkpoint.io import AtomicCheckpointIO
from minifold_pl.run.exit_codes import DONE, INTERRUPTED, RETRY

LONGEST = 6.0
"""Seconds after which a kill that waits for nothing comes at the latest: about what a whole training takes."""

LEAST_INSIDE = 0.3
"""Of the kills, those that must have met a checkpoint being written."""

STUCK = 180.0
"""Seconds in which a start must end."""


class Gauge:
    """What a child process has done so far, in memory that it shares with its parent."""

    _FIELDS = ("begun", "ended", "applied")

    def __init__(self) -> None:
        self._memory = mmap(-1, 8 * len(self._FIELDS))

    def __getitem__(self, name: str) -> int:
        return struct.unpack_from("q", self._memory, 8 * self._FIELDS.index(name))[0]

    def _add(self, name: str) -> None:
        struct.pack_into("q", self._memory, 8 * self._FIELDS.index(name), self[name] + 1)

    @property
    def inside(self) -> bool:
        """A checkpoint is being written."""
        return self["begun"] > self["ended"]

    def install(self) -> None:
        """In the child: count the checkpoints begun and ended, and the optimizer's steps."""
        write = AtomicCheckpointIO.save_checkpoint

        def counted(*args: object, **kwargs: object) -> None:
            self._add("begun")
            try:
                write(*args, **kwargs)  # type: ignore[arg-type]
            finally:
                self._add("ended")

        AtomicCheckpointIO.save_checkpoint = counted  # type: ignore[method-assign, assignment]
        register_optimizer_step_post_hook(lambda *_: self._add("applied"))


@dataclass
class Tally:
    """What has happened so far."""

    wanted: int
    kills: int = 0
    inside: int = 0
    trainings: int = 0
    problems: list[str] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def note(self, inside: bool) -> None:
        """One more kill."""
        with self.lock:
            self.kills += 1
            self.inside += inside
            if self.kills % 20 == 0:
                print(
                    f"{self.kills} kills, {self.inside} inside saves, {self.trainings} trainings", flush=True
                )

    @property
    def enough(self) -> bool:
        """No more kills are wanted."""
        return self.kills >= self.wanted


def cases() -> list[Case]:
    """The settings from which each training draws."""
    return [
        Case(workers=workers, accumulation=accumulation, every_n_steps=every, more=more)
        for workers, accumulation, every, more in (
            (0, 1, 1, ()), (1, 1, 3, ()), (2, 1, None, ()), (0, 4, 1, ()), (2, 4, 1, ()), (0, 1, None, ()),
            (0, 1, 1, ("--checkpoints.background", "true")),
        )
    ]  # fmt: skip


def torment(
    number: int,
    draw: random.Random,
    store: Path,
    folder: Path,
    tally: Tally,
    signals: list[int],
    share: float,
) -> None:
    """Run one training to its end, killed whenever the draw says so."""
    chosen = draw.choice(cases())
    run = folder / f"run-{number}"
    for _ in range(200):
        if tally.enough:
            break
        gauge = Gauge()
        before = latest_step(run)
        child = start(chosen.arguments(store, run), run.with_suffix(".log"), install=gauge.install)
        number_sent = draw.choice(signals)
        inside = strike(child, gauge, number_sent, draw, share)
        try:
            code = wait(child, STUCK)
        except TimeoutError:
            tally.problems.append(f"{run}: {chosen}: stuck after {signal.Signals(number_sent).name}")
            return
        if code == DONE:
            break
        tally.note(inside)
        if number_sent == signal.SIGKILL:
            expected, lost = {-signal.SIGKILL}, 0
        else:
            # Before the handlers are there, and so before the first step, it dies of the signal itself.
            code_of = INTERRUPTED if number_sent == signal.SIGINT else RETRY
            expected = {code_of} if gauge["applied"] else {code_of, -number_sent}
            lost = before + gauge["applied"] - latest_step(run)
        if code not in expected:
            tally.problems.append(f"{run}: {chosen}: {signal.Signals(number_sent).name} ended it with {code}")
            return
        if lost:
            tally.problems.append(f"{run}: {chosen}: {lost} applied steps lost")
            return
    code = run_to_end(chosen, store, run)
    if code != DONE:
        tally.problems.append(f"{run}: {chosen}: ends with {code}")
        return
    tally.trainings += 1
    expected_outcome, found = outcome(folder / f"whole-{cases().index(chosen)}"), outcome(run)
    different = sorted(
        k for k in expected_outcome.keys() | found.keys() if expected_outcome.get(k) != found.get(k)
    )
    if different:
        tally.problems.append(f"{run}: {chosen}: differs in {', '.join(different)}")
    else:
        shutil.rmtree(run)


def strike(child: int, gauge: Gauge, number: int, draw: random.Random, share: float) -> bool:
    """Send the signal at a random moment; returns whether a checkpoint was being written then.

    With probability ``share`` the moment lies within the writing of a checkpoint, some saves from now.
    """
    begun = monotonic()
    end = begun + draw.uniform(0, LONGEST)
    saves = draw.randint(1, 5) if draw.random() < share else 0
    part = draw.random()
    took = 0.0
    while _alive(child):
        if saves == 0 and monotonic() >= end:
            break
        if saves and gauge.inside:
            entered, number_begun = monotonic(), gauge["begun"]
            # The saves before have shown how long one takes.
            wait_for = part * (took or 0.02) if number_begun >= saves else STUCK
            while gauge.inside and monotonic() - entered < wait_for and _alive(child):
                sleep(0.0002)
            if gauge.inside and gauge["begun"] == number_begun:
                break
            # It was over sooner: the next one is aimed at.
            took = monotonic() - entered
        sleep(0.0005)
    inside = gauge.inside
    try:
        os.kill(child, number)
    except ProcessLookupError:
        return False
    return inside


def _alive(child: int) -> bool:
    # Without reaping: `wait` needs the exit code.
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def torture(
    kills: int,
    seed: int,
    folder: Path,
    *,
    signals: list[int],
    share: float,
    jobs: int,
    say: Callable[[str], None] = print,
) -> Tally:
    """Run trainings until ``kills`` of their processes have died."""
    store = make_store(folder / "store")
    tally = Tally(wanted=kills)
    for number, case in enumerate(cases()):
        code = run_to_end(case, store, folder / f"whole-{number}")
        if code != DONE:
            raise AssertionError(f"{case}: the undisturbed run ends with {code}")
    say(f"{len(cases())} undisturbed runs done")
    numbers = count()

    def work() -> None:
        while not tally.enough and not tally.problems:
            number = next(numbers)
            torment(number, random.Random(f"{seed}-{number}"), store, folder, tally, signals, share)

    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(work) for _ in range(jobs)]:
            future.result()
    return tally


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--signals", nargs="+", default=["KILL"], choices=["KILL", "TERM", "USR1", "USR2", "HUP", "INT"]
    )
    parser.add_argument(
        "--inside-saves", type=float, default=0.7, metavar="SHARE", help="of the kills, aimed at"
    )
    parser.add_argument("--jobs", type=int, default=2, help="trainings at the same time")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the runs here")
    args = parser.parse_args()
    folder = args.keep or Path(tempfile.mkdtemp(prefix="torture-"))
    folder.mkdir(parents=True, exist_ok=True)
    begun = monotonic()
    tally = torture(
        args.kills,
        args.seed,
        folder,
        signals=[signal.Signals[f"SIG{name}"] for name in args.signals],
        share=args.inside_saves,
        jobs=args.jobs,
    )
    for problem in tally.problems:
        print(problem)
    if not tally.problems and args.keep is None:
        shutil.rmtree(folder)
    enough = tally.inside >= LEAST_INSIDE * tally.kills or args.inside_saves < LEAST_INSIDE
    if not enough:
        print(f"fewer than {LEAST_INSIDE:.0%} of the kills met a save: a result without weight; aim at more")
    print(
        f"{tally.kills} kills, {tally.inside} of them inside a save ({tally.inside / max(tally.kills, 1):.0%}); "
        f"{tally.trainings} trainings ended as the undisturbed ones, {len(tally.problems)} problems; "
        f"{monotonic() - begun:.0f} s"
    )
    return 0 if enough and not tally.problems else 1


if __name__ == "__main__":
    sys.exit(main())
