"""Steps of the triangle update that keep less for the backward pass than torch's own would."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


def worthwhile(x: Tensor) -> bool:
    """Whether to use these forms: with gradients, outside autocast, and not under a compiler, which finds its own."""
    device = x.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.is_grad_enabled() and not autocast and not torch.compiler.is_compiling()


def normed_maps(
    x: Float[Tensor, "n d"], norm: nn.LayerNorm, first: nn.Linear, second: nn.Linear
) -> tuple[Float[Tensor, "n a"], Float[Tensor, "n b"]]:
    """``first`` and ``second`` of ``norm(x)``, which is computed again in the backward pass instead of kept."""
    return _NormedMaps.apply(
        x, norm.weight, norm.bias, norm.eps, first.weight, first.bias, second.weight, second.bias
    )


def gated(x: Float[Tensor, "*axes"], gate: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    r""":math:`x\,\sigma(\mathrm{gate})`. Keeps the result, which the caller often keeps too, and not ``x``."""
    return _Gated.apply(x, gate)


def clamped(x: Float[Tensor, "*axes"], largest: float) -> Float[Tensor, "*axes"]:
    """``x`` within ±``largest``, in place. Keeps the result alone; where that is at the bound there is no gradient."""
    return _Clamped.apply(x, largest)


class _NormedMaps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float,
        w_first: Tensor, b_first: Tensor, w_second: Tensor, b_second: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        y, mean, rstd = torch.native_layer_norm(x, scale.shape, scale, shift, eps)
        ctx.save_for_backward(x, scale, shift, mean, rstd, w_first, w_second)
        ctx.eps = eps
        return torch.addmm(b_first, y, w_first.T), torch.addmm(b_second, y, w_second.T)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift, mean, rstd, w_first, w_second = ctx.saved_tensors
        first, second = gradients
        y = torch.native_layer_norm(x, scale.shape, scale, shift, ctx.eps)[0]
        d_first, d_second = first.T @ y, second.T @ y
        del y
        d_y = torch.addmm(first @ w_first, second, w_second)
        d_x, d_scale, d_shift = torch.ops.aten.native_layer_norm_backward(
            d_y, x, scale.shape, mean, rstd, scale, shift, [True, True, True]
        )
        return d_x, d_scale, d_shift, None, d_first, first.sum(0), d_second, second.sum(0)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor) -> Tensor:
        opened = gate.sigmoid()
        result = x * opened
        ctx.save_for_backward(opened, result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        opened, result = ctx.saved_tensors
        (gradient,) = gradients
        # of x s(g) by g: x s (1 - s), and x s is the result
        return gradient * opened, (1 - opened).mul_(result).mul_(gradient)


class _Clamped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, largest: float) -> Tensor:
        x.clamp_(-largest, largest)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        ctx.largest = largest
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (result,) = ctx.saved_tensors
        return gradients[0].masked_fill(result.abs() >= ctx.largest, 0.0), None
