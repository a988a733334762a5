"""Superpositions from sums are the ones that a singular value decomposition finds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from minifold_pl.geometry.superpose import kabsch
from minifold_pl.metrics import moments
from minifold_pl.metrics.moments import (
    SUMS,
    nearest_rotation,
    residue_features,
    rigid_motion,
    squared_distance_rows,
)


def sums_of(mobile: Tensor, target: Tensor) -> Tensor:
    return residue_features(mobile, target)[..., :SUMS].sum(-2).T


def proper_rotation_by_svd(b: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(b)
    hand = torch.ones(len(b), 3, dtype=b.dtype)
    hand[:, 2] = torch.det(u @ vh).sign()
    return (u * hand[:, None]) @ vh


@pytest.mark.parametrize("count", [3, 4, 10, 100])
@pytest.mark.parametrize("how", ["unrelated", "noisy", "mirrored"])
def test_the_motion_is_that_of_kabsch(count, how):
    target = 10 * torch.randn(50, count, 3, dtype=torch.float64)
    noise = torch.randn_like(target)
    mobile = {"unrelated": 10 * noise, "noisy": target + noise, "mirrored": noise - target}[how] + 30
    rotation, translation = rigid_motion(sums_of(mobile, target))
    expected = kabsch(mobile, target, torch.ones(50, count, dtype=torch.bool))
    torch.testing.assert_close(rotation.movedim(-1, 0), expected.rotation, atol=1e-6, rtol=0)
    torch.testing.assert_close(translation.T, expected.translation, atol=1e-4, rtol=0)


def test_squared_distances_are_those_of_the_moved_points():
    mobile, target = 10 * torch.randn(2, 8, 20, 3, dtype=torch.float64)
    rotation, translation = rigid_motion(sums_of(mobile, target))
    squared = residue_features(mobile, target) @ squared_distance_rows(rotation, translation).T.unsqueeze(-1)
    moved = mobile @ rotation.permute(2, 1, 0) + translation.T[:, None]
    torch.testing.assert_close(squared.squeeze(-1), (moved - target).square().sum(-1))


def test_a_rotation_is_found_for_every_kind_of_covariance_and_is_proper():
    identity = torch.eye(3, dtype=torch.float64)
    kinds = torch.stack(
        [
            identity,  # three equal singular values
            -identity,  # and a mirror: any half turn is as good
            torch.diag(torch.tensor([1.0, 1, 0], dtype=torch.float64)),  # points in a plane
            torch.diag(torch.tensor([1.0, 0, 0], dtype=torch.float64)),  # on a line
            torch.zeros(3, 3, dtype=torch.float64),  # in one place
            torch.diag(torch.tensor([3.0, 2, -2], dtype=torch.float64)),  # a double root
            torch.diag(torch.tensor([3.0, 2, -2 + 1e-9], dtype=torch.float64)),
            1e-12 * identity,
            1e12 * identity,
        ]
    )
    rotation = nearest_rotation(kinds.movedim(0, -1)).movedim(-1, 0)
    torch.testing.assert_close(rotation @ rotation.mT, identity.expand_as(kinds), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        torch.det(rotation), torch.ones(len(kinds), dtype=torch.float64), atol=1e-5, rtol=0
    )
    # Where several rotations are as good, all that counts is the overlap.
    overlap = (rotation * kinds).sum((1, 2))
    best = (proper_rotation_by_svd(kinds) * kinds).sum((1, 2))
    torch.testing.assert_close(overlap, best, rtol=1e-6, atol=1e-12)


def test_the_slow_way_is_rarely_taken(monkeypatch):
    taken = []
    slow = moments._rotation_by_svd
    monkeypatch.setattr(moments, "_rotation_by_svd", lambda b: taken.append(b.shape[-1]) or slow(b))
    nearest_rotation(torch.randn(3, 3, 20_000, dtype=torch.float64))
    assert sum(taken) < 100


def test_weighted_sums_give_the_weighted_superposition():
    mobile, target = 10 * torch.randn(2, 1, 12, 3, dtype=torch.float64)
    weight = torch.rand(1, 12, 1, dtype=torch.float64)
    sums = (weight * residue_features(mobile, target)[..., :SUMS]).sum(-2).T

    def error(rotation: Tensor, translation: Tensor) -> float:
        moved = mobile @ rotation[..., 0].T + translation[:, 0]
        return float((weight * (moved - target).square()).sum())

    rotation, translation = rigid_motion(sums)
    least = error(rotation, translation)
    for axis in range(3):
        for step in (-1e-3, 1e-3):
            shifted = translation.clone()
            shifted[axis] += step
            assert error(rotation, shifted) > least
            turn = torch.matrix_exp(
                step * torch.linalg.cross(torch.eye(3)[axis].expand(3, 3), torch.eye(3)).double()
            )
            assert error((turn @ rotation[..., 0])[..., None], (turn @ translation)) >= least - 1e-9
