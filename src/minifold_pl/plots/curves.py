"""What the curves of a run are made of; no drawing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Float

TOTAL: Final = "total"
"""The weighted sum of the loss terms."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A number that was logged now and then; NaN where it was not finite."""

    step: Float[np.ndarray, " n"]
    """Optimizer steps taken."""
    epoch: Float[np.ndarray, " n"]
    """Epochs finished, with their parts: 1.5 is in the middle of the second."""
    value: Float[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.value)

    def along(self, x: str) -> Float[np.ndarray, " n"]:
        """``step`` or ``epoch``."""
        return self.step if x == "step" else self.epoch

    def at_best(self, mode: str = "min") -> int | None:
        """Place of the first smallest (``min``) or largest finite value; None where there is none."""
        if not np.isfinite(self.value).any():
            return None
        return int(np.nanargmin(self.value) if mode == "min" else np.nanargmax(self.value))


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something that happened at one place."""

    kind: str
    """The event's name."""
    step: float
    epoch: float
    told: str = ""
    """What it was about, such as a module."""

    def along(self, x: str) -> float:
        """``step`` or ``epoch``."""
        return self.step if x == "step" else self.epoch


@dataclass(frozen=True, kw_only=True)
class RunCurves:
    """The curves of one run, by name; a name that was never logged is not there."""

    name: str
    train: Mapping[str, Curve] = field(default_factory=dict)
    """Loss terms (raw) and :data:`TOTAL`, means over an epoch of training."""
    val: Mapping[str, Curve] = field(default_factory=dict)
    """The same on the validation split."""
    scores: Mapping[str, Curve] = field(default_factory=dict)
    """What is no loss: ``ddim/tm_score``, ``val/class_accuracy`` …"""
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Score → row → its last value: what trivial predictions score."""
    rates: Mapping[str, Curve] = field(default_factory=dict)
    """Learning rate of each group of parameters."""
    waits: Curve | None = None
    """Validations without improvement."""
    patience: int | None = None
    """At how many of them the run ends."""
    monitor: str = f"val/{TOTAL}"
    """What "best" is judged by."""
    mode: str = "min"
    monitored: Curve | None = None
    gradients: Mapping[str, Curve] = field(default_factory=dict)
    """Norm of each module's gradient before clipping, means over an epoch."""
    clipped: Mapping[str, Curve] = field(default_factory=dict)
    """Share of steps in which it was clipped."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """The norms they are clipped to."""
    marks: tuple[Mark, ...] = ()
    """Resumes, tripwires, batches left out …, in their order."""

    @property
    def best(self) -> int | None:
        """Place of the best value in :attr:`monitored`."""
        return None if self.monitored is None else self.monitored.at_best(self.mode)

    @property
    def epochs(self) -> float:
        """How far it came."""
        ends = [
            c.epoch[-1] for c in (*self.train.values(), *self.val.values(), *self.rates.values()) if len(c)
        ]
        return float(max(ends, default=0.0))
