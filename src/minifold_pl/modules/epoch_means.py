"""Means over an epoch that survive a restart in its middle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class EpochMeans:
    """Weighted means of named values over the batches of an epoch.

    Lightning keeps such means itself but does not save them: a run that goes on in the middle of an epoch would
    report the mean of the epoch's rest. Sums are kept in float64 on the values' device, one tensor for all names
    that are added together, so that a step costs one small addition and no wait for the device.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._weights: dict[tuple[str, ...], float] = {}

    def __bool__(self) -> bool:
        return bool(self._sums)

    def add(self, values: Mapping[str, Tensor | float], weight: float = 1.0) -> None:
        """Add one batch's values, each a scalar, with the batch's weight (such as its number of chains)."""
        if not values:
            return
        names = tuple(values)
        parts = [v.detach() if isinstance(v, Tensor) else torch.tensor(v) for v in values.values()]
        device = max((p.device for p in parts), key=lambda d: d.type != "cpu")
        # MPS has no float64; float32 sums are as exact there as Lightning's.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        found = weight * torch.stack([p.to(device, dtype) for p in parts])
        if names in self._sums:
            # Sums that were loaded lie on the CPU.
            self._sums[names] = self._sums[names].to(found.device) + found
            self._weights[names] += weight
        else:
            self._sums[names] = found
            self._weights[names] = float(weight)

    def reset(self) -> None:
        """Forget everything."""
        self._sums.clear()
        self._weights.clear()

    def copy(self) -> EpochMeans:
        """What is here now; costs nothing, for sums are replaced and never changed in place."""
        other = EpochMeans()
        other.take(self)
        return other

    def take(self, other: EpochMeans) -> None:
        """Hold what ``other`` holds, and forget the rest."""
        self._sums, self._weights = dict(other._sums), dict(other._weights)

    def nonfinite(self) -> list[str]:
        """Names whose mean has become NaN or infinite."""
        return [
            name
            for names, sums in self._sums.items()
            for name, finite in zip(names, sums.isfinite().tolist(), strict=True)
            if not finite
        ]

    def state_dict(self) -> dict[str, Any]:
        """The sums as plain values."""
        return {
            "groups": [
                {"names": list(names), "sums": total.tolist(), "weight": self._weights[names]}
                for names, total in self._sums.items()
            ]
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with saved sums."""
        self.reset()
        self.merge(state)

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add the sums of another process."""
        for group in state["groups"]:
            names = tuple(group["names"])
            sums = torch.tensor(group["sums"], dtype=torch.float64)
            if names in self._sums:
                self._sums[names] = self._sums[names].cpu().double() + sums
                self._weights[names] += group["weight"]
            else:
                self._sums[names] = sums
                self._weights[names] = group["weight"]

    def means(self) -> dict[str, float]:
        """The mean of each name; of a name in several groups, over all of them."""
        totals: dict[str, tuple[float, float]] = {}
        for names, sums in self._sums.items():
            for name, value in zip(names, sums.tolist(), strict=True):
                total, weight = totals.get(name, (0.0, 0.0))
                totals[name] = (total + value, weight + self._weights[names])
        return {name: total / weight for name, (total, weight) in totals.items() if weight > 0}
