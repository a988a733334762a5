from __future__ import annotations

import roma
import torch
from torch import Tensor

from minifold_pl.geometry.frames import random_rotations
from minifold_pl.geometry.superpose import kabsch, superpose


def test_a_moved_chain_is_brought_back_exactly(walk: Tensor) -> None:
    turn = random_rotations(2, dtype=torch.float64)
    moved = walk @ turn.mT + torch.tensor([40.0, -3.0, 8.0], dtype=torch.float64)
    mask = torch.ones(2, 24, dtype=torch.bool)
    assert torch.allclose(superpose(walk, moved, mask), moved, atol=1e-9)
    assert torch.allclose(kabsch(walk, moved, mask).rotation, turn, atol=1e-9)


def test_the_fit_agrees_with_roma_on_noisy_chains(walk: Tensor) -> None:
    target = walk.flip(0) + torch.randn_like(walk)
    mask = torch.ones(2, 24, dtype=torch.bool)
    rotation, translation = roma.rigid_points_registration(walk, target)
    motion = kabsch(walk, target, mask)
    assert torch.allclose(motion.rotation, rotation, atol=1e-8)
    assert torch.allclose(motion.translation, translation, atol=1e-7)


def test_a_mirror_image_is_not_fitted_by_a_reflection(walk: Tensor) -> None:
    mirrored = walk * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    mask = torch.ones(2, 24, dtype=torch.bool)
    assert torch.allclose(
        torch.linalg.det(kabsch(mirrored, walk, mask).rotation), torch.ones(2, dtype=torch.float64)
    )
    assert (superpose(mirrored, walk, mask) - walk).pow(2).sum(-1).mean() > 1.0


def test_masked_residues_have_no_say_and_may_hold_anything(walk: Tensor) -> None:
    mask = torch.arange(24).expand(2, -1) < 15
    turn = random_rotations(1, dtype=torch.float64)[0]
    target = walk @ turn.T + 2
    target[:, 15:] = float("nan")
    mobile = walk.clone()
    mobile[:, 20] = float("inf")
    assert torch.allclose(kabsch(mobile, target, mask).rotation, turn.expand(2, 3, 3), atol=1e-9)


def test_an_empty_mask_gives_the_identity(walk: Tensor) -> None:
    motion = kabsch(walk, walk + 1, torch.zeros(2, 24, dtype=torch.bool))
    assert torch.equal(motion.rotation, torch.eye(3, dtype=torch.float64).expand(2, 3, 3))
    assert torch.equal(motion.translation, torch.zeros(2, 3, dtype=torch.float64))


def test_flat_and_straight_chains_still_get_proper_rotations() -> None:
    line = torch.arange(6.0)[None, :, None] * torch.tensor([1.0, 0.0, 0.0])
    mask = torch.ones(1, 6, dtype=torch.bool)
    turn = random_rotations(1)[0]
    motion = kabsch(line, line @ turn.T, mask)
    assert torch.allclose(torch.linalg.det(motion.rotation), torch.ones(1), atol=1e-5)
    assert torch.allclose(superpose(line, line @ turn.T, mask), line @ turn.T, atol=1e-5)


def test_half_precision_input_is_fitted_in_float32(walk: Tensor) -> None:
    mask = torch.ones(2, 24, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        motion = kabsch(walk.half(), walk.half(), mask)
    assert motion.rotation.dtype == torch.float32
    assert torch.allclose(motion.rotation, torch.eye(3).expand(2, 3, 3), atol=1e-4)
