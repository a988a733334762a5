import subprocess
import sys

import pytest
import torch

from minifold_pl.diffusion.draws import centered_noise, keyed_generator, random_timesteps
from minifold_pl.diffusion.schedule import CosineSchedule


def mask_of(*lengths, padded=None):
    return torch.arange(padded or max(lengths)) < torch.tensor(lengths)[:, None]


def first_draw(*key):
    return torch.randn(4, generator=keyed_generator(*key))


def test_same_key_gives_the_same_stream():
    assert torch.equal(first_draw("val", 3, "1abc.A"), first_draw("val", 3, "1abc.A"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "bc"), ("ab", "c")),
        ((1,), ("1",)),
        ((1, 2), (12,)),
        ((1, 2), (2, 1)),
        ((), ("",)),
        ((-1,), (1,)),
    ],
)
def test_different_keys_give_different_streams(one, other):
    assert not torch.equal(first_draw(*one), first_draw(*other))


def test_stream_is_the_same_in_another_process():
    code = "from minifold_pl.diffusion.draws import *; print(keyed_generator('a', 7).initial_seed())"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(seen) == keyed_generator("a", 7).initial_seed()


def test_key_of_another_type_is_refused():
    with pytest.raises(TypeError, match=r"1\.5"):
        keyed_generator("seed", 1.5)


def test_noise_is_centred_over_valid_residues_and_zero_elsewhere():
    mask = mask_of(5, 9)
    mask[1, 3] = False
    noise = centered_noise(mask, [keyed_generator(0), keyed_generator(1)])
    torch.testing.assert_close(noise.sum(1), torch.zeros(2, 3), atol=1e-5, rtol=0)
    assert (noise[~mask] == 0).all()
    assert (noise[mask] != 0).all()


def test_noise_of_a_chain_depends_neither_on_its_batch_nor_on_padding():
    alone = centered_noise(mask_of(7), [keyed_generator("x")])
    keys = [keyed_generator("y"), keyed_generator("x")]
    together = centered_noise(mask_of(12, 7, padded=16), keys)
    assert torch.equal(together[1, :7], alone[0])


def test_centred_noise_has_variance_one_minus_one_over_length():
    mask = mask_of(*[5] * 4000)
    noise = centered_noise(mask, [keyed_generator(k) for k in range(4000)])
    # 60,000 numbers: the standard error of the variance is 0.005.
    assert noise.var().item() == pytest.approx(1 - 1 / 5, abs=0.02)


def test_chain_without_valid_residues_draws_nothing():
    assert (centered_noise(torch.zeros(1, 4, dtype=torch.bool), [keyed_generator()]) == 0).all()


def test_number_of_generators_must_be_the_number_of_chains():
    with pytest.raises(ValueError, match="1 generators for 2 chains"):
        centered_noise(mask_of(3, 3), [keyed_generator()])


def test_random_timesteps_cover_every_noised_timestep_a_network_meets():
    schedule = CosineSchedule(timesteps=6)
    t = random_timesteps(schedule, [keyed_generator(k) for k in range(200)])
    assert t.unique().tolist() == [1, 2, 3, 4, 5]
