from itertools import pairwise

import pytest
import torch

from minifold_pl.metrics import pose_polish, pose_scorer, pose_search
from minifold_pl.metrics.gdt import gdt_ha_kabsch, gdt_ts_kabsch
from minifold_pl.metrics.tm import tm_d0, tm_from_distances, tm_kabsch
from minifold_pl.metrics.tm_search import searched_scores, tm_score


@pytest.fixture
def pair(make_batch, make_walk):
    true, mask = make_batch([make_walk(40), make_walk(25)])
    return true + 2 * torch.randn_like(true), true, mask


def tmtools_scores(pred, true):
    """For one pair: TM of the identity alignment, and TM-align's own pose scored with that alignment."""
    tmtools = pytest.importorskip("tmtools")
    a, b = pred.double().numpy(), true.double().numpy()
    sequence = "A" * len(b)
    fixed = tmtools.tm_align(a, b, sequence, sequence, [sequence, sequence])
    realigned = tmtools.tm_align(a, b, sequence, sequence)
    moved = torch.from_numpy(a @ realigned.u.T + realigned.t)
    squared = (moved - true.double()).square().sum(-1)
    d0 = tm_d0(torch.tensor(len(b))).double()
    return fixed.tm_norm_chain2, (1 / (1 + squared / d0**2)).mean().item()


def distorted(true, how):
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(true.shape, generator=generator)
    return {
        "another chain": true.roll(1, 0),
        "mirrored": -true,
        "noisy": true + 2 * noise,
        "too large": 1.3 * true,
        "drifting": true + noise.cumsum(1),
    }[how]


@pytest.mark.parametrize("length", [12, 22, 40, 60, 100])
@pytest.mark.parametrize("how", ["another chain", "mirrored", "noisy", "too large", "drifting"])
def test_unpolished_tm_score_is_that_of_tmtools_for_the_identity_alignment(
    real_chains, make_batch, how, length, monkeypatch
):
    true, mask = make_batch([chain[:length] for chain in real_chains if len(chain) >= length][:12])
    pred = distorted(true, how)
    theirs = [tmtools_scores(p, t) for p, t in zip(pred, true, strict=True)]
    fixed = torch.tensor([pair[0] for pair in theirs])
    polished = tm_score(pred, true, mask)
    monkeypatch.setattr(pose_polish, "_STEPS", 0)
    # The same starting runs and the same steps from each, so the same value, to rounding at a cutoff.
    torch.testing.assert_close(tm_score(pred, true, mask), fixed, atol=5e-4, rtol=0)
    assert (polished > fixed - 5e-4).all()
    # TM-align's own pose comes from another search: it may win a single chain by a little, not on average.
    assert polished.mean() > torch.tensor([pair[1] for pair in theirs]).mean() - 0.01


def test_the_last_climb_reaches_a_maximum(real_chains, make_batch, monkeypatch):
    true, mask = make_batch([chain[:60] for chain in real_chains if len(chain) >= 60][:12])
    pred = distorted(true, "noisy")
    by_steps = []
    for steps in (0, 1, 10, 200):
        monkeypatch.setattr(pose_polish, "_STEPS", steps)
        by_steps.append(tm_score(pred, true, mask))
    for fewer, more in pairwise(by_steps):
        assert (more >= fewer - 1e-6).all()
    assert (by_steps[3] - by_steps[0]).max() > 1e-3
    assert (by_steps[3] - by_steps[2]).max() < 5e-3


def test_unrelated_real_chains_score_as_the_literature_says(real_chains, make_batch):
    windows = [chain[:100] for chain in real_chains if len(chain) >= 100]
    true, mask = make_batch(windows[:24])
    # Measured before: 0.156 to 0.187 for random pairs of 60 to 125 residues.
    assert 0.15 < tm_score(true.roll(1, 0), true, mask).mean() < 0.19


def test_truth_scores_one_and_its_mirror_does_not(pair):
    _, true, mask = pair
    for score in searched_scores(true, true, mask)[:3]:
        torch.testing.assert_close(score, torch.ones(2), atol=1e-5, rtol=0)
    for score in searched_scores(-true, true, mask)[:3]:
        assert (score < 0.8).all()


def test_search_is_never_below_the_pose_of_least_rmsd(pair):
    best = searched_scores(*pair)
    assert (best.tm >= tm_kabsch(*pair) - 1e-5).all()
    assert (best.gdt_ts >= gdt_ts_kabsch(*pair) - 1e-5).all()
    assert (best.gdt_ha >= gdt_ha_kabsch(*pair) - 1e-5).all()


def test_good_half_is_found_where_least_rmsd_compromises(make_batch, make_walk):
    true, mask = make_batch([make_walk(100)])
    pred = true.clone()
    pred[0, 60:] += torch.tensor([60.0, 0.0, 0.0])
    assert tm_kabsch(pred, true, mask) < 0.1
    assert tm_score(pred, true, mask) > 0.6
    # 60 of 100 residues fit exactly.
    assert searched_scores(pred, true, mask).gdt_ha.item() == pytest.approx(0.6, abs=0.05)


def test_rigid_motion_changes_nothing(pair, rotation):
    pred, true, mask = pair
    moved = pred @ rotation.T + torch.tensor([200.0, -80.0, 50.0])
    torch.testing.assert_close(tm_score(moved, true, mask), tm_score(pred, true, mask), atol=2e-3, rtol=0)


@pytest.mark.parametrize("filling", [1e4, float("nan")])
def test_masked_residues_change_nothing(pair, filling):
    pred, true, mask = pair
    mask = mask.clone()
    mask[0, 7:11] = False
    expected = tm_score(pred, true, mask)
    keep = mask[0]
    cut = tm_score(pred[:1, keep], true[:1, keep], mask[:1, keep])
    pred, true = (x.masked_fill(~mask[..., None], filling) for x in (pred, true))
    torch.testing.assert_close(tm_score(pred, true, mask), expected)
    torch.testing.assert_close(expected[:1], cut)


def test_score_of_a_chain_depends_neither_on_its_batch_nor_on_the_size_of_a_slice(pair, monkeypatch):
    pred, true, mask = pair
    together = tm_score(pred, true, mask)
    torch.testing.assert_close(tm_score(pred[1:, :25], true[1:, :25], mask[1:, :25]), together[1:])
    monkeypatch.setattr(pose_scorer, "_RESIDUES_AT_ONCE", {"cpu": 40 * 7})
    monkeypatch.setattr(pose_search, "_POSES_AT_ONCE", 10)
    torch.testing.assert_close(tm_score(pred, true, mask), together)


def test_lossy_products_are_not_used(pair, monkeypatch):
    expected = tm_score(*pair)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert pose_scorer._dtype(pair[0]) == torch.float64
        torch.testing.assert_close(tm_score(*pair), expected, atol=1e-3, rtol=0)
    finally:
        torch.set_float32_matmul_precision(before)


def test_one_residue_light_years_away_costs_its_own_share(pair):
    _, true, mask = pair
    pred = true.clone()
    pred[:, 7, 0] += 1e9
    expected = (mask.sum(-1) - 1) / mask.sum(-1)
    best = searched_scores(pred, true, mask)
    for score in (best.tm, best.gdt_ts, best.gdt_ha):
        torch.testing.assert_close(score, expected, atol=1e-3, rtol=0)


def test_pose_of_the_searched_scores_has_their_tm(pair):
    pred, true, mask = pair
    best = searched_scores(pred, true, mask)
    moved = pred.double() @ best.pose.rotation.mT + best.pose.translation[:, None]
    distance = (moved - true).norm(dim=-1)
    torch.testing.assert_close(tm_from_distances(distance, mask), best.tm.double(), atol=1e-5, rtol=0)
    assert best.pose.rotation.dtype == torch.float64
    torch.testing.assert_close(torch.det(best.pose.rotation), torch.ones(2, dtype=torch.float64))


def test_gdt_of_a_chain_with_a_hinge_is_that_of_its_larger_part_and_more(make_batch, make_walk):
    true, mask = make_batch([make_walk(60)])
    pred = true.clone()
    pred[0, 40:] = pred[0, 40:] + 30
    best = searched_scores(pred, true, mask)
    assert best.gdt_ts.item() == pytest.approx(40 / 60, abs=0.02)
    assert best.gdt_ha.item() == pytest.approx(40 / 60, abs=0.02)


def test_broken_prediction_scores_zero_and_an_empty_chain_nothing(pair):
    pred, true, mask = pair
    expected = tm_score(pred, true, mask)
    pred, mask = pred.clone(), mask.clone()
    pred[0, 3, 1] = float("inf")
    broken = searched_scores(pred, true, mask)
    assert [score[0].item() for score in broken[:3]] == [0, 0, 0]
    torch.testing.assert_close(broken.tm[1], expected[1])
    mask[0] = False
    assert tm_score(pred, true, mask)[0].isnan()
    assert tm_score(pred, true, torch.zeros_like(mask)).isnan().all()


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_shortest_chains_have_a_score(make_batch, make_walk, length):
    true, mask = make_batch([make_walk(length)])
    torch.testing.assert_close(tm_score(true, true, mask), torch.ones(1), atol=1e-5, rtol=0)
