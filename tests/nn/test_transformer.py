"""The towers' layers: what a window adds."""

from __future__ import annotations

import pytest
import torch

from minifold_pl.nn.transformer import TransformerLayer, TransformerTower, Window


def mask_of(*lengths: int) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@pytest.fixture
def window() -> Window:
    torch.manual_seed(0)
    made = Window(8, 5)
    torch.nn.init.normal_(made.map.weight)
    return made


def test_a_window_reads_two_neighbours_on_either_side_and_no_more(window: Window) -> None:
    x = torch.randn(1, 20, 8, requires_grad=True)
    window(x, mask_of(20))[0, 10].sum().backward()
    reached = x.grad[0].abs().amax(-1).nonzero().flatten().tolist()
    assert reached == [8, 9, 10, 11, 12]


def test_what_is_masked_counts_for_nothing_and_padding_changes_nothing(window: Window) -> None:
    x = torch.randn(1, 12, 8)
    alone = window(x[:, :9], mask_of(9))
    beside = window(x, mask_of(9, 12)[:1])
    torch.testing.assert_close(beside[:, :9], alone)


def test_each_place_in_the_window_has_its_own_part_of_the_map(window: Window) -> None:
    """As torch's convolution computes it."""
    x = torch.randn(2, 15, 8)
    weight = window.map.weight.view(8, 5, 8).transpose(1, 2)
    expected = torch.nn.functional.conv1d(window.norm(x).mT, weight, window.map.bias, padding=2).mT
    torch.testing.assert_close(window(x, mask_of(15, 15)), expected, rtol=1e-4, atol=1e-5)


def test_a_layer_with_a_window_starts_as_one_without() -> None:
    torch.manual_seed(0)
    with_window = TransformerLayer(8, 2, 16, window=3)
    without = TransformerLayer(8, 2, 16)
    missing, extra = without.load_state_dict(with_window.state_dict(), strict=False)
    assert not missing and {name.split(".")[0] for name in extra} == {"window"}
    x = torch.randn(2, 6, 8)
    torch.testing.assert_close(with_window.eval()(x, mask_of(6, 4)), without.eval()(x, mask_of(6, 4)))


def test_towers_have_none_unless_asked_and_an_even_one_is_refused() -> None:
    assert all(layer.window is None for layer in TransformerTower(8, 2, 2, 16).layers)
    with pytest.raises(ValueError, match="window=4"):
        TransformerTower(8, 2, 2, 16, window=4)
