"""Random draws that are pure functions of a key.

A chain's noise comes from its own generator and is drawn at the chain's own length, on the CPU in float32:
neither the rest of the batch, nor padding, nor the device or the order of the calls changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minifold_pl.diffusion.schedule import CosineSchedule


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator whose stream depends on ``key`` alone, the same on every machine and in every process.

    The parts are hashed with their kind and length, so that ``("a", "bc")`` and ``("ab", "c")``, or ``1``
    and ``"1"``, are different keys. torch's Mersenne Twister takes the lower 32 bits of a seed: among
    65,000 keys two will share a stream about once in two sets, which no average of draws notices.

    Raises:
        TypeError: a part is neither an int nor a str.
    """
    digest = blake2b(digest_size=8)
    for part in key:
        if not isinstance(part, int | str):
            raise TypeError(f"key part {part!r} is a {type(part).__name__}; a key is made of int and str")
        kind = "s" if isinstance(part, str) else "i"
        text = str(int(part) if kind == "i" else part).encode()
        digest.update(f"{kind}{len(text)}:".encode() + text)
    generator = torch.Generator(device="cpu")
    generator.manual_seed(int.from_bytes(digest.digest(), "little"))
    return generator


def centered_noise(
    mask: Bool[Tensor, "b l"], generators: Sequence[torch.Generator], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "b l 3"]:
    """Standard normal noise with zero mean over each chain's valid residues; 0 elsewhere.

    Taking the mean out leaves a variance of 1 − 1/l per coordinate. Chain ``i`` draws from
    ``generators[i]``.

    Raises:
        ValueError: not one generator per chain.
    """
    _check_one_each(len(mask), generators)
    noise = torch.zeros(*mask.shape, 3)
    for row, valid, generator in zip(noise, mask.cpu(), generators, strict=True):
        draw = torch.randn(int(valid.sum()), 3, generator=generator)
        row[valid] = draw - draw.mean(0)
    return noise.to(mask.device, dtype)


def random_timesteps(schedule: CosineSchedule, generators: Sequence[torch.Generator]) -> Int[Tensor, " b"]:
    """One timestep a chain, uniform over 1 … T − 1, from the chain's own generator."""
    return torch.cat([torch.randint(1, schedule.timesteps, (1,), generator=g) for g in generators])


def _check_one_each(chains: int, generators: Sequence[torch.Generator]) -> None:
    if len(generators) != chains:
        raise ValueError(
            f"{len(generators)} generators for {chains} chains; give each its own (see keyed_generator)"
        )
