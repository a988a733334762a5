from __future__ import annotations

import math

import torch

from minifold_pl.losses.radius_of_gyration import log_rg_loss

DUMBBELL = torch.tensor([[[-12.0, 0.0, 0.0], [12.0, 0.0, 0.0], [500.0, 0.0, 0.0]]])
"""Rg 12 Å without its last residue."""
PAIR = torch.tensor([[True, True, False]])


def test_the_truth_is_the_natural_logarithm_of_rg_in_angstrom() -> None:
    assert log_rg_loss(torch.tensor([math.log(12.0)]), DUMBBELL, PAIR) < 1e-10


def test_an_rg_too_large_by_a_factor_e_costs_1() -> None:
    assert math.isclose(
        log_rg_loss(torch.tensor([math.log(12.0) + 1]), DUMBBELL, PAIR).item(), 1.0, rel_tol=1e-5
    )


def test_a_chain_of_one_observed_residue_has_no_size_and_is_left_out() -> None:
    """Its Rg is 0 and the logarithm of that would rule the batch."""
    log_rg = torch.zeros(2, requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    loss = log_rg_loss(log_rg, DUMBBELL.expand(2, 3, 3), mask)
    assert math.isclose(loss.item(), math.log(12.0) ** 2, rel_tol=1e-5)
    loss.backward()
    assert log_rg.grad is not None and log_rg.grad[1] == 0
