from __future__ import annotations

import math

import torch

from minifold_pl.geometry.measures import radius_of_gyration
from minifold_pl.geometry.units import (
    center,
    length_beside,
    predicted_unit,
    to_angstrom,
    to_model_units,
    true_unit,
)


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


def test_at_the_scale_of_a_chains_own_size_every_chain_has_a_radius_of_gyration_of_one() -> None:
    ca = torch.randn(3, 12, 3) * torch.tensor([5.0, 12.0, 30.0])[:, None, None]
    mask = torch.arange(12) < torch.tensor([[12], [9], [12]])
    unit = true_unit("rg", ca, mask)
    assert unit is not None
    assert torch.allclose(unit, radius_of_gyration(ca, mask))
    scaled = to_model_units(ca, unit)
    assert torch.allclose(radius_of_gyration(scaled, mask), torch.ones(3), atol=1e-5)
    assert torch.allclose(to_angstrom(scaled, unit), ca, atol=1e-4)
    assert torch.allclose(to_angstrom(scaled.norm(dim=-1), unit), ca.norm(dim=-1), atol=1e-3)


def test_at_the_fixed_scale_no_chain_has_a_unit_of_its_own() -> None:
    mask = torch.ones(1, 4, dtype=torch.bool)
    assert true_unit("fixed", torch.randn(1, 4, 3), mask) is None
    assert predicted_unit("fixed", torch.zeros(1)) is None


def test_a_predicted_size_is_the_exponential_of_its_logarithm_and_never_nothing() -> None:
    unit = predicted_unit("rg", torch.tensor([math.log(3.5), -9.0]))
    assert unit is not None
    assert torch.allclose(unit, torch.tensor([3.5, 1.0]))
    lonely = torch.tensor([[True, False, False]])
    assert true_unit("rg", torch.randn(1, 3, 3), lonely) == 1.0


def test_a_length_beside_a_tensor_is_that_length_in_each_chains_units() -> None:
    x = torch.zeros(2, 5, 7)
    assert torch.allclose(length_beside(x, 3.8), torch.tensor(0.38))
    own = length_beside(x, 3.8, torch.tensor([10.0, 19.0]))
    assert own.shape == (2, 1, 1) and torch.allclose(own.flatten(), torch.tensor([0.38, 0.2]))
