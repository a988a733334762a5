from __future__ import annotations

import math

import roma
import torch

from minifold_pl.geometry.frames import random_rotations
from minifold_pl.losses.frame_rotation import frame_rotation_loss


def test_random_rotations_score_1_5_and_not_1() -> None:
    """E[cosθ] = -1/2 for the uniform distribution on SO(3)."""
    pred, true = random_rotations(40_000).view(2, 4, 5_000, 3, 3)
    assert abs(frame_rotation_loss(pred, true, torch.ones(4, 5_000, dtype=torch.bool)).item() - 1.5) < 0.01


def test_the_loss_is_one_minus_the_cosine_of_the_angle() -> None:
    true = random_rotations(1, dtype=torch.float64).view(1, 1, 3, 3)
    for degrees in (0.0, 1.0, 90.0, 180.0):
        turn = roma.rotvec_to_rotmat(torch.tensor([0.0, math.radians(degrees), 0.0], dtype=torch.float64))
        loss = frame_rotation_loss(turn @ true, true, torch.ones(1, 1, dtype=torch.bool))
        assert abs(loss.item() - (1 - math.cos(math.radians(degrees)))) < 1e-12
