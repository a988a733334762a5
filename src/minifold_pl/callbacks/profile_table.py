"""From the events of torch's profiler to time and memory by module."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import profile

MODULE: Final = "module: "
"""How the range of a module's forward pass begins."""
FORWARD: Final = "step: losses and all else outside of modules"
BACKWARD: Final = "step: bookkeeping of the backward pass"
UPDATE: Final = "step: clipping and guards"
AFTER: Final = "step: logging and other callbacks"
_PARTS: Final = (FORWARD, BACKWARD, UPDATE, AFTER)
"""Marks: what follows is that part, as far as no range around it has a name of its own."""
EMA: Final = "EMA"
_NAMED: Final = {
    "enumerate(DataLoader)": "step: waiting for the next batch",
    EMA: "step: average of the weights (EMA)",
}
"""Ranges that others open, by how their names begin."""
CLOSURE: Final = "step: what the optimizer runs before it moves anything"
"""Lightning has forward and backward pass, guards and clipping run inside of the optimizer's step: a range of its own,
in which the marks count."""
_OPTIMIZER: Final = re.compile(r"Optimizer\.step#(?P<name>\w+)")
"""torch's own range around an optimizer's step, which names the class."""
_ENGINE: Final = "autograd::engine::evaluate_function"
_USER_SCOPE: Final = 7
"""``RecordScope::USER_SCOPE``: ranges that were opened by ``record_function``."""


Marks = list[tuple[float, str]]
"""When (µs on the events' clock) which part of a step began."""


@dataclass(kw_only=True)
class Line:
    """What one part costs in a step; a module without the modules within it."""

    name: str
    calls: float = 0.0
    """Forward passes, without those that are computed again."""
    forward_ms: float = 0.0
    again_ms: float = 0.0
    """Computed again in the backward pass, see ``checkpoint_activations``."""
    backward_ms: float = 0.0
    kept_mb: float = 0.0
    """Allocated in the forward pass and still there at its end: activations for the backward pass, and the output."""

    @property
    def total_ms(self) -> float:
        """All of it."""
        return self.forward_ms + self.again_ms + self.backward_ms


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """A training step, part by part, as means over the recorded batches."""

    device: str
    batches: int
    lines: list[Line]
    """The costliest first."""
    peak_mb: float
    """Most memory that was allocated at once, beyond what was there when recording began; 10⁶ bytes."""
    peak_in: str
    """Where that was."""
    step_ms: float
    """A batch on the clock of the wall."""
    total_ms: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "total_ms", sum(line.total_ms for line in self.lines))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "total_ms": self.total_ms}

    def text(self) -> str:
        """The table."""
        what = "on the GPU" if self.device == "cuda" else "on the CPU"
        head = ("part of a step", "calls", "forward", "again", "backward", "ms", "%", "kept MB")
        rows = [
            (
                line.name,
                f"{line.calls:.3g}" if line.calls else "",
                *(f"{value:.1f}" if value >= 0.05 else "" for value in (line.forward_ms, line.again_ms)),
                f"{line.backward_ms:.1f}" if line.backward_ms >= 0.05 else "",
                f"{line.total_ms:.1f}",
                f"{100 * line.total_ms / max(self.total_ms, 1e-9):.1f}",
                f"{line.kept_mb:.1f}" if abs(line.kept_mb) >= 0.05 else "",
            )
            for line in self.lines
            if line.total_ms > 2e-4 * self.total_ms or abs(line.kept_mb) >= 0.05
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (head, *rows)
        ]
        return "\n".join(
            [
                f"Mean of {self.batches} batches, {self.step_ms:.1f} ms each, {self.total_ms:.1f} ms of it {what}.",
                "A module's line is without the modules in it, and stands for all blocks (*) together; what it keeps "
                "is below 0 where it lets go of what those made.",
                "again: computed a second time for the backward pass (checkpoint_activations).",
                "",
                *lines,
                "",
                f"peak memory {self.peak_mb:.1f} MB beyond what is held between steps, in: {self.peak_in}",
            ]
        )


def breakdown(profiler: profile, *, batches: int, device: str, seconds: float) -> Breakdown:
    """Sort every event of a finished profile to the module that it belongs to.

    A forward operation belongs to the innermost module around it. A backward operation carries the number of the
    forward one that it differentiates, and belongs where that does. Where a module runs inside of a backward operation
    it is computed again.

    Args:
        profiler: finished, with memory.
        batches: how many it saw.
        device: "cpu" counts time on the CPU, "cuda" that of the kernels an operation launched.
        seconds: how long that took.
    """
    events = [e for e in (profiler.events() or []) if e.device_type.name == "CPU"]
    marks = sorted((e.time_range.start, e.name) for e in events if e.name in _PARTS)
    gpu = device == "cuda"
    owner: dict[tuple[int, int], str] = {}
    started: dict[tuple[int, int], float] = {}
    for event in events:
        if event.sequence_nr >= 0 and not _in_backward(event):
            key, at = (event.thread, event.sequence_nr), event.time_range.start
            # Of operations with one number the last one made the node of the graph.
            if at >= started.get(key, -1.0):
                owner[key], started[key] = _range(event, marks), at
    lines: dict[str, Line] = defaultdict(lambda: Line(name=""))
    spans: list[tuple[float, float, str]] = []
    for event in events:
        if event.name == "[memory]":
            continue
        place, phase = _belongs(event, owner, marks)
        line = lines[place]
        took = float(event.self_device_time_total if gpu else event.self_cpu_time_total) / 1e3 / batches
        setattr(line, phase, getattr(line, phase) + took)
        if event.scope == _USER_SCOPE and phase == "forward_ms" and place not in _PARTS:
            spans.append((_begins(event), event.time_range.end, place))
            if event.name.startswith(MODULE):
                line.calls += 1 / batches
                kept = event.self_device_memory_usage if gpu else event.self_cpu_memory_usage
                line.kept_mb += (kept + _kept_by_operations(event, gpu)) / 1e6 / batches
        elif event.name.startswith(_ENGINE):
            spans.append((event.time_range.start, event.time_range.end, f"{place}, backward"))
    for name, line in lines.items():
        line.name = name.removeprefix(MODULE).removeprefix("step: ")
    peak, at = _peak(profiler, gpu)
    return Breakdown(
        device=device,
        batches=batches,
        lines=sorted(lines.values(), key=lambda line: -line.total_ms),
        peak_mb=peak / 1e6,
        peak_in=_innermost(spans, at, marks).removeprefix(MODULE).removeprefix("step: "),
        step_ms=1e3 * seconds / batches,
    )


def _belongs(event: FunctionEvent, owner: dict[tuple[int, int], str], marks: Marks) -> tuple[str, str]:
    """The range an event counts for, and the column."""
    backward = _in_backward(event)
    if backward is None:
        return _range(event, marks), "forward_ms"
    inner = _range(event, marks, until=backward)
    if inner.startswith(MODULE):
        return inner, "again_ms"
    key = (backward.fwd_thread or backward.thread, backward.sequence_nr)
    return owner.get(key, BACKWARD), "backward_ms"


def _in_backward(event: FunctionEvent) -> FunctionEvent | None:
    """The outermost operation of the backward pass around ``event``, itself included."""
    found: FunctionEvent | None = None
    around: FunctionEvent | None = event
    while around is not None:
        if around.name.startswith(_ENGINE):
            found = around
        around = around.cpu_parent
    return found


def _range(event: FunctionEvent, marks: Marks, until: FunctionEvent | None = None) -> str:
    """The innermost named range around ``event``, itself included, or the part of the step."""
    around: FunctionEvent | None = event
    while around is not None and around is not until:
        if around.scope == _USER_SCOPE:
            if around.name.startswith(MODULE):
                return str(around.name)
            if around.name == CLOSURE:
                break
            if optimizer := _OPTIMIZER.match(around.name):
                return f"step: optimizer ({optimizer['name']})"
            for begins, label in _NAMED.items():
                if around.name.startswith(begins):
                    return label
        around = around.cpu_parent
    return _part(event.time_range.start, marks)


def _begins(event: FunctionEvent) -> float:
    """When a range's own work begins: that of an optimizer after all that Lightning has it run before."""
    before = [child.time_range.end for child in event.cpu_children if child.name == CLOSURE]
    return float(max(before, default=event.time_range.start))


def _kept_by_operations(event: FunctionEvent, gpu: bool) -> float:
    """Bytes that the operations of a range left allocated, without those of the ranges in it."""
    return sum(
        (child.device_memory_usage if gpu else child.cpu_memory_usage)
        for child in event.cpu_children
        if child.scope != _USER_SCOPE
    )


def _peak(profiler: profile, gpu: bool) -> tuple[float, float]:
    """Most bytes beyond those at the beginning, and when (µs on the events' clock)."""
    result = profiler.profiler.kineto_results if profiler.profiler is not None else None
    if result is None:
        return 0.0, 0.0
    wanted = "CUDA" if gpu else "CPU"
    start = result.trace_start_ns()
    memory: list[Any] = [
        e for e in result.events() if e.name() == "[memory]" and e.device_type().name == wanted
    ]
    now = most = at = 0.0
    for event in sorted(memory, key=lambda e: e.start_ns()):
        now += event.nbytes()
        if now > most:
            most, at = now, (event.start_ns() - start) / 1e3
    return most, at


def _innermost(spans: list[tuple[float, float, str]], at: float, marks: Marks) -> str:
    around = [span for span in spans if span[0] <= at <= span[1]]
    return max(around)[2] if around else _part(at, marks)


def _part(at: float, marks: Marks) -> str:
    """The part of a step at that time, as the marks have it."""
    place = bisect_right(marks, at, key=lambda mark: mark[0])
    return marks[place - 1][1] if place else AFTER
