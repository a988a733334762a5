"""One module in all its forms and those of other projects, over the grid: agreement first, then time and memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.frame.interface import Goal, Options, Row
from benchmarks.frame.measure import Run, Timing, interleaved, ratio
from benchmarks.frame.memory import peak_bytes
from benchmarks.frame.roofline import Work, fastest
from benchmarks.peers.adapter import Makers, make
from minifold_pl.nn.formulation import set_formulation

LENGTHS = (64, 125, 128, 256, 512)
BATCHES = (1, 4, 16)
QUICK = ((64, 1), (125, 1), (64, 4))
EXACT = {"fp32": 1e-6, "bf16": 6e-3}
"""Largest relative error against the float64 textbook."""

Point = tuple[str, str, int, int]
"""dtype, mode, L, B."""
Inputs = tuple[tuple[Any, ...], Tensor]
"""Arguments of the module, and the mask of where its result means something."""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What is compared.

    Every contender is called with the same arguments. ``work`` says what the module has to do at the least, so that its
    time can be set beside the roofline.
    """

    module: Callable[[], nn.Module]
    inputs: Callable[[int, int, torch.device], Inputs]
    result: Callable[[Any], Tensor] = field(default=lambda out: out)
    """Of the module's output, the tensor that is compared and differentiated."""
    makers: Makers[Any] = field(default_factory=dict)
    """Other projects' versions."""
    work: Callable[[int, int], Work] | None = None
    textbook: bool = True
    """Whether the textbook's form is timed too."""
    lengths: tuple[int, ...] = LENGTHS
    batches: tuple[int, ...] = BATCHES


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a contest found."""

    rows: list[Row]
    timings: Mapping[Point, Mapping[str, Timing]]
    peaks: Mapping[Point, Mapping[str, float]]
    """10⁶ bytes."""
    errors: Mapping[tuple[str, str], float]
    """By contender and dtype."""
    peers: tuple[str, ...]
    notes: list[str]

    def ratios(
        self, ours: str, others: tuple[str, ...], where: Callable[[Point], bool]
    ) -> dict[Point, float]:
        """In each cell, how many times as long as ``ours`` the fastest of ``others`` takes."""
        return {
            point: min(ratio(timings[other], timings[ours]) for other in others if other in timings)
            for point, timings in self.timings.items()
            if where(point) and ours in timings and any(o in timings for o in others)
        }

    def memory(self, ours: str, other: str, where: Callable[[Point], bool]) -> dict[Point, float]:
        """In each cell, the peak of ``ours`` as a share of that of ``other``."""
        return {
            point: peaks[ours] / peaks[other]
            for point, peaks in self.peaks.items()
            if where(point) and ours in peaks and other in peaks
        }

    def exactness(self) -> list[Goal]:
        """Goals on the errors of our own forms."""
        goals = []
        for dtype, largest in EXACT.items():
            ours = {n: e for (n, d), e in self.errors.items() if d == dtype and n not in self.peers}
            worst = max(ours, key=lambda name: ours[name])
            goals.append(
                Goal(
                    name=f"error against float64, {dtype}",
                    value=ours[worst],
                    target=largest,
                    at_least=False,
                    unit="",
                    note=worst,
                )
            )
        return goals


def worst(
    name: str, ratios: Mapping[Point, float], target: float, *, at_least: bool = True, why: str
) -> Goal:
    """Goal on the worst cell of ``ratios``; not measured, and ``why`` not, where there is none."""
    if not ratios:
        return Goal(name=name, value=None, target=target, at_least=at_least, note=why)
    point = (min if at_least else max)(ratios, key=lambda p: ratios[p])
    dtype, mode, length, batch = point
    note = f"worst of {len(ratios)} cells: L {length}, B {batch}, {mode}, {dtype}"
    return Goal(name=name, value=ratios[point], target=target, at_least=at_least, note=note)


def geomean(name: str, ratios: Mapping[Point, float], target: float, *, why: str) -> Goal:
    """Goal on the geometric mean of ``ratios``."""
    if not ratios:
        return Goal(name=name, value=None, target=target, note=why)
    value = math.exp(sum(map(math.log, ratios.values())) / len(ratios))
    low, high = min(ratios.values()), max(ratios.values())
    return Goal(name=name, value=value, target=target, note=f"{len(ratios)} cells, {low:.2f}–{high:.2f}×")


def hold(contest: Contest, options: Options) -> Outcome:
    """Compare: agreement, then the grid from small to large until time or memory is spent."""
    torch._dynamo.config.recompile_limit = 64  # the grid has more shapes than a program
    ours = awake(contest.module()).to(options.device)
    peers, notes = make(contest.makers, ours, options.peers)
    contenders = _forms(ours, contest, options) | peers
    if options.compiled and options.device.type == "cuda":
        contenders |= {f"{name}, compiled": torch.compile(peer, dynamic=True) for name, peer in peers.items()}
    names = tuple(name for name in contenders if name.removesuffix(", compiled") in peers)
    errors = _errors(contest, ours, contenders, names, options)
    for (name, dtype), error in errors.items():
        if not error <= 10 * EXACT[dtype]:
            notes.append(f"{name} is not timed in {dtype}: relative error {error:.1e}")
    rows: list[Row] = []
    timings: dict[Point, Mapping[str, Timing]] = {}
    peaks: dict[Point, dict[str, float]] = {}
    for point in _points(contest, options):
        runs = {
            name: _run(module, contest, point, options.device)
            for name, module in contenders.items()
            if errors.get((name, point[0]), 0) <= 10 * EXACT[point[0]]
        }
        cell = dict(zip(("dtype", "mode", "L", "B"), point, strict=True))
        reason = _too_large(point, peaks, options) or _too_long(point, timings, options)
        times = (
            None
            if reason
            else interleaved(runs, rounds=options.rounds, device=options.device, seconds=options.seconds_left)
        )
        if times is None:
            rows.append(Row(alternative="–", cell=cell, note=f"left out: {reason or 'no time left'}"))
            continue
        timings[point] = times
        peaks[point] = {name: peak_bytes(run, options.device) / 1e6 for name, run in runs.items()}
        at_best = fastest(contest.work, point, options.device) if contest.work else None
        rows += [
            Row(
                alternative=name,
                cell=cell,
                median=timing.median,
                iqr=timing.iqr,
                peak_mb=peaks[point][name],
                error=errors.get((name, point[0])),
                more={"roofline_share": at_best / timing.median} if at_best else {},
            )
            for name, timing in times.items()
        ]
    return Outcome(rows=rows, timings=timings, peaks=peaks, errors=errors, peers=names, notes=notes)


@torch.no_grad()
def awake(module: nn.Module) -> nn.Module:
    """Fresh values for every parameter: maps that start at 0 hide errors and stop gradients."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        fan = parameter.shape[-1] if parameter.dim() > 1 else 25
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise * fan**-0.5 + (parameter.dim() == 1) * 0.5)
    return module


def in_precision(dtype: str, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast, as in training."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bf16")


def _forms(ours: nn.Module, contest: Contest, options: Options) -> dict[str, nn.Module]:
    forms = {"fast": ours}
    if options.compiled:
        forms["fast, compiled"] = torch.compile(copy.deepcopy(ours), dynamic=True)
    if contest.textbook:
        forms["textbook"] = copy.deepcopy(ours)
        set_formulation(forms["textbook"], "textbook")
    return forms


def _errors(
    contest: Contest,
    ours: nn.Module,
    contenders: Mapping[str, nn.Module],
    peers: tuple[str, ...],
    options: Options,
) -> dict[tuple[str, str], float]:
    """Relative to the float64 textbook, at a length with padding; peers only where they have our weights."""
    exact_module = copy.deepcopy(ours).double()
    set_formulation(exact_module, "textbook")
    inputs, where = contest.inputs(48, 2, options.device)
    with torch.no_grad():
        exact = contest.result(exact_module(*_mapped(inputs, lambda x: x.double())))[where]
        errors = {}
        for name, module in contenders.items():
            if name in peers and not getattr(module, "same_weights", False):
                continue
            for dtype in EXACT:
                with in_precision(dtype, options.device):
                    out = contest.result(module(*inputs))
                errors[name, dtype] = ((out.double()[where] - exact).norm() / exact.norm()).item()
    return errors


def _points(contest: Contest, options: Options) -> list[Point]:
    sizes = QUICK if options.quick else [(n, b) for n in contest.lengths for b in contest.batches]
    points = [(d, m, n, b) for n, b in sizes for d in EXACT for m in ("fwd", "fwd+bwd")]
    return sorted(points, key=lambda p: p[2] ** 3 * p[3])


def _too_large(point: Point, peaks: Mapping[Point, Mapping[str, float]], options: Options) -> str:
    """Why a cell is left out; the largest measured cell of the same kind says what it would need."""
    dtype, mode, length, batch = point
    alike = [p for p in peaks if p[:2] == (dtype, mode)]
    if not alike:
        return ""
    known = max(alike, key=lambda p: p[2] ** 2 * p[3])
    needed = 1e6 * max(peaks[known].values()) * length**2 * batch / (known[2] ** 2 * known[3])
    return f"needs about {needed / 1e9:.1f} GB" if needed > options.memory_cap else ""


def _too_long(point: Point, timings: Mapping[Point, Mapping[str, Timing]], options: Options) -> str:
    """Why a cell is left out; the largest measured cell of the same kind says how long its rounds would take."""
    dtype, mode, length, batch = point
    alike = [p for p in timings if p[:2] == (dtype, mode)]
    if not alike:
        return "" if options.seconds_left > 0 else "no time left"
    known = max(alike, key=lambda p: p[2] ** 2 * p[3])
    once = sum(timing.median for timing in timings[known].values()) / 1e3
    once *= (length / known[2]) ** 2.3 * batch / known[3]
    needed = once * (options.rounds + 5)  # two to warm up, three for the peak
    return f"would take about {needed:.0f} s" if needed > options.seconds_left else ""


def _run(module: nn.Module, contest: Contest, point: Point, device: torch.device) -> Run:
    dtype, mode, length, batch = point
    made: list[tuple[tuple[Any, ...], list[Tensor], Tensor]] = []

    def prepare() -> tuple[tuple[Any, ...], list[Tensor], Tensor]:
        if not made:
            inputs, where = contest.inputs(length, batch, device)
            inputs = _mapped(inputs, lambda x: x.requires_grad_())
            leaves = [x for x in _tensors(inputs) if x.requires_grad] + list(module.parameters())
            made.append((inputs, leaves, torch.randn(*where.shape, 1, device=device)))
        return made[0]

    def forward() -> None:
        inputs, _, _ = prepare()
        with torch.no_grad(), in_precision(dtype, device):
            module(*inputs)

    def both() -> None:
        inputs, leaves, direction = prepare()
        with in_precision(dtype, device):
            out = contest.result(module(*inputs))
        torch.autograd.grad(out, leaves, direction.to(out.dtype).expand_as(out), allow_unused=True)

    return forward if mode == "fwd" else both


def _mapped(inputs: tuple[Any, ...], change: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
    """Floating-point tensors changed, also those within a NamedTuple."""

    def one(value: Any) -> Any:
        if isinstance(value, tuple):
            return type(value)(*map(one, value))
        return change(value) if value.is_floating_point() else value

    return tuple(map(one, inputs))


def _tensors(inputs: tuple[Any, ...]) -> list[Tensor]:
    return [x for value in inputs for x in (value if isinstance(value, tuple) else (value,))]
