"""Whether training waits for data: how fast a store opens and a worker makes batches, beside a step."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.end_to_end.model import training_step, v13
from benchmarks.frame.interface import Benchmark, Goal, Options, Result, Row
from benchmarks.frame.measure import interleaved
from benchmarks.store import chains
from minifold_pl.data.datamodule import ProteinDataModule
from minifold_pl.data.store import ChainStore, write_store

CHAINS = 18_024
"""As many as CATH 4.2 has, with lengths as there."""
BATCH = 4


def run(options: Options) -> Result:
    """Chains cropped to 125 residues and turned at random, as v13 takes them."""
    count = 500 if options.quick else CHAINS
    with tempfile.TemporaryDirectory(prefix="minifold-benchmark-") as folder:
        path = Path(folder) / "store"
        write_store(path, chains(count))
        opening = sorted(_seconds_to_open(path) for _ in range(options.rounds))
        rate = _chains_a_second(path, options.rounds)
    opened = opening[len(opening) // 2]
    module = v13(options)
    gpu = options.device.type == "cuda"
    batch, length = (2, 32) if options.quick else (BATCH, 125) if gpu else (1, 125)
    step = {"step": training_step(module, module.example_batch(batch, length), "bf16")}
    timed = interleaved(step, rounds=7 if gpu else 1, device=options.device)
    assert timed is not None
    a_chain = timed["step"].median / 1e3 / batch
    # A worker runs beside the step: training waits for what it cannot make in a step's time.
    waits = 100 * max(0.0, 1 / rate - a_chain) / a_chain
    itself = 100 / rate / a_chain
    rows = [
        Row(alternative=f"open a store of {count:,} chains", median=1e3 * opened),
        Row(alternative="chains a second and worker", median=rate, unit="/s", note="CPU time, batches of 4"),
        Row(
            alternative="training step, a chain", cell={"L": length, "B": batch}, median=1e3 * a_chain,
            note="bf16, eager",
        ),
    ]  # fmt: skip
    goals = [
        Goal(name=f"store of {count:,} chains opens", value=opened, target=1, at_least=False, unit=" s"),
        Goal(name="loader: chains a second and worker", value=rate, target=1000, unit=" /s"),
        Goal(
            name="share of a step that training waits for one worker", value=waits, target=2, at_least=False,
            unit=" %", note=f"{itself:.2g} % with num_workers 0, where the step makes its batches itself",
        ),
    ]  # fmt: skip
    return Result(rows=rows, goals=goals)


def _seconds_to_open(path: Path) -> float:
    started = time.perf_counter()
    store = ChainStore.open(path)
    assert len(store.lengths) > 0
    return time.perf_counter() - started


def _chains_a_second(path: Path, rounds: int) -> float:
    """The median of some epochs, in CPU time of the process that reads, crops, turns and pads."""
    data = ProteinDataModule(
        str(path), batch_size=BATCH, max_length=125, random_rotation=True, limit_train=2000
    )
    data.setup("fit")
    loader = data.train_dataloader()
    rates = []
    for epoch in range(rounds):
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        started = time.process_time()
        seen = sum(len(batch) for batch in loader)
        rates.append(seen / (time.process_time() - started))
    return sorted(rates)[len(rates) // 2]


BENCHMARK = Benchmark(name="loader", about="store open, chains a second, waiting for data", run=run)
