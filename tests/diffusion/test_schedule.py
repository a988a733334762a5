import math

import pytest
import torch

from minifold_pl.diffusion.schedule import CosineSchedule

SCHEDULE = CosineSchedule()
NOISED = torch.arange(1, 1001)


def test_share_of_confident_frames_is_the_write_ups_57_7_percent():
    share = (SCHEDULE.frame_confidence(NOISED) > 0.5).double().mean().item()
    assert share == pytest.approx(0.577, abs=1e-12)


def test_signal_falls_below_noise_from_timestep_497():
    below = (SCHEDULE.snr(NOISED) < 1).nonzero() + 1
    assert below[0].item() == 497
    assert len(below) == 1000 - 496


def test_frame_confidence_is_zero_from_timestep_731():
    confidence = SCHEDULE.frame_confidence(NOISED)
    assert ((confidence == 0).nonzero() + 1)[0].item() == 731
    assert confidence.max() == 1


def test_error_of_eps_comes_back_642_times_at_timestep_999():
    t = torch.tensor(999)
    # Measured in the audit of the write-up's sampler.
    assert round((SCHEDULE.noise(t) / SCHEDULE.signal(t)).item()) == 642


def test_alpha_bar_goes_from_one_to_zero_without_rising():
    alpha_bar = SCHEDULE.alpha_bar(torch.arange(1001), torch.float64)
    assert alpha_bar[0] == 1
    assert alpha_bar[-1] < 1e-30
    assert (alpha_bar.diff() < 0).all()


def test_alpha_bar_is_nichol_and_dhariwals_cosine():
    def f(t):
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    t = torch.tensor([1, 50, 500, 900])
    expected = torch.tensor([f(k) / f(0) for k in t.tolist()], dtype=torch.float64)
    torch.testing.assert_close(SCHEDULE.alpha_bar(t, torch.float64), expected)


def test_squared_factors_sum_to_one_at_every_timestep():
    t = torch.arange(1001)
    total = SCHEDULE.signal(t).square() + SCHEDULE.noise(t).square()
    torch.testing.assert_close(total, torch.ones(1001))


@pytest.mark.parametrize("wrong", [{"timesteps": 1}, {"s": -0.1}, {"s": 1.0}])
def test_impossible_schedules_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CosineSchedule(**wrong)
