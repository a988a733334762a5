"""Guided sampling: everything kept that can be, against encoder, pair stack and denoiser at every step."""

from __future__ import annotations

import dataclasses
import statistics
import time
from functools import partial
from typing import Any

import torch

from benchmarks.end_to_end.model import sequences, v13
from benchmarks.frame.interface import Benchmark, Goal, Options, Result, Row
from benchmarks.frame.measure import interleaved
from minifold_pl.data.tokenizer import null_tokens
from minifold_pl.diffusion.draws import keyed_generator
from minifold_pl.diffusion.samplers import ddim
from minifold_pl.geometry.units import to_angstrom
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.sampling import SamplerConfig
from minifold_pl.nn.formulation import set_formulation
from minifold_pl.types import Denoised, ProteinBatch

GUIDANCE = 2.0
STEPS = 50
AGREEMENT = 1e-5


class Both(tuple[Denoised, Denoised]):
    """The halves of a guided estimate, and what was made of them."""

    x0: torch.Tensor
    rotation: torch.Tensor
    local_atoms: torch.Tensor | None


@torch.inference_mode()
def naive(
    module: DiffusionModule, batch: ProteinBatch, steps: int, *, first: int | None = None
) -> torch.Tensor:
    """Each half by itself, from tokens to x̂0, at every step; Å. ``first``: only so many of the steps."""
    schedule, w = module.noise_schedule, GUIDANCE
    left = [steps if first is None else first]

    class Enough(Exception):
        pass

    def half(tokens: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor, previous: Any) -> Denoised:
        condition = module.condition(batch, module.encode(tokens))
        return module.denoiser(x_t, t, condition, previous)

    def guided(x_t: torch.Tensor, t: torch.Tensor, previous: Any) -> Both:
        if not left[0]:
            raise Enough
        left[0] -= 1
        with_sequence = half(batch.tokens, x_t, t, previous and previous[0])
        without = half(null_tokens(batch.tokens), x_t, t, previous and previous[1])
        both = Both((with_sequence, without))
        both.x0 = without.x0 + w * (with_sequence.x0 - without.x0)
        both.rotation, both.local_atoms = with_sequence.rotation, None
        return both

    generators = [keyed_generator(0, "sample", name) for name in batch.names]
    try:
        result = ddim(guided, schedule, batch.residue_mask, generators=generators, steps=steps)
    except Enough:
        return torch.empty(0)
    return to_angstrom(result.x0)


@torch.inference_mode()
def kept(module: DiffusionModule, batch: ProteinBatch, steps: int) -> torch.Tensor:
    """As ``sample`` draws it; Å."""
    sampler = SamplerConfig(steps=steps, guidance=GUIDANCE)
    return module.sample(batch, sampler, seed=0, keys=batch.names).x0


def run(options: Options) -> Result:
    """Agreement first, then both in turns. The naive loop's steps are alike: where time is short, two are timed."""
    module = v13(options).eval()
    length = 48 if options.quick else 125
    batch = sequences(module, 1, length)
    error = _difference(module, batch)
    set_formulation(module, "textbook")
    timed = 2
    started = time.monotonic()
    _in(module, "textbook", partial(naive, module, batch, STEPS, first=1))
    a_step = time.monotonic() - started
    if a_step * STEPS * 1.3 * options.rounds < options.seconds_left:
        timed = STEPS
    runs = {
        "fast, kept": lambda: _in(module, "fast", partial(kept, module, batch, STEPS)),
        "textbook, naive": lambda: _in(
            module, "textbook", partial(naive, module, batch, STEPS, first=None if timed == STEPS else timed)
        ),
    }
    timings = interleaved(runs, rounds=options.rounds, device=options.device, seconds=options.seconds_left)
    if timings is None:
        fewer = max(1, min(3, options.rounds))
        timings = interleaved(runs, rounds=fewer, device=options.device)
    assert timings is not None
    cell = {"L": length, "B": 1, "steps": STEPS, "guidance": str(GUIDANCE)}
    rows = []
    for name, timing in timings.items():
        factor = STEPS / timed if name == "textbook, naive" else 1
        note = "" if factor == 1 else f"{timed} steps timed, of {STEPS} that are alike"
        rows.append(
            Row(
                alternative=name, cell=cell, median=timing.median * factor, iqr=timing.iqr * factor, note=note
            )
        )
    pairs = zip(timings["textbook, naive"].samples, timings["fast, kept"].samples, strict=True)
    ratio = statistics.median(n / k for n, k in pairs) * STEPS / timed
    chains, several = _several(module, options, length)
    rows += several
    goals = [
        Goal(
            name=f"{STEPS} guided steps, L = {length}: as it samples against the naive loop",
            value=None if options.quick else ratio, target=18, note="at full width alone" * options.quick,
        ),
        Goal(
            name="largest difference to the naive loop's sample, relative, fp32",
            value=error, target=AGREEMENT, at_least=False, unit="",
        ),
    ]  # fmt: skip
    return Result(rows=rows, goals=goals, notes=[f"parameters: {_parameters(module):,}", chains])


def _in(module: DiffusionModule, formulation: Any, run: Any) -> Any:
    set_formulation(module, formulation)
    return run()


def _difference(module: DiffusionModule, batch: ProteinBatch) -> float:
    """Over ten steps, in the fast form on both sides: what is kept must change nothing."""
    fast, reference = (
        _in(module, "fast", partial(function, module, batch, 10)) for function in (kept, naive)
    )
    return float((fast - reference).abs().max() / reference.abs().max())


def _several(module: DiffusionModule, options: Options, length: int) -> tuple[str, list[Row]]:
    """Five samples of one chain, with and without a shared trunk."""
    told = "several samples of a chain run encoder and pair stack once, and once for all chains of a length"
    if options.seconds_left < 180 and not options.quick:
        return told, []
    set_formulation(module, "fast")
    batch = sequences(module, 1, length)
    sampler = SamplerConfig(steps=5, guidance=GUIDANCE)
    names = [f"chain-0/{k}" for k in range(5)]
    five = dataclasses.replace(
        batch,
        names=tuple(names),
        **{
            field.name: torch.cat([getattr(batch, field.name)] * 5)
            for field in dataclasses.fields(batch)
            if field.name != "names"
        },
    )

    @torch.inference_mode()
    def together() -> None:
        module.sample(five, sampler, seed=0, keys=names)

    @torch.inference_mode()
    def apart() -> None:
        for name in names:
            module.sample(batch, sampler, seed=0, keys=[name])

    timings = interleaved(
        {"one trunk": together, "a trunk each": apart}, rounds=min(3, options.rounds), device=options.device
    )
    assert timings is not None
    cell = {"L": length, "B": 5, "steps": 5, "guidance": str(GUIDANCE)}
    rows = [
        Row(
            alternative=name,
            cell=cell,
            median=timing.median,
            iqr=timing.iqr,
            note="five samples of one chain",
        )
        for name, timing in timings.items()
    ]
    return told, rows


def _parameters(module: DiffusionModule) -> int:
    return sum(p.numel() for p in module.parameters())


BENCHMARK = Benchmark(
    name="sampler",
    about="50 guided DDIM steps of v13, with all that is kept, against the naive loop",
    run=run,
    share=3.0,
)
