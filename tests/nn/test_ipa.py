from __future__ import annotations

import pytest
import torch

from minifold_pl.geometry.frames import random_rotations
from minifold_pl.nn.ipa import FrameUpdate, InvariantPointAttention
from minifold_pl.types import Frames


@pytest.fixture
def ipa(reawaken):
    return reawaken(InvariantPointAttention(24, 10, heads=3, d_head=8, query_points=4, value_points=5))


def inputs(make_frames, mask, scale=1.0):
    b, n = mask.shape
    return torch.randn(b, n, 24), torch.randn(b, n, n, 10), make_frames(b, n, scale)


def doubled(single, pair, frames):
    return single.double(), pair.double(), Frames(*(x.double() for x in frames))


def test_the_fast_form_agrees_with_algorithm_22(ipa, textbook, make_frames, make_mask):
    mask = make_mask()
    args = doubled(*inputs(make_frames, mask))
    ipa.double()
    fast, plain = ipa(*args, mask), textbook(ipa)(*args, mask)
    assert torch.allclose(fast, plain, rtol=1e-10, atol=1e-11)


def test_so_do_its_gradients(ipa, textbook, make_frames, make_mask):
    mask = make_mask()
    args = doubled(*inputs(make_frames, mask))
    ipa.double()
    direction = torch.randn(3, 14, 24, dtype=torch.float64)
    leaves = (*(a.requires_grad_() for a in (args[0], args[1], *args[2])), *ipa.parameters())
    fast = torch.autograd.grad((ipa(*args, mask) * direction).sum(), leaves)
    plain = torch.autograd.grad((textbook(ipa)(*args, mask) * direction).sum(), leaves)
    for a, b in zip(fast, plain, strict=True):
        assert torch.allclose(a, b, rtol=1e-7, atol=1e-9)


def test_a_pair_bias_computed_before_changes_nothing(ipa, make_frames, make_mask):
    mask = make_mask()
    single, pair, frames = inputs(make_frames, mask)
    bias = ipa.bias_from_pair(pair)
    assert torch.equal(ipa(single, pair, frames, mask, bias), ipa(single, pair, frames, mask))
    assert not torch.equal(
        ipa(single, pair, frames, mask, bias + pair[..., 0].unsqueeze(1)), ipa(single, pair, frames, mask)
    )


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_single_precision_is_within_a_millionth_of_double(offset, reawaken, textbook, make_frames, make_mask):
    ipa = reawaken(
        InvariantPointAttention(64, 32, heads=4, d_head=16, query_points=8, value_points=12), scale=0.5
    )
    mask = make_mask((60, 47))
    single, pair, frames = torch.randn(2, 60, 64), torch.randn(2, 60, 60, 32), make_frames(2, 60)
    # an exact power-of-two grid, so that the offset itself rounds nothing
    place = (frames.translation * 1024).round() / 1024 + offset
    args = (single, pair, Frames(frames.rotation, place))
    low = ipa(*args, mask)
    exact = textbook(ipa.double())(*doubled(*args), mask)
    assert (low - exact).norm() / exact.norm() < 1e-6


def test_it_is_invariant_under_rigid_motion(ipa, make_frames, make_mask):
    mask = make_mask()
    single, pair, frames = inputs(make_frames, mask)
    q, shift = random_rotations(1)[0], torch.randn(3)
    moved = Frames(q @ frames.rotation, frames.translation @ q.T + shift)
    assert torch.allclose(ipa(single, pair, frames, mask), ipa(single, pair, moved, mask), atol=1e-4)


def test_it_sees_the_hand_of_the_chain(ipa, make_frames, make_mask):
    mask = make_mask()
    single, pair, frames = inputs(make_frames, mask)
    mirrored = Frames(frames.rotation, -frames.translation)
    assert not torch.allclose(ipa(single, pair, frames, mask), ipa(single, pair, mirrored, mask), atol=1e-2)


def test_masked_residues_do_not_reach_the_others_and_get_zero(ipa, make_frames, make_mask):
    mask = make_mask()
    single, pair, frames = inputs(make_frames, mask)
    out = ipa(single, pair, frames, mask)
    both = (mask[:, :, None] & mask[:, None])[..., None]
    junk = torch.where(mask[..., None], single, 50.0), torch.where(both, pair, -50.0)
    far = Frames(frames.rotation, torch.where(mask[..., None], frames.translation, 999.0))
    assert torch.equal(out, ipa(*junk, far, mask))
    assert out[~mask].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_residues_ten_thousand_angstrom_apart_stay_finite(dtype, ipa, make_frames, make_mask):
    mask = make_mask((14, 9, 0))
    single, pair, frames = inputs(make_frames, mask)
    place = frames.translation.clone()
    place[:, 3], place[:, 7] = 1e3, -1e3  # model units
    place.requires_grad_()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        out = ipa(single, pair, Frames(frames.rotation, place), mask)
    out.float().square().sum().backward()
    assert out.isfinite().all()
    assert place.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in ipa.parameters())


def test_half_precision_stays_near_single(ipa, make_frames, make_mask):
    mask = make_mask()
    args = inputs(make_frames, mask)
    exact = ipa(*args, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = ipa(*args, mask).float()
    assert (rounded - exact).norm() / exact.norm() < 0.02


def test_the_frame_update_turns_with_the_chain(reawaken, make_frames, make_mask):
    update, mask = reawaken(FrameUpdate(24, 16)), make_mask()
    single, frames = torch.randn(3, 14, 24), make_frames(3, 14)
    q, shift = random_rotations(1)[0], torch.randn(3)
    moved = update(single, Frames(q @ frames.rotation, frames.translation @ q.T + shift), mask)
    still = update(single, frames, mask)
    assert torch.allclose(moved.rotation, q @ still.rotation, atol=1e-5)
    assert torch.allclose(moved.translation, still.translation @ q.T + shift, atol=1e-5)


@pytest.mark.parametrize("hidden", [16, 0])
def test_the_frame_update_starts_near_the_identity_but_not_at_it(hidden, make_frames, make_mask):
    update, mask = FrameUpdate(24, hidden), make_mask()
    single, frames = torch.randn(3, 14, 24), make_frames(3, 14)
    new = update(single, frames, mask)
    moved = (new.translation - frames.translation)[mask].norm(dim=-1).mean()
    assert 0 < moved < 0.05
    cosine = (torch.einsum("blxy,blxy->bl", new.rotation, frames.rotation)[mask] - 1) / 2
    assert cosine.min() > 0.99


def test_the_frame_update_keeps_rotations_proper_and_masked_frames_still(reawaken, make_frames, make_mask):
    update, mask = reawaken(FrameUpdate(24, 16)), make_mask()
    frames = make_frames(3, 14)
    new = update(torch.randn(3, 14, 24), frames, mask)
    assert torch.allclose(new.rotation.mT @ new.rotation, torch.eye(3).expand(3, 14, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(new.rotation), torch.ones(3, 14), atol=1e-5)
    assert torch.allclose(new.rotation[~mask], frames.rotation[~mask], atol=1e-6)
    assert torch.equal(new.translation[~mask], frames.translation[~mask])
