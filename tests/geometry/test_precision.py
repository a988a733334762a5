from __future__ import annotations

import pytest
import torch
from torch import Tensor

from minifold_pl.geometry.precision import full_precision
from minifold_pl.types import Frames


@full_precision
def _square(x: Tensor, y: Tensor | None = None) -> Tensor:
    return x @ (x if y is None else y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_arguments_are_promoted_to_float32(dtype: torch.dtype) -> None:
    x = torch.eye(3, dtype=dtype)
    assert _square(x).dtype == torch.float32
    assert _square(x, y=x).dtype == torch.float32


def test_float64_is_left_alone() -> None:
    assert _square(torch.eye(3, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_is_off_inside_and_on_again_outside(dtype: torch.dtype) -> None:
    x = torch.eye(3)
    with torch.autocast("cpu", dtype=dtype):
        assert (x @ x).dtype == dtype
        assert _square(x).dtype == torch.float32
        assert (x @ x).dtype == dtype


def test_a_named_tuple_keeps_its_type_and_masks_keep_theirs() -> None:
    @full_precision
    def look(
        frames: Frames, mask: Tensor, plain: tuple[Tensor, int]
    ) -> tuple[Frames, Tensor, tuple[Tensor, int]]:
        return frames, mask, plain

    half = Frames(torch.eye(3).half(), torch.zeros(3).half())
    frames, mask, plain = look(half, torch.tensor([True]), (torch.zeros(1).bfloat16(), 7))
    assert isinstance(frames, Frames)
    assert frames.rotation.dtype == frames.translation.dtype == plain[0].dtype == torch.float32
    assert mask.dtype == torch.bool and plain[1] == 7


def test_methods_keep_their_self_and_their_name() -> None:
    class Scale:
        factor = 2.0

        @full_precision
        def apply(self, x: Tensor) -> Tensor:
            """Twice."""
            return self.factor * x

    result = Scale().apply(torch.ones(2).half())
    assert result.dtype == torch.float32 and result.tolist() == [2.0, 2.0]
    assert Scale.apply.__name__ == "apply" and Scale.apply.__doc__ == "Twice."


def test_the_gradient_returns_through_the_promotion() -> None:
    x = torch.full((2, 2), 3.0, dtype=torch.float16, requires_grad=True)
    _square(x).sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float16 and x.grad.isfinite().all()
