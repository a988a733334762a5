"""How long ``compile: blocks`` takes before the first step, without and with torch's cache on the disk."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from benchmarks.frame.interface import Benchmark, Goal, Options, Result, Row

PROGRAM = """
import sys, time
import torch
torch.set_num_threads(1)
from benchmarks.end_to_end.model import training_step, v13
from benchmarks.frame.interface import Options
from minifold_pl.modules.compiling import compile_blocks
options = Options(device=torch.device(sys.argv[1]), quick=sys.argv[2] == "1")
module = v13(options)
step = training_step(module, module.example_batch(2, 32), "bf16")
step()
started = time.perf_counter(); step(); eager = time.perf_counter() - started
started = time.perf_counter()
assert compile_blocks(module, options.device)
step()
print("seconds", time.perf_counter() - started - eager)
started = time.perf_counter()
training_step(module, module.example_batch(3, 48), "bf16")()
print("seconds", time.perf_counter() - started)
"""


def run(options: Options) -> Result:
    """Each in a process of its own."""
    if not options.compiled or options.quick:
        return Result(notes=["left out (--quick or --no-compile)"])
    rows = []
    with tempfile.TemporaryDirectory(prefix="minifold-benchmark-") as cache:
        for name in ("cold", "warm"):
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", PROGRAM, str(options.device), str(int(options.quick))],
                capture_output=True,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": cache},
                timeout=max(60.0, options.seconds_left),
            )
            found = [
                float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("seconds")
            ]
            if done.returncode or len(found) != 2:
                return Result(rows=rows, goals=[], notes=[f"it does not compile here: {done.stderr[-300:]}"])
            rows.append(Row(alternative=f"first step, {name} cache", median=1e3 * found[0]))
            rows.append(Row(alternative=f"first step of another shape, {name} cache", median=1e3 * found[1]))
    ratio = (rows[0].median or 0) / max(rows[2].median or 1, 1e-9)
    goal = Goal(name="compile: a warm cache against a cold one", value=ratio, target=2)
    return Result(rows=rows, goals=[goal])


BENCHMARK = Benchmark(
    name="compile", about="seconds that compile: blocks takes, cold and warm", run=run, share=2.0
)
