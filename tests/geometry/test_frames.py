from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import roma
import torch
from torch import Tensor

from minifold_pl.geometry.frames import (
    backbone_frames,
    ca_frame_mask,
    ca_frames,
    compose,
    gram_schmidt,
    random_rotations,
    rotation_angle_cosine,
    rotation_from_quaternion_update,
    slerp_from_identity,
    to_global,
    to_local,
)
from minifold_pl.types import Frames

# --- helpers ------------------------------------------------------------------------------------


def _is_rotation(r: Tensor, tolerance: float = 1e-5) -> bool:
    identity = torch.eye(3, dtype=r.dtype).expand_as(r)
    orthogonal = (r @ r.mT - identity).abs().max() < tolerance
    return bool(orthogonal and (torch.linalg.det(r) - 1).abs().max() < tolerance)


def _everything(length: int, *broken: int) -> tuple[Tensor, Tensor]:
    """Mask and bonds of one chain with breaks after the residues ``broken``."""
    bonded = torch.ones(1, length, dtype=torch.bool)
    bonded[0, -1] = False
    bonded[0, list(broken)] = False
    return torch.ones(1, length, dtype=torch.bool), bonded


def _gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.detach().clone().requires_grad_()
    y = function(x)
    (y * torch.randn_like(y)).sum().backward()
    assert x.grad is not None
    return x.grad


# --- Gram–Schmidt -------------------------------------------------------------------------------


def test_gram_schmidt_gives_the_axes_of_algorithm_21() -> None:
    """Points chosen so that the axes can be read off: c on x from b, a in the xy plane."""
    a, b, c = torch.tensor([[0.3, 2.0, 0.0], [0.0, 0.0, 0.0], [5.0, 0.0, 0.0]])
    assert torch.allclose(gram_schmidt(a, b, c), torch.eye(3), atol=1e-6)
    assert torch.allclose(gram_schmidt(a, b, -c), torch.diag(torch.tensor([-1.0, 1.0, -1.0])), atol=1e-6)


def test_gram_schmidt_gives_proper_rotations_that_turn_with_the_points() -> None:
    a, b, c = torch.randn(3, 200, 3, dtype=torch.float64)
    turn = random_rotations(1, dtype=torch.float64)[0]
    rotation = gram_schmidt(a, b, c)
    assert _is_rotation(rotation, 1e-10)
    moved = gram_schmidt(a @ turn.T + 7, b @ turn.T + 7, c @ turn.T + 7)
    assert torch.allclose(moved, turn @ rotation, atol=1e-10)


def test_gram_schmidt_agrees_with_roma() -> None:
    a, b, c = torch.randn(3, 50, 3, dtype=torch.float64)
    expected = roma.special_gramschmidt(torch.stack((c - b, a - b), dim=-1))
    assert torch.allclose(gram_schmidt(a, b, c), expected, atol=1e-10)


@pytest.mark.parametrize("angle", [1e-1, 1e-2, 2e-3, 1e-4, 1e-6, 0.0])
@pytest.mark.parametrize("scale", [38.0, 3.8, 0.38])
def test_near_collinear_points_give_rotations_and_finite_gradients(angle: float, scale: float) -> None:
    points = (
        torch.tensor([[-1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [math.cos(angle), math.sin(angle), 0.0]]) * scale
    )
    points = points @ random_rotations(1)[0].T + 20
    assert _is_rotation(gram_schmidt(*points))
    assert _gradient(lambda p: gram_schmidt(*p), points).isfinite().all()


@pytest.mark.parametrize("angle", [1e-2, 2e-3, 9e-4, 1e-4, 1e-6])
def test_the_gradient_of_a_frame_is_bounded_however_straight_the_chain(angle: float) -> None:
    """Unbounded it grows as 1/angle, and one straight triplet would rule the batch."""
    points = torch.tensor(
        [[-0.38, 0.0, 0.0], [0.0, 0.0, 0.0], [0.38 * math.cos(angle), 0.38 * math.sin(angle), 0.0]]
    )
    points = points @ random_rotations(1)[0].T
    assert _gradient(lambda p: gram_schmidt(*p), points).abs().max() < 10 / (1e-3 * 0.38)


@pytest.mark.parametrize("same", [(0, 1), (1, 2), (0, 2), (0, 1, 2)])
def test_coincident_points_give_rotations_and_finite_gradients(same: tuple[int, ...]) -> None:
    points = torch.randn(3, 3)
    points[list(same)] = points[same[0]].clone()
    assert _is_rotation(gram_schmidt(*points))
    assert _gradient(lambda p: gram_schmidt(*p), points).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gram_schmidt_is_sound_under_autocast_with_near_collinear_half_precision_input(
    dtype: torch.dtype,
) -> None:
    """A sine of 1e-3 underflows in fp16 when squared and scaled: the write-up's first NaN."""
    points = torch.tensor([[-0.38, 0.0, 0.0], [0.0, 0.0, 0.0], [0.38, 5e-4, 0.0]]).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        rotation = gram_schmidt(*points)
    assert rotation.dtype == torch.float32 and _is_rotation(rotation)
    rotation[..., 1].sum().backward()
    assert points.grad is not None and points.grad.isfinite().all()


def test_gram_schmidt_gradcheck() -> None:
    points = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: gram_schmidt(*p), (points,))


# --- frames of a trace --------------------------------------------------------------------------


def test_ca_frames_are_gram_schmidt_inside_and_copies_at_the_ends(walk: Tensor) -> None:
    mask, bonded = _everything(24)
    frames = ca_frames(walk[:1], mask, bonded)
    inner = gram_schmidt(walk[:1, :-2], walk[:1, 1:-1], walk[:1, 2:])
    assert torch.equal(frames.rotation[:, 1:-1], inner)
    assert torch.equal(frames.rotation[:, 0], frames.rotation[:, 1])
    assert torch.equal(frames.rotation[:, -1], frames.rotation[:, -2])
    assert torch.equal(frames.translation, walk[:1])
    assert ca_frame_mask(mask, bonded).all()


def test_ca_frames_turn_and_move_with_the_chain(walk: Tensor) -> None:
    mask, bonded = (x.expand(2, -1) for x in _everything(24))
    turn = random_rotations(1, dtype=torch.float64)[0]
    before, after = ca_frames(walk, mask, bonded), ca_frames(walk @ turn.T + 5, mask, bonded)
    assert torch.allclose(after.rotation, turn @ before.rotation, atol=1e-10)


def test_no_triplet_reaches_across_a_break(walk: Tensor) -> None:
    mask, bonded = _everything(24, 9)
    frames = ca_frames(walk[:1], mask, bonded)
    apart = walk[:1].clone()
    apart[:, 10:] += 100
    moved = ca_frames(apart, mask, bonded)
    assert torch.allclose(moved.rotation, frames.rotation, atol=1e-9)
    assert torch.equal(frames.rotation[:, 9], frames.rotation[:, 8])
    assert torch.equal(frames.rotation[:, 10], frames.rotation[:, 11])


def test_a_missing_residue_breaks_the_trace_like_a_chain_break(walk: Tensor) -> None:
    mask, bonded = _everything(24)
    mask[0, 9] = False
    poisoned = walk[:1].clone()
    poisoned[0, 9] = float("nan")
    frames = ca_frames(poisoned, mask, bonded)
    assert frames.rotation.isfinite().all()
    assert torch.equal(frames.rotation[0, 8], frames.rotation[0, 7])
    assert torch.equal(frames.rotation[0, 10], frames.rotation[0, 11])
    assert torch.equal(frames.rotation[0, 9], torch.eye(3, dtype=torch.float64))
    assert ca_frame_mask(mask, bonded)[0].tolist() == [i != 9 for i in range(24)]


def test_segments_of_one_and_two_residues_have_the_identity(walk: Tensor) -> None:
    mask, bonded = _everything(24, 0, 2)
    frames, valid = ca_frames(walk[:1], mask, bonded), ca_frame_mask(mask, bonded)
    assert torch.equal(frames.rotation[0, :3], torch.eye(3, dtype=torch.float64).expand(3, 3, 3))
    assert valid[0].tolist() == [False] * 3 + [True] * 21


def test_the_smallest_triplet_serves_three_residues(walk: Tensor) -> None:
    mask, bonded = _everything(3)
    frames = ca_frames(walk[:1, :3], mask, bonded)
    assert torch.equal(frames.rotation[0, 0], frames.rotation[0, 1])
    assert torch.equal(frames.rotation[0, 2], frames.rotation[0, 1])


@pytest.mark.parametrize("length", [1, 2])
def test_chains_too_short_for_a_triplet_have_the_identity(length: int) -> None:
    mask, bonded = _everything(length)
    frames = ca_frames(torch.randn(1, length, 3), mask, bonded)
    assert torch.equal(frames.rotation[0], torch.eye(3).expand(length, 3, 3))
    assert not ca_frame_mask(mask, bonded).any()


def test_padding_does_not_change_the_frames_of_a_chain(walk: Tensor) -> None:
    mask, bonded = _everything(24)
    padded = torch.cat((walk[:1], torch.full((1, 6, 3), 1e4, dtype=torch.float64)), dim=1)
    longer = [torch.cat((x, torch.zeros(1, 6, dtype=torch.bool)), dim=1) for x in (mask, bonded)]
    alone, beside = ca_frames(walk[:1], mask, bonded), ca_frames(padded, *longer)
    assert torch.equal(beside.rotation[:, :24], alone.rotation)
    assert not ca_frame_mask(*longer)[:, 24:].any()


def test_a_chain_collapsed_to_a_point_has_finite_gradients() -> None:
    mask, bonded = _everything(8)
    assert _gradient(lambda x: ca_frames(x, mask, bonded).rotation, torch.zeros(1, 8, 3)).isfinite().all()


def test_real_backbone_frames_have_carbonyl_carbon_on_x_and_nitrogen_at_positive_y(
    real_backbones: list[Tensor],
) -> None:
    """The means are the ideal residue's: Cα–C 1.523 Å, N–Cα 1.458 Å, N–Cα–C 111.0° (Engh & Huber 1991)."""
    n, ca, c = torch.cat(real_backbones).unbind(1)[:3]
    frames = backbone_frames(n, ca, c)
    local_c, local_n = to_local(frames, c), to_local(frames, n)
    assert local_c[:, 1:].abs().max() < 1e-4 and local_n[:, 2].abs().max() < 1e-4
    assert local_c[:, 0].min() > 0 and local_n[:, 1].min() > 0
    assert torch.allclose(local_c.mean(0), torch.tensor([1.523, 0.0, 0.0]), atol=0.02)
    ideal_n = torch.tensor([math.cos(math.radians(111.0)), math.sin(math.radians(111.0)), 0.0]) * 1.458
    assert torch.allclose(local_n.mean(0), ideal_n, atol=0.02)


# --- algebra ------------------------------------------------------------------------------------


def _frames(n: int) -> Frames:
    return Frames(random_rotations(n, dtype=torch.float64), torch.randn(n, 3, dtype=torch.float64))


def test_to_local_undoes_to_global() -> None:
    frames, points = _frames(10), torch.randn(10, 3, dtype=torch.float64)
    assert torch.allclose(to_local(frames, to_global(frames, points)), points)


def test_a_composed_frame_applies_the_second_one_first() -> None:
    a, b, points = _frames(10), _frames(10), torch.randn(10, 3, dtype=torch.float64)
    assert torch.allclose(to_global(compose(a, b), points), to_global(a, to_global(b, points)))


def test_every_frame_sees_every_point_by_broadcasting() -> None:
    frames, points = _frames(4), torch.randn(6, 3, dtype=torch.float64)
    local = to_local(Frames(frames.rotation[:, None], frames.translation[:, None]), points[None])
    assert local.shape == (4, 6, 3)
    assert torch.allclose(local[2, 5], frames.rotation[2].T @ (points[5] - frames.translation[2]))


# --- quaternions and angles ---------------------------------------------------------------------


def test_the_zero_update_is_the_identity() -> None:
    assert torch.equal(rotation_from_quaternion_update(torch.zeros(2, 3)), torch.eye(3).expand(2, 3, 3))


def test_a_quaternion_update_turns_by_twice_the_arctangent_of_its_length() -> None:
    update = torch.tensor([0.0, 0.0, 0.5], dtype=torch.float64)
    angle = 2 * math.atan(0.5)
    turned = rotation_from_quaternion_update(update) @ torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert torch.allclose(turned, torch.tensor([math.cos(angle), math.sin(angle), 0.0], dtype=torch.float64))


def test_quaternion_updates_are_proper_rotations_even_when_huge() -> None:
    assert _is_rotation(rotation_from_quaternion_update(torch.randn(50, 3)))
    assert _is_rotation(rotation_from_quaternion_update(torch.randn(50, 3) * 1e4))


@pytest.mark.parametrize("degrees", [0.0, 1e-4, 0.1, 30.0, 119.0, 121.0, 179.0, 179.9999, 180.0])
@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 1.0])
def test_slerp_turns_by_its_fraction_about_the_same_axis(degrees: float, fraction: float) -> None:
    axis = torch.nn.functional.normalize(torch.randn(20, 3, dtype=torch.float64), dim=-1)
    whole = roma.rotvec_to_rotmat(axis * math.radians(degrees))
    part = slerp_from_identity(whole, torch.tensor(fraction, dtype=torch.float64))
    expected = roma.rotvec_to_rotmat(axis * math.radians(degrees) * fraction)
    if degrees == 180.0:  # both ways are equally short
        other = roma.rotvec_to_rotmat(-axis * math.pi * fraction)
        error = torch.minimum((part - expected).abs().amax((-1, -2)), (part - other).abs().amax((-1, -2)))
        assert error.max() < 1e-7
    else:
        assert torch.allclose(part, expected, atol=1e-7)


@pytest.mark.parametrize("degrees", [0.0, 1e-6, 90.0, 180.0])
def test_slerp_has_finite_gradients_at_every_angle(degrees: float) -> None:
    axes = torch.cat((torch.eye(3), torch.nn.functional.normalize(torch.randn(20, 3), dim=-1)))
    whole = roma.rotvec_to_rotmat(axes * math.radians(degrees))
    fraction = torch.full((23,), 0.3)
    assert _gradient(lambda r: slerp_from_identity(r, fraction), whole).isfinite().all()
    assert _gradient(lambda f: slerp_from_identity(whole, f), fraction).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_slerp_gives_rotations_under_autocast(dtype: torch.dtype) -> None:
    with torch.autocast("cpu", dtype=dtype):
        part = slerp_from_identity(random_rotations(50), torch.rand(50))
    assert _is_rotation(part)


def test_one_fraction_a_chain_broadcasts_over_its_residues() -> None:
    rotation = random_rotations(6).view(2, 3, 3, 3)
    part = slerp_from_identity(rotation, torch.tensor([[0.0], [1.0]]))
    assert torch.allclose(part[0], torch.eye(3).expand(3, 3, 3), atol=1e-6)
    assert torch.allclose(part[1], rotation[1], atol=1e-6)


def test_the_angle_cosine_is_that_of_the_turn_between_two_rotations() -> None:
    base = random_rotations(30, dtype=torch.float64)
    angle = torch.linspace(0, math.pi, 30, dtype=torch.float64)
    axis = torch.nn.functional.normalize(torch.randn(30, 3, dtype=torch.float64), dim=-1)
    turn = roma.rotvec_to_rotmat(axis * angle[:, None])
    assert torch.allclose(rotation_angle_cosine(base, base @ turn), angle.cos(), atol=1e-10)


def test_random_rotations_are_proper_uniform_and_repeatable() -> None:
    """Uniform on SO(3): every matrix element has mean 0, and E[trace] = 0."""
    first = random_rotations(20_000, torch.Generator().manual_seed(3))
    assert _is_rotation(first)
    assert first.mean(0).abs().max() < 0.02
    assert torch.equal(first, random_rotations(20_000, torch.Generator().manual_seed(3)))
