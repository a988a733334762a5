import pytest
import torch

from minifold_pl.metrics import tm_search
from minifold_pl.metrics.gdt import gdt_ha_kabsch, gdt_ts_kabsch
from minifold_pl.metrics.tm import tm_d0, tm_kabsch
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
def test_tm_score_is_that_of_tmtools_for_the_identity_alignment(real_chains, make_batch, how, length):
    true, mask = make_batch([chain[:length] for chain in real_chains if len(chain) >= length][:12])
    pred = distorted(true, how)
    ours = tm_score(pred, true, mask)
    theirs = [tmtools_scores(p, t) for p, t in zip(pred, true, strict=True)]
    fixed = torch.tensor([pair[0] for pair in theirs])
    # Never below the program's search by more than 0.002, and it has no business far above it either.
    assert (ours > fixed - 0.002).all()
    torch.testing.assert_close(ours.mean(), fixed.mean(), atol=0.002, rtol=0)
    # TM-align's own pose comes from another search: it may win a single chain by a little, not on average.
    assert ours.mean() > torch.tensor([pair[1] for pair in theirs]).mean() - 0.01


def test_unrelated_real_chains_score_as_the_literature_says(real_chains, make_batch):
    windows = [chain[:100] for chain in real_chains if len(chain) >= 100]
    true, mask = make_batch(windows[:24])
    # Measured before: 0.156 to 0.187 for random pairs of 60 to 125 residues.
    assert 0.15 < tm_score(true.roll(1, 0), true, mask).mean() < 0.19


def test_truth_scores_one_and_its_mirror_does_not(pair):
    _, true, mask = pair
    for score in searched_scores(true, true, mask):
        torch.testing.assert_close(score, torch.ones(2), atol=1e-5, rtol=0)
    for score in searched_scores(-true, true, mask):
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
    monkeypatch.setattr(tm_search, "_RESIDUES_AT_ONCE", 40 * 7)
    torch.testing.assert_close(tm_score(pred, true, mask), together)


def test_broken_prediction_scores_zero_and_an_empty_chain_nothing(pair):
    pred, true, mask = pair
    expected = tm_score(pred, true, mask)
    pred, mask = pred.clone(), mask.clone()
    pred[0, 3, 1] = float("inf")
    broken = searched_scores(pred, true, mask)
    assert [score[0].item() for score in broken] == [0, 0, 0]
    torch.testing.assert_close(broken.tm[1], expected[1])
    mask[0] = False
    assert tm_score(pred, true, mask)[0].isnan()
    assert tm_score(pred, true, torch.zeros_like(mask)).isnan().all()


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_shortest_chains_have_a_score(make_batch, make_walk, length):
    true, mask = make_batch([make_walk(length)])
    torch.testing.assert_close(tm_score(true, true, mask), torch.ones(1), atol=1e-5, rtol=0)
