"""Killed runs end as undisturbed ones: a seeded sample; the whole is one command each, named in the modules."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def command(*arguments: str) -> str:
    """Run a module of this folder in a process of its own: it forks, which a process with threads should not."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_killed_between_two_batches_ends_as_the_undisturbed_one() -> None:
    said = command("tests.resilience.kill_sweep", "--sample", "2", "--seed", "284")
    assert "2 of 2 killed runs ended as the undisturbed one" in said


@pytest.mark.slow
def test_runs_killed_at_sampled_batches_end_as_the_undisturbed_ones() -> None:
    said = command("tests.resilience.kill_sweep", "--sample", "24", "--seed", "1")
    assert "24 of 24 killed runs ended as the undisturbed one" in said


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_as_undisturbed_ones() -> None:
    said = command("tests.resilience.torture", "--kills", "16", "--seed", "1")
    assert ", 0 problems" in said


@pytest.mark.slow
def test_runs_asked_to_stop_at_random_moments_lose_no_applied_step() -> None:
    said = command("tests.resilience.torture", "--kills", "16", "--seed", "2", "--signals", "TERM", "USR1")
    assert ", 0 problems" in said


@pytest.mark.slow
def test_the_sweep_notices_a_run_that_differs(tmp_path: Path) -> None:
    """The negative control: a resumed epoch reads its data from the start, as Lightning by itself has it."""
    broken = tmp_path / "sitecustomize.py"
    broken.write_text(
        "import minifold_pl.data.sampler as s\n"
        "s.LengthBucketBatchSampler.start_at = lambda self, epoch, batch: self.set_epoch(epoch)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"exec(open({str(broken)!r}).read()); import sys; "
         "sys.argv = ['kill_sweep', '--sample', '2', '--seed', '284']; "
         "from tests.resilience.kill_sweep import main; sys.exit(main())"],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 1
    assert "differs in" in done.stdout
