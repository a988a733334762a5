import pytest
import torch

from minifold_pl.diffusion.process import add_noise, eps_to_x0, x0_to_eps
from minifold_pl.diffusion.schedule import CosineSchedule

SCHEDULE = CosineSchedule()


@pytest.mark.parametrize("t", [1, 25, 497, 999])
def test_noising_and_both_inversions_are_a_round_trip(t):
    x0, eps = torch.randn(2, 3, 9, 3, dtype=torch.float64)
    t = torch.full((3,), t)
    x_t = add_noise(x0, t, eps, SCHEDULE)
    torch.testing.assert_close(x0_to_eps(x_t, t, x0, SCHEDULE), eps)
    torch.testing.assert_close(eps_to_x0(x_t, t, eps, SCHEDULE), x0)


def test_timestep_zero_is_the_clean_chain():
    x0, eps = torch.randn(2, 3, 9, 3)
    assert torch.equal(add_noise(x0, torch.zeros(3, dtype=torch.long), eps, SCHEDULE), x0)


def test_every_chain_is_noised_at_its_own_timestep():
    x0, eps = torch.randn(2, 2, 9, 3)
    t = torch.tensor([10, 900])
    both = add_noise(x0, t, eps, SCHEDULE)
    for k in range(2):
        alone = add_noise(x0[k : k + 1], t[k : k + 1], eps[k : k + 1], SCHEDULE)
        torch.testing.assert_close(both[k : k + 1], alone)


def test_noised_unit_signal_keeps_unit_variance():
    x0, eps = torch.randn(2, 4, 20_000, 3)
    x_t = add_noise(x0, torch.tensor([1, 300, 600, 999]), eps, SCHEDULE)
    torch.testing.assert_close(x_t.var((1, 2)), torch.ones(4), atol=0.02, rtol=0)
