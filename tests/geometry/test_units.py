from __future__ import annotations

import torch

from minifold_pl.geometry.units import center, to_angstrom, to_model_units


def test_a_model_unit_is_ten_angstrom() -> None:
    assert torch.allclose(to_model_units(torch.tensor(3.8)), torch.tensor(0.38))


def test_angstrom_to_model_units_and_back_is_the_identity() -> None:
    x = torch.randn(5, 3, dtype=torch.float64) * 30
    assert torch.allclose(to_angstrom(to_model_units(x)), x)


def test_centring_moves_the_mean_of_the_valid_residues_to_the_origin() -> None:
    x = torch.randn(2, 9, 3, dtype=torch.float64) + 50
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    centred = center(x, mask)
    assert (centred.sum(1) / mask.sum(1, keepdim=True)).abs().max() < 1e-12
    assert torch.allclose(centred[1, 1] - centred[1, 0], x[1, 1] - x[1, 0])


def test_centring_puts_masked_rows_at_zero_whatever_they_held() -> None:
    x = torch.randn(1, 4, 3)
    mask = torch.tensor([[True, True, False, False]])
    poisoned = x.clone()
    poisoned[0, 2], poisoned[0, 3] = float("nan"), float("inf")
    assert center(poisoned, mask)[0, 2:].isnan().logical_not().all()
    assert torch.equal(center(poisoned, mask)[:, :2], center(x, mask)[:, :2])


def test_centring_a_chain_without_residues_gives_zeros() -> None:
    assert torch.equal(
        center(torch.randn(1, 4, 3), torch.zeros(1, 4, dtype=torch.bool)), torch.zeros(1, 4, 3)
    )
