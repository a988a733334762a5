"""How long a user waits: ``--help``, and one sequence at full width."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.end_to_end.model import v13
from benchmarks.frame.interface import Benchmark, Goal, Options, Result, Row
from minifold_pl.checkpoint.io import save

SEQUENCE = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVK"
ENTRY = "import sys; sys.argv[0] = 'minifold-pl'; from minifold_pl.cli.main import entry_point; entry_point()"
CORES = 2
SAMPLE = f"sample, {len(SEQUENCE)} residues, 50 steps"
GOALS = {"--help": 1.5, SAMPLE: 20.0}
"""Seconds."""


def run(options: Options) -> Result:
    """Each command in a process of its own, on two cores; load and start included."""
    with tempfile.TemporaryDirectory(prefix="minifold-benchmark-") as folder:
        checkpoint = Path(folder) / "v13.ckpt"
        module = v13(options)
        from minifold_pl.cli.lightning_cli import resolve_config

        module.model_config = resolve_config("v13_small.yaml" if options.quick else "v13.yaml")["model"]
        content = {"state_dict": module.cpu().state_dict(), "global_step": 1, "epoch": 1}
        module.on_save_checkpoint(content)
        save(content, checkpoint)
        commands = {
            "--help": ["--help"],
            "sample --help": ["sample", "--help"],
            "fit --help": ["fit", "--help"],
            SAMPLE: [
                "sample", "--ckpt", str(checkpoint), "--sequence", SEQUENCE, "--device", "cpu", "--overwrite",
                "--out", str(Path(folder) / "samples"),
            ],
        }  # fmt: skip
        found = {name: _quickest(arguments, GOALS.get(name)) for name, arguments in commands.items()}
    rows = [
        Row(alternative=name, median=1e3 * wall, more={"cpu_ms": 1e3 * cpu}, note=f"{cpu:.2f} s of CPU time")
        for name, (wall, cpu) in found.items()
    ]
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    return Result(
        rows=rows,
        goals=[
            Goal(name=name, value=found[name][0], target=seconds, at_least=False, unit=" s", note=load)
            for name, seconds in GOALS.items()
        ],
    )


def _quickest(arguments: list[str], enough: float | None) -> tuple[float, float]:
    """Up to three times, as a busy machine only adds; once where that is quick enough."""
    best = _seconds(arguments)
    for _ in range(2):
        if enough is not None and best[0] > enough:
            best = min(best, _seconds(arguments))
    return best


def _seconds(arguments: list[str]) -> tuple[float, float]:
    """Wall and CPU time of a command.

    Raises:
        RuntimeError: it failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(CORES)}
    cores = sorted(os.sched_getaffinity(0))[:CORES] if hasattr(os, "sched_getaffinity") else []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", ENTRY, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
    )
    wall = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"minifold-pl {' '.join(arguments)} failed: {done.stderr[-400:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


BENCHMARK = Benchmark(
    name="cli_start", about="--help, and one 60-residue sequence at full width on two cores", run=run
)
