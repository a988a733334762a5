"""Linear maps with the starting values of AlphaFold 2 (suppl. 1.11.4)."""

from __future__ import annotations

from torch import nn


def residual_linear(d_in: int, d_out: int, *, std: float = 0.0) -> nn.Linear:
    """Last map of a residual branch: starts at 0, or near it, so that the branch starts as the identity."""
    linear = nn.Linear(d_in, d_out)
    nn.init.zeros_(linear.weight) if std == 0 else nn.init.normal_(linear.weight, std=std)
    nn.init.zeros_(linear.bias)
    return linear


def gate_linear(d_in: int, d_out: int) -> nn.Linear:
    """Map in front of a sigmoid: weight 0 and bias 1, so that the gate starts mostly open (0.73)."""
    linear = nn.Linear(d_in, d_out)
    nn.init.zeros_(linear.weight)
    nn.init.ones_(linear.bias)
    return linear
