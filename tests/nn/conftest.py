"""Small networks and batches that every test of this room shares."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minifold_pl.constants import CLS, EOS, FIRST_RESIDUE, PAD, UNK
from minifold_pl.geometry.frames import random_rotations
from minifold_pl.nn.contact_classifier import ContactClassifier
from minifold_pl.nn.denoiser import IPADenoiser
from minifold_pl.nn.embeddings import LogRelativePosition
from minifold_pl.nn.formulation import set_formulation
from minifold_pl.nn.pair_stack import PairStack
from minifold_pl.types import Condition, Frames, SequenceFeatures

LENGTHS = (9, 14, 5)


@pytest.fixture
def textbook() -> Callable[[nn.Module], nn.Module]:
    """The same module, with the same parameters, as the textbook writes it."""

    def apply(module: nn.Module) -> nn.Module:
        plain = copy.copy(module)
        plain._modules = {name: apply(child) for name, child in module._modules.items()}
        set_formulation(plain, "textbook")
        return plain

    return apply


@pytest.fixture
def reawaken() -> Callable[[nn.Module], nn.Module]:
    """Fresh values for every parameter, as zero-initialised maps hide errors and stop gradients."""

    def apply(module: nn.Module, scale: float = 1.0) -> nn.Module:
        generator = torch.Generator().manual_seed(1)
        for parameter in module.parameters():
            fan = parameter.shape[-1] if parameter.dim() > 1 else 25
            with torch.no_grad():
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.copy_(scale * noise * fan**-0.5 + (parameter.dim() == 1) * 0.5)
        return module

    return apply


@pytest.fixture
def make_mask() -> Callable[..., Tensor]:
    """Mask of chains of the given lengths."""

    def make(lengths: tuple[int, ...] = LENGTHS, to: int | None = None) -> Tensor:
        return torch.arange(to or max(lengths))[None] < torch.tensor(lengths)[:, None]

    return make


@pytest.fixture
def make_tokens() -> Callable[..., Tensor]:
    """Tokens of random chains; the residues of chain k depend on k alone."""

    def make(lengths: tuple[int, ...] = LENGTHS, to: int | None = None) -> Tensor:
        tokens = torch.full((len(lengths), (to or max(lengths)) + 2), PAD)
        for row, length in enumerate(lengths):
            generator = torch.Generator().manual_seed(row)
            tokens[row, 0], tokens[row, length + 1] = CLS, EOS
            tokens[row, 1 : length + 1] = torch.randint(FIRST_RESIDUE, UNK, (length,), generator=generator)
        return tokens

    return make


@pytest.fixture
def make_features() -> Callable[..., SequenceFeatures]:
    """Random features, with junk where the mask is False."""

    def make(mask: Tensor, d_single: int = 16, d_pair: int = 8) -> SequenceFeatures:
        b, n = mask.shape
        return SequenceFeatures(
            torch.randn(b, n, d_single), torch.randn(b, n, n, d_pair), torch.randn(b, d_single)
        )

    return make


@pytest.fixture
def make_frames() -> Callable[..., Frames]:
    """Random rotations about places spread like a small protein, in model units."""

    def make(b: int, n: int, spread: float = 1.2) -> Frames:
        return Frames(random_rotations(b * n).view(b, n, 3, 3), torch.randn(b, n, 3) * spread)

    return make


@pytest.fixture
def make_chain() -> Callable[..., Tensor]:
    """Random walks with steps of 0.38 model units, centred over the mask."""

    def make(mask: Tensor) -> Tensor:
        steps = torch.nn.functional.normalize(torch.randn(*mask.shape, 3), dim=-1) * 0.38
        walk = steps.cumsum(1) * mask[..., None]
        return (walk - walk.sum(1, keepdim=True) / mask.sum(1).clamp(min=1)[:, None, None]) * mask[..., None]

    return make


@pytest.fixture
def make_condition() -> Callable[..., Condition]:
    """A random condition for a small denoiser."""

    def make(mask: Tensor, d_single: int = 16, d_pair: int = 12) -> Condition:
        b, n = mask.shape
        return Condition(
            torch.randn(b, n, d_single),
            torch.randn(b, n, n, d_pair) * (mask[:, :, None] & mask[:, None])[..., None],
            mask,
            mask & mask.roll(-1, 1),
        )

    return make


@pytest.fixture
def small_encoder() -> Callable[..., ContactClassifier]:
    """A narrow classifier in evaluation mode."""

    def make(**kwargs: Any) -> ContactClassifier:
        sizes: dict[str, Any] = {
            "architectures": 5, "d": 16, "d_pair": 8, "heads": 2, "ffn": 32, "outer_hidden": 4,
            "pair_heads": 2, "positions": 64,
        }  # fmt: skip
        return ContactClassifier(**(sizes | kwargs)).eval()

    return make


@pytest.fixture
def small_stack() -> Callable[..., PairStack]:
    """A narrow pair stack."""

    def make(**kwargs: Any) -> PairStack:
        sizes: dict[str, Any] = {
            "d_single_in": 16, "d_pair_in": 8, "d_pair": 12, "blocks": 2, "heads": 2, "d_head": 4,
            "triangle_hidden": 6, "outer_hidden": 4, "transition": 2,
            "relative_position": LogRelativePosition(12, bins=16, max_sep=32, sinusoidal=8),
        }  # fmt: skip
        return PairStack(**(sizes | kwargs))

    return make


@pytest.fixture
def small_denoiser() -> Callable[..., IPADenoiser]:
    """A narrow denoiser of a 100-step process."""

    def make(**kwargs: Any) -> IPADenoiser:
        sizes: dict[str, Any] = {
            "d_single_in": 16, "d_pair": 12, "d": 24, "layers": 3, "heads": 2, "d_head": 6,
            "query_points": 3, "value_points": 4, "ffn": 32, "update_hidden": 20, "timesteps": 100,
            "d_time": 16, "d_film": 8,
        }  # fmt: skip
        return IPADenoiser(**(sizes | kwargs))

    return make
