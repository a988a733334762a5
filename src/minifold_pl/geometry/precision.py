"""The one fp32 island: geometry never runs in half precision.

fp16 has no number between 0 and 6e-8 and none above 65504, so that the guards of a normalisation underflow
and squared distances overflow; bfloat16 knows 10 Å only to ±0.03 Å.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

_P = ParamSpec("_P")
_R = TypeVar("_R")

_HALF = (torch.float16, torch.bfloat16)


def full_precision(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run ``function`` (or a method) without autocast, its half-precision arguments promoted to float32.

    Tensors inside tuples and NamedTuples are promoted too; float32, float64, integers and masks pass through
    unchanged. The result keeps the precision it was computed in, so that nothing is rounded on the way out.
    """

    @wraps(function)
    def island(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        promoted = tuple(_promote(a) for a in args)
        named = {name: _promote(a) for name, a in kwargs.items()}
        with without_autocast(next(_tensors((*args, *kwargs.values())), None)):
            return function(*promoted, **named)

    return island


def without_autocast(like: Tensor | None) -> AbstractContextManager[Any]:
    """A block without autocast on the device of ``like``, where that has any."""
    if like is None or not torch.amp.is_autocast_available(like.device.type):
        return nullcontext()
    return torch.autocast(like.device.type, enabled=False)


def _tensors(values: tuple[Any, ...]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple):
            yield from _tensors(value)


def _promote(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in _HALF else value
    if isinstance(value, tuple):
        parts = [_promote(v) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value
