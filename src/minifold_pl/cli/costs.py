"""What a training step of a module costs: operations and memory, from shapes alone where possible."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

ADAM_STATES = 2
"""Running mean and running square, each as large as the weights."""


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """Operations and memory of one step at a batch size and length."""

    flops_forward: int
    """Floating-point operations of matrix products and attention; a multiply-add counts as two."""
    flops_step: int
    """Forward, backward and what activation checkpointing computes again."""
    activation_bytes: int
    """What the forward pass keeps for the backward pass in full precision, each storage once."""
    measured_on: str
    """``meta`` (shapes only) or ``cpu`` (a real pass)."""


def parameter_counts(module: torch.nn.Module) -> dict[str, dict[str, int]]:
    """Total, trainable and frozen parameters of every top-level part that has any; shared ones count once."""
    counts: dict[str, dict[str, int]] = {}
    for name, parameter in module.named_parameters():
        part = counts.setdefault(name.split(".", 1)[0], {"total": 0, "trainable": 0, "frozen": 0})
        part["total"] += parameter.numel()
        part["trainable" if parameter.requires_grad else "frozen"] += parameter.numel()
    return counts


def state_bytes(module: torch.nn.Module) -> dict[str, int]:
    """Bytes that training holds whatever the batch: weights, gradients, Adam's states, the EMA copy."""
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    trainable = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    return {"weights": weights, "gradients": trainable, "adam": ADAM_STATES * trainable, "ema": weights}


def step_cost(module: Any, batch_size: int, length: int) -> StepCost:
    """Count one training step of ``module.losses`` on its example batch.

    On the meta device, where nothing is computed; a module that has to look at values is run on the CPU.
    """
    module.train()
    try:
        return _count(copy.deepcopy(module).to("meta"), batch_size, length)
    except (NotImplementedError, RuntimeError):
        return _count(module, batch_size, length)


def _count(module: Any, batch_size: int, length: int) -> StepCost:
    batch = module.example_batch(batch_size, length)
    # Storages are kept alive here, so that no two of them share an id.
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage._cdata, storage)
        return tensor

    own = {p.untyped_storage()._cdata for p in module.parameters()}
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            total, _ = module.losses(batch)
        forward = counter.get_total_flops()
        total.backward()
        step = counter.get_total_flops()
    return StepCost(
        flops_forward=forward,
        flops_step=step,
        activation_bytes=sum(storage.nbytes() for address, storage in kept.items() if address not in own),
        measured_on=total.device.type,
    )
