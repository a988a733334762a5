"""Lessons 1 to 4: where the write-up's NaN came from."""

from __future__ import annotations

import pytest
import torch

from minifold_pl.constants import PAD
from minifold_pl.geometry.frames import gram_schmidt, slerp_from_identity
from minifold_pl.losses.ca_geometry import bond_angle_loss, chirality_loss
from minifold_pl.losses.distance import distance_mse
from minifold_pl.nn import triangle
from minifold_pl.nn.ipa import InvariantPointAttention
from minifold_pl.types import Frames


def test_lesson_01_the_null_condition_keeps_the_attention_mask(
    holds, mistake, diffusion, monkeypatch
) -> None:
    """PAD as null token: ``ids != PAD`` is false everywhere, and an attention over nothing is NaN.

    Put back by null tokens that are all PAD. Our attention over nothing is finite: the mask is what fails then.
    """
    if mistake:
        monkeypatch.setattr("minifold_pl.modules.draws.null_tokens", torch.zeros_like)
    diffusion.p_uncond = 1.0
    batch = diffusion.example_batch(2, 12)
    with holds():
        tokens = diffusion._drop_conditions(batch, epoch=0)
        assert not torch.equal(tokens, batch.tokens)
        assert torch.equal(tokens != PAD, batch.tokens != PAD)
        features = diffusion.encode(tokens)
        assert features.single.isfinite().all()
        assert features.pair.isfinite().all()


@pytest.mark.usefixtures("without_fp32_island")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_lesson_02_frames_of_nearly_straight_chains_are_rotations_under_autocast(holds, dtype) -> None:
    """The guards of a normalisation underflow in fp16. Put back by leaving geometry inside autocast."""
    straight = torch.tensor([[0.0, 0.0, 0.0], [0.22, 0.24, -0.19], [0.441, 0.479, -0.38]], dtype=dtype)
    a, b, c = straight.clone().requires_grad_().unbind(0)
    with torch.autocast("cpu", dtype=dtype):
        rotation = gram_schmidt(a, b, c)
        half = slerp_from_identity(rotation, torch.tensor(0.5, dtype=dtype))
    with holds():
        for found in (rotation.float(), half.float()):
            assert (found @ found.mT - torch.eye(3)).abs().max() < 1e-5
        gradient = torch.autograd.grad(half.sum(), (a, b, c))
        assert all(g.isfinite().all() for g in gradient)


@pytest.mark.usefixtures("without_fp32_island")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", [distance_mse, bond_angle_loss, chirality_loss])
def test_lesson_02_losses_under_autocast_are_those_of_full_precision(holds, dtype, loss) -> None:
    """Small squared errors underflow and distances of far residues overflow. Put back as above."""
    torch.manual_seed(0)
    true = torch.randn(1, 24, 3).cumsum(1) * 0.25
    true[0, -1] = 400.0  # model units: its square is beyond fp16
    guess = true + 1e-3 * torch.randn_like(true)
    mask = torch.ones(1, 24, dtype=torch.bool)
    chain = (mask, mask) if loss is not distance_mse else (mask,)
    half = [x.to(dtype) for x in (guess, true)]
    expected = loss(*(x.float() for x in half), *chain)
    with holds(), torch.autocast("cpu", dtype=dtype):
        found = loss(*half, *chain).float()
        assert found.isfinite()
        assert torch.isclose(found, expected, rtol=1e-3)


@pytest.mark.usefixtures("without_fp32_island")
def test_lesson_03_point_attention_to_residues_ten_thousand_angstrom_away_is_finite(holds) -> None:
    """Squared distances of points overflow in the softmax. Put back by leaving them inside autocast."""
    torch.manual_seed(0)
    attention = InvariantPointAttention(16, 8, heads=2, d_head=8, query_points=4, value_points=4)
    torch.nn.init.normal_(attention.out.weight, std=0.1)
    place = torch.randn(1, 10, 3)
    place[0, 3], place[0, 7] = 1e3, -1e3  # model units
    place = place.half().requires_grad_()
    frames = Frames(torch.eye(3, dtype=torch.float16).expand(1, 10, 3, 3), place)
    mask = torch.ones(1, 10, dtype=torch.bool)
    with holds():
        with torch.autocast("cpu", dtype=torch.float16):
            out = attention(torch.randn(1, 10, 16), torch.randn(1, 10, 10, 8), frames, mask)
        assert out.isfinite().all()
        assert torch.autograd.grad(out.float().square().sum(), place)[0].isfinite().all()


@pytest.mark.usefixtures("without_fp32_island")
def test_lesson_03_a_triangle_sum_over_512_residues_is_finite(holds, mistake, monkeypatch) -> None:
    """The sum of 512 products passes fp16's 65504. Put back by summing in fp16 without the clamp to ±1e4."""
    if mistake:
        monkeypatch.setattr(triangle, "LARGEST_SUM", float("inf"))
    module = triangle.TriangleMultiplication(4, 2, True)
    with torch.no_grad():  # every edge is about 20: the sum is 512 · 400 = 2e5
        module.edges.weight.zero_()
        module.edges.bias.fill_(20.0)
        module.out.weight.normal_()
    pair = torch.randn(1, 512, 512, 4)
    with holds(), torch.autocast("cpu", dtype=torch.float16):
        assert module(pair, torch.ones(1, 512, dtype=torch.bool)).isfinite().all()


def test_lesson_04_the_distance_of_coincident_points_has_a_gradient(holds, mistake, monkeypatch) -> None:
    """The root of 0 has an infinite derivative, and masked residues all lie at the origin.

    Put back by distances without the 1e-10 under the root.
    """
    if mistake:
        monkeypatch.setattr(
            "minifold_pl.losses.distance.pairwise_distances",
            lambda x: (x.unsqueeze(-2) - x.unsqueeze(-3)).square().sum(-1).sqrt(),
        )
    torch.manual_seed(0)
    true = torch.randn(1, 12, 3)
    guess = torch.randn(1, 12, 3)
    guess[0, 4] = guess[0, 5]
    guess[0, 9:] = 0.0
    guess.requires_grad_()
    mask = torch.arange(12)[None] < 9
    with holds():
        loss = distance_mse(guess, true, mask)
        assert loss.isfinite()
        assert torch.autograd.grad(loss, guess)[0].isfinite().all()
