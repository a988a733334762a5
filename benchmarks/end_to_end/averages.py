"""What the average of the weights costs, as the callback takes it, beside a training step."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from benchmarks.end_to_end.model import training_step, v13
from benchmarks.frame.interface import Benchmark, Goal, Options, Result, Row
from benchmarks.frame.measure import interleaved
from minifold_pl.callbacks.ema import EMA


def run(options: Options) -> Result:
    """The update of the average, tensor by tensor and all at once; the step's time from one warm step."""
    module = v13(options)
    ema = EMA(decay=0.999)
    together = AveragedModel(module, use_buffers=False, multi_avg_fn=ema._average)
    one_by_one = AveragedModel(module, use_buffers=False, avg_fn=_one)
    runs: dict[str, Any] = {
        "EMA, foreach": lambda: together.update_parameters(module),
        "EMA, one by one": lambda: one_by_one.update_parameters(module),
    }
    timings = interleaved(runs, rounds=options.rounds, device=options.device)
    assert timings is not None
    rows = [Row(alternative=name, median=t.median, iqr=t.iqr) for name, t in timings.items()]
    batch, length = (2, 32) if options.quick else (4, 125) if options.device.type == "cuda" else (1, 64)
    step = training_step(module, module.example_batch(batch, length), "bf16")
    step()
    measured = interleaved({"step": step}, rounds=3, device=options.device, seconds=options.seconds_left)
    if measured is None:
        started = time.process_time()
        step()
        took = 1e3 * (time.process_time() - started)
    else:
        took = measured["step"].median
    rows.append(
        Row(alternative="training step", cell={"L": length, "B": batch}, median=took, note="bf16, eager")
    )
    share = 100 * timings["EMA, foreach"].median / took
    name = f"EMA: share of a training step (L = {length}, B = {batch}, with 4 batches a step)"
    goal = Goal(
        name=name, value=None if options.quick else share / 4, target=1, at_least=False, unit=" %",
        note="at full width alone" * options.quick,
    )  # fmt: skip
    return Result(rows=rows, goals=[goal])


def _one(average: torch.Tensor, current: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
    return average.lerp(current, 0.001)


BENCHMARK = Benchmark(name="ema", about="the average of the weights, as a share of a training step", run=run)
