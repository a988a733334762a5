"""A copy of a training state that stays as it is while training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_Kind = tuple[tuple[int, ...], torch.dtype, bool]
"""Shape, type, and whether the memory is pinned."""


class Snapshots:
    """Copies states into CPU memory that is used again for the next one.

    Fresh memory for 560 MB costs more than the copying: the system hands it out page by page. From a GPU the
    copies go to pinned memory, all under way at once.
    """

    def __init__(self) -> None:
        self._spare: dict[_Kind, list[Tensor]] = {}
        self._lent: list[tuple[_Kind, Tensor]] = []

    def reserve(self, state: dict[str, Any]) -> None:
        """Have memory for copies of such a state; its values are not read."""
        for tensor in _tensors(state):
            key = _kind(tensor)
            self._spare.setdefault(key, []).append(_buffer(key).zero_())

    def take(self, state: dict[str, Any]) -> dict[str, Any]:
        """A copy of plain state; the one taken before must not be in use any more.

        Tensors that share their memory share it in the copy. Containers are copied, other values are not.
        """
        for key, buffer in self._lent:
            self._spare.setdefault(key, []).append(buffer)
        self._lent = []
        copies: dict[tuple[Any, ...], Tensor] = {}
        taken: dict[str, Any] = self._copy(state, copies)
        # What has no use in this state would be held for nothing.
        self._spare = {}
        for device in {source.device for source in _tensors(state) if source.device.type == "cuda"}:
            torch.cuda.synchronize(device)
        return taken

    def give_away(self) -> None:
        """The last copy stays in use: its memory is not used again."""
        self._lent = []

    def _copy(self, value: Any, copies: dict[tuple[Any, ...], Tensor]) -> Any:
        if isinstance(value, Tensor):
            # Equal place, shape and strides: a tied weight. The key holds no reference, so nothing may be freed
            # in between; the state keeps all of them alive.
            place = (
                value.device,
                value.data_ptr(),
                value.dtype,
                tuple(value.shape),
                tuple(value.stride()),
            )
            if value.numel() == 0 or place not in copies:
                copies[place] = self._copy_tensor(value)
            return copies[place]
        if isinstance(value, Mapping):
            copied = type(value)({k: self._copy(v, copies) for k, v in value.items()})  # type: ignore[call-arg]
            # A module's state_dict carries the versions of its parts as an attribute.
            getattr(copied, "__dict__", {}).update(getattr(value, "__dict__", {}))
            return copied
        if isinstance(value, list | tuple):
            return type(value)(self._copy(v, copies) for v in value)
        if isinstance(value, set):
            return set(value)
        return value

    def _copy_tensor(self, source: Tensor) -> Tensor:
        key = _kind(source)
        spare = self._spare.get(key)
        target = spare.pop() if spare else _buffer(key)
        self._lent.append((key, target))
        target.copy_(source.detach(), non_blocking=key[-1])
        return target


def _kind(tensor: Tensor) -> _Kind:
    return tuple(tensor.shape), tensor.dtype, tensor.device.type == "cuda"


def _buffer(kind: _Kind) -> Tensor:
    shape, dtype, pinned = kind
    return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=pinned)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    return []
