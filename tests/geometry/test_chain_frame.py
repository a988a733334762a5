"""The axes of a whole chain."""

from __future__ import annotations

import pytest
import torch

from minifold_pl.geometry.chain_frame import chain_rotation
from minifold_pl.geometry.frames import ca_frames, random_rotations


@pytest.fixture
def chains() -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.arange(20) < torch.tensor([[20], [13], [3]])
    mask[1, 4] = False
    return torch.randn(3, 20, 3, dtype=torch.float64).cumsum(1), mask


def test_the_axes_are_a_proper_rotation_that_turns_with_the_chain(chains) -> None:
    x, mask = chains
    axes = chain_rotation(x, mask)
    identity = torch.eye(3, dtype=x.dtype).expand(3, 3, 3)
    torch.testing.assert_close(axes @ axes.mT, identity)
    torch.testing.assert_close(torch.linalg.det(axes), torch.ones(3, dtype=x.dtype))
    for q in random_rotations(4, dtype=torch.float64):
        torch.testing.assert_close(chain_rotation(x @ q.T + 7, mask), q @ axes)


def test_a_mirror_image_has_axes_that_no_rotation_takes_it_to(chains) -> None:
    x, mask = chains
    flip = torch.tensor([1.0, 1.0, -1.0], dtype=x.dtype)
    here, there = (torch.einsum("blx,bxy->bly", y, chain_rotation(y, mask)) for y in (x, x * flip))
    torch.testing.assert_close(there[..., :2], here[..., :2])
    torch.testing.assert_close(there[..., 2], -here[..., 2])


def test_padding_and_masked_residues_do_not_matter(chains) -> None:
    x, mask = chains
    broken = torch.where(mask[..., None], x, torch.nan)
    torch.testing.assert_close(chain_rotation(broken, mask), chain_rotation(x, mask))
    torch.testing.assert_close(chain_rotation(x[1:2, :13], mask[1:2, :13]), chain_rotation(x, mask)[1:2])


def test_noise_turns_the_axes_of_a_chain_less_than_those_of_its_residues() -> None:
    """At SNR 1 by a median of 20°, a residue's own frame by 76°."""
    steps = torch.nn.functional.normalize(torch.randn(64, 100, 3), dim=-1)
    x = (0.38 * steps).cumsum(1)
    noised = x + x.std() * torch.randn_like(x)
    mask = torch.ones(64, 100, dtype=torch.bool)
    own = (ca_frames(y, mask, mask).rotation for y in (x, noised))
    chain, residue = (
        ((a.mT @ b).diagonal(dim1=-2, dim2=-1).sum(-1) / 2 - 0.5).clamp(-1, 1).acos().rad2deg().median()
        for a, b in ((chain_rotation(x, mask), chain_rotation(noised, mask)), tuple(own))
    )
    assert chain < 30 and residue > 60


@pytest.mark.parametrize("length", [0, 1, 2])
def test_the_shortest_chains_have_some_axes_and_finite_gradients(length: int) -> None:
    x = torch.randn(1, 5, 3, requires_grad=True)
    axes = chain_rotation(x, torch.arange(5)[None] < length)
    torch.testing.assert_close(axes @ axes.mT, torch.eye(3)[None])
    axes.sum().backward()
    assert x.grad.isfinite().all()
