import pytest
import torch

from minifold_pl.nn.confidence import AGREEMENT_TOLERANCES, ConfidenceHead, expected_lddt


def test_an_untrained_head_knows_nothing_of_any_residue():
    head = ConfidenceHead(d=12, bins=50, hidden=8)
    logits = head(torch.randn(2, 7, 12), torch.rand(2, 7, len(AGREEMENT_TOLERANCES)))
    assert logits.shape == (2, 7, 50)
    torch.testing.assert_close(expected_lddt(logits), torch.full((2, 7), 0.5))


@pytest.mark.parametrize("bins", [2, 50])
def test_all_weight_in_one_bin_is_its_middle(bins):
    logits = 100 * torch.eye(bins)[None]
    torch.testing.assert_close(expected_lddt(logits)[0], (torch.arange(bins) + 0.5) / bins)


def test_expected_lddt_is_not_rounded_in_half_precision():
    logits = torch.randn(1, 5, 50)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(expected_lddt(logits), expected_lddt(logits.double()).float())


def test_a_residue_is_judged_by_itself(make_head=lambda: ConfidenceHead(d=12, bins=10, hidden=8)):
    torch.manual_seed(0)
    head = make_head()
    torch.nn.init.normal_(head.bins.weight)
    single, agreement = torch.randn(1, 6, 12), torch.rand(1, 6, len(AGREEMENT_TOLERANCES))
    torch.testing.assert_close(head(single, agreement)[:, 2:3], head(single[:, 2:3], agreement[:, 2:3]))
