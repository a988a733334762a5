"""The model of the end-to-end benchmarks: v13 at full width, weights at which every part matters."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from benchmarks.frame.interface import Options
from minifold_pl.cli.lightning_cli import instantiate_model, quiet_libraries
from minifold_pl.data.tokenizer import encode
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.types import ProteinBatch

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def v13(options: Options, *overrides: str) -> DiffusionModule:
    """v13 with random weights; small ones where maps begin at 0, which would hide errors and skip work."""
    quiet_libraries()
    torch.manual_seed(0)
    config = "v13_small.yaml" if options.quick else "v13.yaml"
    module = instantiate_model(config, [f"--{setting}" for setting in overrides])
    assert isinstance(module, DiffusionModule)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return module.to(options.device)


def sequences(module: DiffusionModule, batch: int, length: int) -> ProteinBatch:
    """Chains of different random sequences."""
    from minifold_pl.cli.generation import sequence_batch

    generator = torch.Generator().manual_seed(1)
    letters = [
        "".join(LETTERS[i] for i in torch.randint(20, (length,), generator=generator).tolist())
        for _ in range(batch)
    ]
    assert len(encode(letters[0])) == length + 2
    return sequence_batch([f"chain-{k}" for k in range(batch)], letters).to(module.device)


def autocast(module: DiffusionModule, dtype: str) -> AbstractContextManager[Any]:
    """``bf16`` as a trainer runs it with bf16-mixed; ``fp32`` as it is."""
    if dtype == "fp32":
        return nullcontext()
    return torch.autocast(module.device.type, torch.bfloat16)


def training_step(module: DiffusionModule, batch: ProteinBatch, dtype: str) -> Callable[[], None]:
    """A whole step: forward, backward, clipping, fused AdamW, average of the weights."""
    from minifold_pl.modules.optim import build_optimizer

    module.train()
    optimizer = build_optimizer(module, module.optimizer_config)
    trained = [p for p in module.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in trained]

    def step() -> None:
        with autocast(module, dtype):
            total, _ = module.losses(batch)
        total.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.detach() for p in trained], 0.001)

    return step
