"""A whole training step at v13's width: fast against textbook, in fp32 and bf16, eager and compiled."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

from benchmarks.end_to_end.model import training_step, v13
from benchmarks.frame.interface import Benchmark, Cell, Goal, Options, Result, Row
from benchmarks.frame.measure import Timing, interleaved, ratio
from minifold_pl.modules.compiling import compile_blocks
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.nn.formulation import Formulation, set_formulation

NO_SLOWER = 0.98
"""What two equal builds may differ by in a median of seven rounds."""


def run(options: Options) -> Result:
    """The largest batch of the grid whose rounds fit into the time."""
    compiled = options.compiled and not options.quick
    rows: list[Row] = []
    for batch, length in _grid(options, 6 if compiled else 4):
        timings = _timed(_runs(options, batch, length, compiled=compiled), options)
        cell: Cell = {"L": length, "B": batch}
        if timings is None:
            rows.append(Row(alternative="all", cell=cell, note="left out: its rounds would take too long"))
            continue
        rows += [
            Row(alternative=name, cell={**cell, "dtype": dtype}, median=timing.median, iqr=timing.iqr)
            for (dtype, name), timing in timings.items()
        ]
        return Result(rows=rows, goals=_goals(timings, batch, length, options))
    name = "v13 training step, fast against textbook"
    return Result(
        rows=rows, goals=[Goal(name=name, value=None, target=2, note="no cell fits the time budget")]
    )


def _grid(options: Options, alternatives: int) -> list[tuple[int, int]]:
    if options.quick:
        return [(2, 32)]
    if options.device.type == "cuda":
        return [(16, 125), (4, 125)]
    module = v13(options)
    step = training_step(module, module.example_batch(1, 64), "fp32")
    step()
    started = time.monotonic()
    step()
    small = time.monotonic() - started
    passes = alternatives * (options.rounds + 3)
    cells = [(4, 125), (2, 125), (1, 125), (1, 64)]
    fitting = [
        (batch, length)
        for batch, length in cells
        if passes * small * batch * (length / 64) ** 2.2 < 0.8 * options.seconds_left
    ]
    return fitting or cells[-1:]


Key = tuple[str, str]


def _runs(options: Options, batch: int, length: int, *, compiled: bool) -> dict[Key, Callable[[], None]]:
    module = v13(options)
    alternatives: list[tuple[str, str, Formulation, bool]] = [
        (dtype, f"{form}{' compiled' if with_compiler else ''}", form, with_compiler)
        for dtype in ("fp32", "bf16")
        for form, with_compiler in (("fast", False), ("textbook", False), ("fast", True), ("textbook", True))
        if not with_compiler or (compiled and dtype == "bf16")
    ]  # fmt: skip
    runs = {}
    for dtype, name, form, with_compiler in alternatives:
        own: DiffusionModule = copy.deepcopy(module)
        set_formulation(own, form)
        if with_compiler:
            compile_blocks(own, options.device)
        runs[dtype, name] = training_step(own, own.example_batch(batch, length), dtype)
    return runs


def _timed(runs: dict[Key, Callable[[], None]], options: Options) -> dict[Key, Timing] | None:
    named = {"|".join(key): run for key, run in runs.items()}
    found = interleaved(named, rounds=options.rounds, device=options.device, seconds=options.seconds_left)
    return None if found is None else {_key(name): timing for name, timing in found.items()}


def _key(name: str) -> Key:
    dtype, _, alternative = name.partition("|")
    return dtype, alternative


def _goals(timings: dict[Key, Timing], batch: int, length: int, options: Options) -> list[Goal]:
    where = f"v13 training step, L = {length}, B = {batch}"
    best = timings.get(("bf16", "fast compiled"))
    plain = timings["fp32", "textbook"]
    goals = [
        Goal(
            name=f"{where}: fp32 eager, fast against textbook",
            value=None if options.quick else ratio(plain, timings["fp32", "fast"]), target=NO_SLOWER,
            note="at full width alone" * options.quick,
        )
    ]  # fmt: skip
    goals.append(
        Goal(
            name=f"{where}: bf16 compiled against the textbook in bf16",
            value=None if best is None or options.quick else ratio(timings["bf16", "textbook"], best),
            target=2,
            note="not compiled" if best is None else "at full width alone" * options.quick,
        )
    )
    if best is not None and not options.quick:
        faster = ratio(plain, best)
        goals[-1] = Goal(**{**vars(goals[-1]), "note": f"{faster:.2f}× the textbook in fp32"})
    return goals


BENCHMARK = Benchmark(
    name="step",
    about="a whole training step of v13: fast against textbook, fp32 and bf16",
    run=run,
    share=4.0,
)
