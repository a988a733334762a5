import math

import pytest
import torch

from minifold_pl.losses.confidence import ConfidenceLoss, confidence_per_chain


def test_knowing_nothing_costs_the_logarithm_of_the_bins():
    lddt, mask = torch.rand(3, 9), torch.ones(3, 9, dtype=torch.bool)
    found = confidence_per_chain(torch.zeros(3, 9, 50), lddt, mask)
    torch.testing.assert_close(found.value, torch.full((3,), math.log(50)))


def test_the_right_bin_costs_nothing_and_one_stands_for_the_last():
    lddt = torch.tensor([[0.0, 0.019, 0.02, 0.5, 0.999, 1.0]])
    bins = torch.tensor([0, 0, 1, 25, 49, 49])
    logits = 50 * torch.nn.functional.one_hot(bins, 50)[None].float()
    mask = torch.ones(1, 6, dtype=torch.bool)
    assert confidence_per_chain(logits, lddt, mask).mean().item() < 1e-6
    assert confidence_per_chain(logits.roll(1, -1), lddt, mask).mean().item() > 40


def test_padding_and_residues_without_neighbours_do_not_count():
    torch.manual_seed(0)
    logits, lddt, mask = torch.randn(2, 5, 50), torch.rand(2, 5), torch.ones(2, 5, dtype=torch.bool)
    mask[0, 3:] = False
    lddt[0, 3:] = torch.nan
    lddt[1] = torch.nan
    found = confidence_per_chain(logits, lddt, mask)
    alone = confidence_per_chain(logits[:1, :3], lddt[:1, :3], mask[:1, :3])
    assert found.counted.tolist() == [True, False]
    torch.testing.assert_close(found.value, torch.tensor([alone.value.item(), 0.0]))


def test_gradient_is_exact():
    lddt, mask = torch.rand(2, 4, dtype=torch.double), torch.ones(2, 4, dtype=torch.bool)
    mask[1, 2:] = False
    logits = torch.randn(2, 4, 6, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: confidence_per_chain(x, lddt, mask).value, logits)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weight", 0.0),
        ("weight", math.nan),
        ("lr", 0.0),
        ("bins", 1),
        ("hidden", 0),
        ("chains", 0),
        ("steps", 0),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"confidence\.{name} is"):
        ConfidenceLoss(**{name: value})
