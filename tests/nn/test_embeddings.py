from __future__ import annotations

import math

import pytest
import torch

from minifold_pl.nn.embeddings import LinearRelativePosition, LogRelativePosition, sinusoids


def test_sinusoids_start_at_wavelength_two_pi_and_end_at_the_longest():
    x = torch.tensor([1.0], dtype=torch.float64)
    y = sinusoids(x, 6, longest=100.0)[0]
    assert torch.allclose(
        y[:3], torch.tensor([math.sin(1), math.sin(0.1), math.sin(0.01)], dtype=torch.float64)
    )
    assert torch.allclose(
        y[3:], torch.tensor([math.cos(1), math.cos(0.1), math.cos(0.01)], dtype=torch.float64)
    )


def test_an_odd_number_of_sinusoids_is_refused():
    with pytest.raises(ValueError, match="d=5"):
        sinusoids(torch.zeros(1), 5)


@pytest.mark.parametrize("make", [LinearRelativePosition, LogRelativePosition])
def test_relative_position_sees_differences_only(make):
    embed = make(8)
    index = torch.tensor([[0, 1, 2, 7, 30]])
    assert torch.equal(embed(index), embed(index + 100))


@pytest.mark.parametrize("make", [LinearRelativePosition, LogRelativePosition])
def test_upstream_and_downstream_differ(make):
    z = make(8)(torch.arange(4)[None])[0]
    assert not torch.allclose(z[0, 3], z[3, 0])
    assert torch.equal(z[0, 1], z[2, 3])


def test_linear_position_is_blind_beyond_its_reach():
    z = LinearRelativePosition(8, max_rel=32)(torch.tensor([[0, 32, 33, 90]]))[0]
    assert torch.equal(z[0, 1], z[0, 2]) and torch.equal(z[0, 2], z[0, 3])


def test_log_position_tells_all_separations_up_to_its_reach_apart():
    z = LogRelativePosition(16)(torch.tensor([[0, 511, 512, 513]]))[0]
    assert not torch.allclose(z[0, 1], z[0, 2])
    assert torch.equal(z[0, 2], z[0, 3])


def test_log_bins_are_single_up_to_eight_then_widen_and_none_is_empty():
    embed = LogRelativePosition(4, bins=128, max_sep=512)
    downstream = embed.bin_of[512:]
    assert downstream[:9].diff().eq(1).all()
    width = downstream.bincount()[downstream[0] :]
    assert (width > 0).all()
    assert width[-1] > 10
    # bins grow with the separation, up to rounding to whole residues
    assert width.diff().min() >= -1
    # the figure measured for L = 125 (SCIENCE section 4)
    assert len(downstream[:125].unique()) == 72


def test_log_bins_are_antisymmetric():
    bins = LogRelativePosition(4).bin_of
    centre = bins[512]
    assert torch.equal(bins - centre, -(bins - centre).flip(0))
    assert bins.min() == 0 and bins.max() == 2 * centre


def test_log_position_can_be_built_on_the_meta_device():
    with torch.device("meta"):
        assert LogRelativePosition(4)(torch.zeros(1, 3, dtype=torch.long)).shape == (1, 3, 3, 4)


def test_too_few_log_bins_are_refused_by_name():
    with pytest.raises(ValueError, match=r"bins=9.*linear=8"):
        LogRelativePosition(4, bins=9)
