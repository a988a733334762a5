"""Axial attention, transition, frame update and outer product in their fast and textbook forms, at v13's widths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.frame.contest import Contest, Inputs, Outcome, hold, worst
from benchmarks.frame.interface import Benchmark, Goal, Options, Result
from benchmarks.modules.inputs import chains, frames, pair_features, single_features
from minifold_pl.nn.axial import AxialAttention
from minifold_pl.nn.ipa import FrameUpdate
from minifold_pl.nn.masking import pair_mask
from minifold_pl.nn.outer_product import OuterProduct
from minifold_pl.nn.transition import Transition
from minifold_pl.types import Frames

D_PAIR, D_SINGLE, D_ENCODER = 128, 512, 128


def benchmark(
    name: str, about: str, module: Callable[[], nn.Module], inputs: Callable[..., Inputs], **more: Any
) -> Benchmark:
    """One module against its textbook form."""

    def run(options: Options) -> Result:
        found = hold(Contest(module=module, inputs=inputs, batches=(1, 4), **more), options)
        return Result(rows=found.rows, goals=[_no_slower(found), *found.exactness()], notes=found.notes)

    return Benchmark(name=name, about=about, run=run, share=0.5)


def _no_slower(found: Outcome) -> Goal:
    ratios = found.ratios("fast", ("textbook",), lambda p: p[0] == "fp32")
    return worst("eager against the textbook's form, fp32", ratios, 0.95, why="no cell fitted")


def _pair(length: int, batch: int, device: torch.device) -> Inputs:
    mask = chains(length, batch, device)
    return (pair_features(length, batch, D_PAIR, device), mask), pair_mask(mask)


def _pair_alone(length: int, batch: int, device: torch.device) -> Inputs:
    (pair, _), both = _pair(length, batch, device)
    return (pair,), both


def _single(length: int, batch: int, device: torch.device) -> Inputs:
    mask = chains(length, batch, device)
    return (single_features(length, batch, D_ENCODER, device),), pair_mask(mask)


def _framed(length: int, batch: int, device: torch.device) -> Inputs:
    mask = chains(length, batch, device)
    return (single_features(length, batch, D_SINGLE, device), frames(length, batch, device), mask), mask


def _flat(out: Frames) -> Tensor:
    return torch.cat((out.rotation.flatten(-2), out.translation), dim=-1)


BENCHMARKS = (
    benchmark(
        "row_attention",
        "attention within rows of the pair features, 8 heads × 32",
        lambda: AxialAttention(D_PAIR),
        _pair,
    ),
    benchmark(
        "column_attention",
        "attention within columns of the pair features, 8 heads × 32",
        lambda: AxialAttention(D_PAIR, axis="column"),
        _pair,
    ),
    benchmark(
        "transition",
        "transition of the pair features, 128 to 512",
        lambda: Transition(D_PAIR, 4 * D_PAIR),
        _pair_alone,
    ),
    benchmark(
        "outer_product",
        "outer product of the single features, 32 × 32",
        lambda: OuterProduct(D_ENCODER, D_PAIR),
        _single,
    ),
    benchmark(
        "frame_update", "frame update, 512 channels", lambda: FrameUpdate(D_SINGLE), _framed, result=_flat
    ),
)
