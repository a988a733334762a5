from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch


@pytest.fixture
def checkpoint_of() -> Callable[[int], dict[str, Any]]:
    """Makes a small Lightning-like checkpoint of a step; the weights tell the step."""

    def make(step: int, size: int = 64) -> dict[str, Any]:
        return {
            "epoch": step // 10,
            "global_step": step,
            "pytorch-lightning_version": "2.6.6",
            "state_dict": {
                "denoiser.weight": torch.full((size, size), float(step)),
                "pair_stack.bias": torch.zeros(size),
            },
            "callbacks": {
                "ModelCheckpoint{'monitor': 'val/total'}": {
                    "monitor": "val/total",
                    "best_model_score": torch.tensor(2.5),
                    "current_score": torch.tensor(2.75),
                    "best_k_models": {"a.ckpt": torch.tensor(2.5)},
                }
            },
            "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}}],
            "lr_schedulers": [],
            "minifold_pl": {
                "format": 1,
                "stage": "diffusion",
                "version": "0.1.0",
                "model_config": {"class_path": "x.Y", "init_args": {"d": 8}},
                "data_config": {"max_length": 125},
            },
        }

    return make
