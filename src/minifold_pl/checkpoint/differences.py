"""What two checkpoints have in common and where they differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from minifold_pl.checkpoint.contents import RAW_WEIGHTS_KEY

WEIGHTS: Final = "weights"
RAW: Final = "raw weights"
OPTIMIZER: Final = "optimizer"
OTHER: Final = "other tensors"
SECTIONS: Final = (WEIGHTS, RAW, OPTIMIZER, OTHER)
"""``state_dict`` (the average, where there is one), the raw weights beside it, moments, everything else."""

_Path = tuple[str, ...]
_ABSENT: Final = object()


@dataclass(kw_only=True)
class TensorGroup:
    """Tensors of one part of a model, or of one kind in an optimizer."""

    section: str
    name: str
    tensors: int = 0
    """In both checkpoints, of the same shape and type."""
    different: int = 0
    """Of those, how many differ in any bit (NaN is the same as NaN)."""
    max_abs: float = 0.0
    """Largest absolute difference; infinite where one is NaN or infinite and the other is not."""
    largest: float = 0.0
    """Largest absolute finite value in the first: what ``max_abs`` is to be compared with."""
    unlike: list[str] = field(default_factory=list)
    """Tensors of another shape or type."""
    only_first: list[str] = field(default_factory=list)
    only_second: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.different or self.unlike or self.only_first or self.only_second)


@dataclass(frozen=True, kw_only=True)
class ValueDifference:
    """A plain value that differs, or that one checkpoint lacks (None is then its text)."""

    path: str
    first: str | None
    second: str | None


@dataclass(frozen=True, kw_only=True)
class Differences:
    """All that differs, and the groups that do not."""

    groups: tuple[TensorGroup, ...]
    values: tuple[ValueDifference, ...]

    @property
    def same(self) -> bool:
        """Whether both hold the same, bit for bit."""
        return not self.values and all(group.same for group in self.groups)


def differences(first: Mapping[str, Any], second: Mapping[str, Any], *, depth: int = 1) -> Differences:
    """Compare two loaded checkpoints.

    Args:
        first: As read; tensors may still lie on the disk.
        second: The other.
        depth: Name parts of a weight that make a group: 1 is ``denoiser``, 2 is ``denoiser.blocks``.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    ours, theirs = dict(_leaves(first)), dict(_leaves(second))
    groups: dict[tuple[str, str], TensorGroup] = {}
    values: list[ValueDifference] = []
    for path in dict.fromkeys([*ours, *theirs]):
        a, b = ours.get(path, _ABSENT), theirs.get(path, _ABSENT)
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            section, name, label = _place(path, depth)
            group = groups.setdefault((section, name), TensorGroup(section=section, name=name))
            _compare(group, label, a, b)
        elif not _equal(a, b):
            values.append(ValueDifference(path="/".join(path), first=_text(a), second=_text(b)))
    ordered = sorted(groups.values(), key=lambda group: SECTIONS.index(group.section))
    return Differences(groups=tuple(ordered), values=tuple(values))


def _leaves(value: Any, path: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    if isinstance(value, Mapping) and (value or not path):
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
    elif isinstance(value, list | tuple) and value and not isinstance(value, torch.Size):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, str(index)))
    else:
        yield path, value


def _place(path: _Path, depth: int) -> tuple[str, str, str]:
    """Section, group and name of a tensor."""
    if path[0] in ("state_dict", RAW_WEIGHTS_KEY) and len(path) > 1:
        name = path[-1]
        section = WEIGHTS if path[0] == "state_dict" else RAW
        return section, ".".join(name.split(".")[:depth]), name
    if path[0] == "optimizer_states":
        return OPTIMIZER, path[-1], "/".join(path[1:])
    return OTHER, path[0], "/".join(path)


def _compare(group: TensorGroup, name: str, a: Any, b: Any) -> None:
    if a is _ABSENT:
        group.only_second.append(name)
    elif b is _ABSENT:
        group.only_first.append(name)
    elif not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.shape != b.shape or a.dtype != b.dtype:
        group.unlike.append(f"{name}: {_kind(a)} and {_kind(b)}")
    else:
        group.tensors += 1
        x, y = (_as_float(t) for t in (a, b))
        if x.numel() == 0:
            return
        group.largest = max(group.largest, float(torch.nan_to_num(x, 0.0, 0.0, 0.0).abs().max()))
        same = (x == y) | (x.isnan() & y.isnan())
        if bool(same.all()):
            return
        group.different += 1
        gaps = torch.where(same, 0.0, (x - y).abs())
        group.max_abs = max(group.max_abs, float(torch.nan_to_num(gaps, nan=math.inf).max()))


def _as_float(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return torch.view_as_real(tensor).double() if tensor.is_complex() else tensor.double()


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    return type(a) is type(b) and bool(a == b)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__


def _text(value: Any) -> str | None:
    return None if value is _ABSENT else repr(value)
