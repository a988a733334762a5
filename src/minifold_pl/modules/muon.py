"""Muon for hidden matrices, AdamW for everything else, as one optimizer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import AdamW

MUON: Final = "muon"
"""Key of a parameter group; true where its matrices are Muon's."""
MOMENTUM: Final = 0.95
_ROUNDS: Final = 5
_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
"""Of the quintic: steep at 0, and what it makes of singular values from 0 to 1 ends between 0.7 and 1.2."""
_TINY: Final = 1e-7
_ADAM_SIZE: Final = 0.2
"""Root mean square of AdamW's steps, in units of the learning rate."""


class MuonAdamW(AdamW):
    r"""AdamW whose groups marked ``muon`` are moved along their orthogonalised momentum instead.

    .. math:: m \leftarrow \mu m + g, \quad W \leftarrow (1 - \eta\lambda) W
              - 0.2\,\eta \sqrt{\max(r, c)}\ \mathrm{orth}(g + \mu m)

    orth makes all singular values about 1 (Newton–Schulz), so that a gradient's weak directions count as much as its
    strong ones. Keller Jordan et al. 2024 (kellerjordan.github.io/posts/muon); the factor, which makes a step as large
    as AdamW's would be, is that of Liu et al. 2025, arXiv:2502.16982, section 2.2. State and settings are saved as
    AdamW's are.
    """

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, **settings)
        # A gradient scaler is to unscale, and to leave out what overflowed, before any step: the fused part of this one
        # alone could do that by itself.
        self._step_supports_amp_scaling = False

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group.get(MUON)]
            _plain_step(self)
        finally:
            self.param_groups = groups
        for group in groups:
            if group.get(MUON):
                self._move(group)
        return loss

    @torch.no_grad()
    def _move(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[torch.Size, torch.device], list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape[parameter.shape, parameter.device].append(parameter)
        for (shape, _), parameters in by_shape.items():
            gradients = [p.grad for p in parameters if p.grad is not None]
            momenta = [self._momentum(p) for p in parameters]
            torch._foreach_mul_(momenta, MOMENTUM)
            torch._foreach_add_(momenta, gradients)
            ahead = torch._foreach_add(gradients, momenta, alpha=MOMENTUM)
            steps = orthogonalised(torch.stack(ahead))
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            size = _ADAM_SIZE * group["lr"] * math.sqrt(max(shape))
            torch._foreach_add_(parameters, list(steps.unbind()), alpha=-size)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())  # AdamW looks for it when a state is loaded
            state["momentum"] = torch.zeros_like(parameter)
        state["step"] += 1
        momentum: Tensor = state["momentum"]
        return momentum


def _plain_step(optimizer: AdamW) -> None:
    """AdamW's step without the hooks that torch puts around it: those of the whole step are run already."""
    step = AdamW.step
    getattr(step, "__wrapped__" if getattr(step, "hooked", False) else "__call__")(optimizer)


def orthogonalised(matrices: Float[Tensor, "n r c"]) -> Float[Tensor, "n r c"]:
    """Each matrix with singular values of about 1 (0.7 to 1.2) and the singular vectors it has; 0 stays 0.

    In bf16, as the method was made for, where the processor multiplies it; else in fp32.
    """
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = (matrices if wide else matrices.mT).to(
        torch.bfloat16 if _multiplies_bf16(matrices.device.type) else torch.float32
    )
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + _TINY)
    a, b, c = _COEFFICIENTS
    for _ in range(_ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.mT).to(matrices.dtype)


@cache
def _multiplies_bf16(device: str) -> bool:
    """Emulated it is slower than fp32. On CPUs with the instructions a step of a small model costs 0.4 of fp32's."""
    if device == "cpu":
        return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    return device == "cuda"
