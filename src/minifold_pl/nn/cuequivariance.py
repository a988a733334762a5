"""Triangle updates by NVIDIA's cuEquivariance, where it is installed; nothing else of this package needs it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.nn.masking import pair_mask

if TYPE_CHECKING:
    from minifold_pl.nn.triangle import TriangleMultiplication

_MULTIPLE = 32


def triangle_update(
    module: TriangleMultiplication, pair: Float[Tensor, "b l l d"], mask: Bool[Tensor, "b l"]
) -> Float[Tensor, "b l l d"]:
    """What ``module`` computes, without the bound on the sums. The kernels choose their own precision.

    Raises:
        ValueError: not installed, no GPU, or a width that its kernels do not have.
    """
    update = required()
    hidden = module.norm_sum.normalized_shape[0]
    if hidden % _MULTIPLE:
        raise ValueError(
            f"triangle_hidden={hidden}: cuEquivariance needs a multiple of {_MULTIPLE}; "
            "choose one, or formulation: fast"
        )
    p_in, g_in = module.edges.weight.chunk(2)
    p_bias, g_bias = module.edges.bias.chunk(2)
    return update(
        pair,
        direction="outgoing" if module.outgoing else "incoming",
        mask=pair_mask(mask).to(pair.dtype),
        norm_in_weight=module.norm.weight,
        norm_in_bias=module.norm.bias,
        p_in_weight=p_in,
        p_in_bias=p_bias,
        g_in_weight=g_in,
        g_in_bias=g_bias,
        norm_out_weight=module.norm_sum.weight,
        norm_out_bias=module.norm_sum.bias,
        p_out_weight=module.out.weight,
        p_out_bias=module.out.bias,
        g_out_weight=module.gate.weight,
        g_out_bias=module.gate.bias,
        eps=module.norm.eps,
    )


def usable(pair: Tensor) -> bool:
    """Whether it can run on ``pair``: a model trained with it is then sampled from on any machine."""
    return pair.is_cuda and importlib.util.find_spec("cuequivariance_torch") is not None


def required() -> Callable[..., Tensor]:
    """The kernel's entry.

    Raises:
        ValueError: it is not installed, or torch sees no GPU.
    """
    if not torch.cuda.is_available():
        raise ValueError(
            "formulation: cuequivariance needs an NVIDIA GPU, and torch sees none; use formulation: fast, which reads "
            "the same checkpoints"
        )
    try:
        from cuequivariance_torch import triangle_multiplicative_update
    except ImportError as error:
        raise ValueError(
            "formulation: cuequivariance needs NVIDIA's package: pip install 'minifold-pl[cuda]', or use "
            f"formulation: fast, which reads the same checkpoints ({error})"
        ) from error
    return triangle_multiplicative_update
