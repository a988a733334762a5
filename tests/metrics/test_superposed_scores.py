"""What RMSD, TM, GDT and lDDT have in common."""

import pytest
import torch

from minifold_pl.metrics.gdt import gdt_ha_kabsch, gdt_ts_kabsch
from minifold_pl.metrics.lddt import lddt_ca
from minifold_pl.metrics.rmsd import rmsd
from minifold_pl.metrics.tm import tm_kabsch
from minifold_pl.metrics.tm_search import tm_score

BEST_IS_ONE = [tm_kabsch, gdt_ts_kabsch, gdt_ha_kabsch, lddt_ca]
POSED = [tm_kabsch, gdt_ts_kabsch, gdt_ha_kabsch, rmsd]
EVERY = [*BEST_IS_ONE, rmsd]


@pytest.fixture
def pair(make_batch, make_walk):
    true, mask = make_batch([make_walk(40), make_walk(25)])
    return true + torch.randn_like(true), true, mask


@pytest.mark.parametrize("score", BEST_IS_ONE)
def test_truth_scores_one(score, pair):
    _, true, mask = pair
    torch.testing.assert_close(score(true, true, mask), torch.ones(2))


def test_truth_has_no_deviation(pair):
    _, true, mask = pair
    torch.testing.assert_close(rmsd(true, true, mask), torch.zeros(2), atol=1e-4, rtol=0)


@pytest.mark.parametrize("score", EVERY)
def test_rigid_motion_of_the_prediction_changes_nothing(score, pair, rotation):
    pred, true, mask = pair
    moved = pred @ rotation.T + torch.tensor([30.0, -8.0, 5.0])
    torch.testing.assert_close(score(moved, true, mask), score(pred, true, mask), atol=2e-3, rtol=0)


@pytest.mark.parametrize("score", POSED)
def test_mirrored_truth_is_no_truth(score, pair):
    _, true, mask = pair
    mirrored = score(true * torch.tensor([1.0, 1.0, -1.0]), true, mask)
    worse = mirrored > 2 if score is rmsd else mirrored < 0.8
    assert worse.all()


def test_lddt_cannot_see_a_mirror(pair):
    _, true, mask = pair
    torch.testing.assert_close(lddt_ca(-true, true, mask), torch.ones(2))


@pytest.mark.parametrize("score", EVERY)
@pytest.mark.parametrize("filling", [1e4, float("nan"), float("inf")])
def test_masked_residues_change_nothing(score, pair, filling):
    pred, true, mask = pair
    mask = mask.clone()
    mask[0, 7:11] = False
    expected = score(pred, true, mask)
    pred, true = (x.masked_fill(~mask[..., None], filling) for x in (pred, true))
    torch.testing.assert_close(score(pred, true, mask), expected)


@pytest.mark.parametrize("score", EVERY)
def test_score_of_a_chain_depends_neither_on_its_batch_nor_on_padding(score, pair):
    pred, true, mask = pair
    alone = score(pred[1:, :25], true[1:, :25], mask[1:, :25])
    torch.testing.assert_close(score(pred, true, mask)[1:], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("score", EVERY)
def test_masked_out_residues_are_as_if_they_were_cut(score, pair):
    pred, true, mask = pair
    mask = mask.clone()
    mask[:, 5:9] = False
    keep = mask[0]
    cut = score(pred[:1, keep], true[:1, keep], mask[:1, keep])
    torch.testing.assert_close(score(pred, true, mask)[:1], cut, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("score", EVERY)
def test_broken_prediction_scores_worst_and_stays_in_the_average(score, pair):
    pred, true, mask = pair
    expected = score(pred, true, mask)
    pred = pred.clone()
    pred[0, 3, 1] = float("nan")
    broken = score(pred, true, mask)
    torch.testing.assert_close(broken[1], expected[1])
    if score is rmsd:
        assert broken[0] == float("inf")
    elif score is lddt_ca:  # has no pose to lose: every distance to that residue is wrong
        assert broken[0] < expected[0]
    else:
        assert broken[0] == 0


@pytest.mark.parametrize("score", EVERY)
def test_chain_without_residues_has_no_score(score, pair):
    pred, true, mask = pair
    mask = mask.clone()
    mask[1] = False
    result = score(pred, true, mask)
    assert result[0].isfinite()
    assert result[1].isnan()


@pytest.mark.parametrize("score", EVERY)
def test_half_precision_under_autocast_is_scored_in_float32(score, pair):
    pred, true, mask = pair
    rounded = pred.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = score(rounded, true, mask)
    torch.testing.assert_close(under_autocast, score(rounded.float(), true, mask))
    assert under_autocast.dtype == torch.float32


@pytest.mark.parametrize("score", [tm_kabsch, tm_score, gdt_ts_kabsch, gdt_ha_kabsch])
def test_a_length_is_what_the_score_is_normalised_by(score, make_batch, make_walk):
    true, mask = make_batch([make_walk(40), make_walk(25)])
    share = score(true, true, mask, length=torch.tensor([80, 25]))
    torch.testing.assert_close(share, torch.tensor([0.5, 1.0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("score", [tm_kabsch, tm_score])
def test_d0_comes_from_the_length(score, pair):
    pred, true, mask = pair
    # d0 of 200 residues is 5.3 Å, of 40 it is 1.8 Å: deviations of about 1.7 Å count less.
    share = 200 * score(pred, true, mask, length=torch.tensor([200, 200])) / mask.sum(-1)
    assert (share > score(pred, true, mask) + 0.1).all()


@pytest.mark.parametrize("score", [tm_kabsch, tm_score, gdt_ts_kabsch])
def test_a_length_below_the_scored_residues_is_refused(score, pair):
    with pytest.raises(ValueError, match=r"\[40, 24\].*\[40, 25\]"):
        score(*pair, length=torch.tensor([40, 24]))
