"""``torch.compile`` for training: block by block, for any length, and only where there is a compiler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal

import torch
from jaxtyping import Bool, Float, Int
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from minifold_pl.nn.denoiser import DenoiserLayer
from minifold_pl.nn.egnn import EGNNLayer
from minifold_pl.nn.pair_stack import PairStack
from minifold_pl.nn.structure_denoiser import StructureDenoiser
from minifold_pl.types import Condition, Denoised, map_tensors

CompileMode = Literal["blocks", "off", False]
"""``blocks``: each block of the pair stacks and each layer of the denoiser. YAML reads an ``off`` without quotes as
false: both mean the same."""

_VARIANTS: Final = 64
"""Compiled forms of a block that may live side by side. There is one with and one without gradients, one for the first
layer, whose frames no gradient reaches, each once more for a batch of 1; torch gives up at 8 and goes on uncompiled."""


def compile_blocks(network: nn.Module, device: torch.device) -> bool:
    """Have every block of ``network`` compiled when it is first run; whether there is a compiler.

    All blocks of a kind share their compiled code, whatever the batch size and the length: the first step takes about
    half a minute, or seconds where torch's cache on the disk knows the code. Parameters, their names and checkpoints
    stay as they are. Without a working compiler there is one warning, and nothing changes.
    """
    trouble = _trouble(device)
    if trouble is not None:
        rank_zero_warn(
            f"compile: blocks does nothing here, training goes on uncompiled: {trouble} (a CPU needs a C++ compiler "
            "such as g++, a GPU needs triton)"
        )
        return False
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)
    for block in blocks(network):
        block.compile(dynamic=True)
    return True


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """What is compiled as one piece."""
    for module in network.modules():
        if isinstance(module, PairStack):
            yield from module.blocks
        elif isinstance(module, DenoiserLayer | EGNNLayer):
            yield module


class ReplayedDenoiser:
    """A denoiser, compiled for each shape it meets and replayed as a CUDA graph (torch's ``reduce-overhead``).

    A step of v13's sampler is some thousands of small kernels, whose launches take longer than they do. What a replay
    returns lies where the next one writes: it is copied.

    Args:
        denoiser: keeps its parameters' places in memory; new values in them are seen.
        mode: of ``torch.compile``.
    """

    def __init__(self, denoiser: StructureDenoiser, mode: str = "reduce-overhead") -> None:
        self._run = torch.compile(denoiser.forward, mode=mode, dynamic=False)
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)

    def __call__(
        self,
        x_t: Float[Tensor, "b l 3"],
        t: Int[Tensor, " b"],
        condition: Condition,
        previous: Denoised | None = None,
        use_previous: Bool[Tensor, " b"] | None = None,
    ) -> Denoised:
        """See :meth:`StructureDenoiser.forward`."""
        torch.compiler.cudagraph_mark_step_begin()
        return map_tensors(torch.clone, self._run(x_t, t, condition, previous, use_previous))


def _trouble(device: torch.device) -> str | None:
    """Why nothing can be compiled for ``device``, or None: only trying tells."""
    try:
        probe: Any = torch.compile(_probe, dynamic=True)
        probe(torch.ones(3, device=device))
    except Exception as error:
        return " ".join(str(error).split())[:200] or type(error).__name__
    return None


def _probe(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1
