import pytest
import torch

from minifold_pl.diffusion.draws import keyed_generator
from minifold_pl.diffusion.guidance import GuidedDenoiser
from minifold_pl.diffusion.process import x0_to_eps
from minifold_pl.diffusion.samplers import ddim
from minifold_pl.diffusion.schedule import CosineSchedule
from minifold_pl.types import Condition, Denoised

SCHEDULE = CosineSchedule()


class SmallDenoiser(torch.nn.Module):
    """A network that reads everything it is given, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.Tanh(), torch.nn.Linear(32, 3))
        self.batches = []

    def forward(self, x_t, t, condition, previous=None, use_previous=None):
        self.batches.append(len(x_t))
        before = torch.zeros_like(x_t) if previous is None else previous.x0
        time = (t / 1000)[:, None, None].expand(*x_t.shape[:2], 1).to(x_t.dtype)
        x0 = self.mix(torch.cat([x_t, before, condition.single, time], -1))
        turn = torch.linalg.qr(torch.eye(3, dtype=x0.dtype) + 0.1 * x0[..., None]).Q
        return Denoised(x0, turn)


@pytest.fixture
def denoiser():
    return SmallDenoiser()


@pytest.fixture
def halves(make_mask, make_condition):
    mask = make_mask([9, 6])
    single = torch.randn(2, 9, 3)
    return make_condition(mask, single), make_condition(mask, torch.zeros_like(single))


def guided(denoiser, halves, weight, space="x0"):
    return GuidedDenoiser(
        denoiser=denoiser,
        schedule=SCHEDULE,
        conditional=halves[0],
        unconditional=halves[1],
        weight=weight,
        space=space,
    )


def sample(denoise, mask):
    keys = [keyed_generator(k) for k in range(len(mask))]
    return ddim(denoise, SCHEDULE, mask, generators=keys, steps=5, eta=0.5)


@pytest.mark.parametrize("space", ["eps", "x0"])
@pytest.mark.parametrize(("weight", "half"), [(1.0, 0), (0.0, 1)])
def test_weights_one_and_zero_are_the_plain_samplers_bit_for_bit(denoiser, halves, weight, half, space):
    with_guidance = sample(guided(denoiser, halves, weight, space), halves[0].mask)
    plain = sample(lambda x_t, t, previous: denoiser(x_t, t, halves[half], previous), halves[0].mask)
    assert torch.equal(with_guidance.x0, plain.x0)
    assert torch.equal(with_guidance.rotation, plain.rotation)


def test_both_halves_run_in_one_batch(denoiser, halves):
    sample(guided(denoiser, halves, 2.0), halves[0].mask)
    assert denoiser.batches == [4] * 5


def test_guidance_in_eps_is_the_published_formula(denoiser, halves):
    x_t, t = torch.randn(2, 9, 3), torch.tensor([300, 300])
    eps_c = x0_to_eps(x_t, t, denoiser(x_t, t, halves[0]).x0, SCHEDULE)
    eps_u = x0_to_eps(x_t, t, denoiser(x_t, t, halves[1]).x0, SCHEDULE)
    eps = x0_to_eps(x_t, t, guided(denoiser, halves, 2.5, "eps")(x_t, t).x0, SCHEDULE)
    torch.testing.assert_close(eps, eps_u + 2.5 * (eps_c - eps_u), atol=1e-5, rtol=1e-5)


def test_both_spaces_agree_in_float64_at_the_noisiest_timestep(denoiser, halves):
    denoiser.double()
    halves = [Condition(c.single.double(), c.pair.double(), c.mask, c.bonded) for c in halves]
    x_t, t = torch.randn(2, 9, 3, dtype=torch.float64), torch.tensor([999, 999])
    in_eps = guided(denoiser, halves, 3.0, "eps")(x_t, t).x0
    in_x0 = guided(denoiser, halves, 3.0, "x0")(x_t, t).x0
    torch.testing.assert_close(in_eps, in_x0, atol=1e-10, rtol=0)


def test_rounding_is_amplified_in_eps_and_not_in_x0(denoiser, halves):
    x_t, t = torch.randn(2, 9, 3), torch.tensor([999, 999])
    exact = [Condition(c.single.double(), c.pair.double(), c.mask, c.bonded) for c in halves]

    def error(space):
        single = guided(denoiser.float(), halves, 3.0, space)(x_t, t).x0
        double = guided(denoiser.double(), exact, 3.0, "x0")(x_t.double(), t).x0
        return (single - double).abs().max()

    assert error("x0") < 2e-6
    assert error("eps") > 10 * error("x0")


def test_each_half_is_conditioned_on_its_own_previous_estimate(denoiser, halves):
    guide = guided(denoiser, halves, 2.0)
    x_t, t = torch.randn(2, 9, 3), torch.tensor([500, 500])
    second = guide(x_t, t, guide(x_t, t))
    for half, estimate in zip(halves, (second.conditional, second.unconditional), strict=True):
        alone = denoiser(x_t, t, half, denoiser(x_t, t, half))
        torch.testing.assert_close(estimate.x0, alone.x0)
    torch.testing.assert_close(second.rotation, second.conditional.rotation)


def test_half_precision_halves_are_combined_in_the_precision_of_x_t(halves):
    def half(x_t, t, condition, previous=None, use_previous=None):
        x0 = (x_t + condition.single).bfloat16()
        return Denoised(x0, torch.eye(3).expand(*x0.shape[:2], 3, 3))

    x_t = torch.randn(2, 9, 3)
    assert guided(half, halves, 2.0)(x_t, torch.tensor([9, 9])).x0.dtype == torch.float32


def test_guidance_without_an_unconditional_half_is_refused(denoiser, halves):
    with pytest.raises(ValueError, match=r"weight 1\.5 needs the unconditional"):
        guided(denoiser, (halves[0], None), 1.5)
    guided(denoiser, (halves[0], None), 1.0)


def test_null_condition_that_lost_its_mask_is_refused(denoiser, halves):
    empty = halves[1]._replace(mask=torch.zeros_like(halves[1].mask))
    with pytest.raises(ValueError, match="masks of the two conditions differ"):
        guided(denoiser, (halves[0], empty), 2.0)


@pytest.mark.parametrize(("weight", "space"), [(float("nan"), "x0"), (1.0, "v")])
def test_unusable_settings_are_refused(denoiser, halves, weight, space):
    with pytest.raises(ValueError, match="guidance"):
        guided(denoiser, halves, weight, space)
