"""At which noise does a model know more than the noise itself says?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from minifold_pl.data.dataset import ChainDataset
from minifold_pl.diagnostics.chains import batches
from minifold_pl.diagnostics.steps import Scores, StepScores, joined, step_scores
from minifold_pl.metrics.wiener import wiener_smoother
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.one_step import check_times, one_step

MODEL: Final = "model"
FLOOR: Final = "wiener smoother"


def noise_scores(
    module: DiffusionModule,
    chains: ChainDataset,
    times: Sequence[int],
    *,
    seed: int,
    batch_size: int,
    advance: Callable[[int], None] = lambda count: None,
) -> StepScores:
    """One-step estimates from every timestep: the model's, and those of a smoother that knows no sequence.

    The smoother (:func:`~minifold_pl.metrics.wiener.wiener_smoother`) is the best linear guess for a Gaussian chain:
    a model that is no better there has learnt nothing from the sequence, nor of what proteins look like.

    Raises:
        ValueError: a timestep out of range.
    """
    times = check_times(times, module.noise_schedule.timesteps)
    names: list[str] = []
    parts: list[dict[str, Scores]] = []
    for batch in batches(chains, batch_size, module.device):
        model = one_step(module, batch, times, seed=seed)
        floor = one_step(module, batch, times, seed=seed, estimate=wiener_smoother)
        parts.append({MODEL: step_scores(module, batch, model), FLOOR: step_scores(module, batch, floor)})
        names += batch.names
        advance(len(batch))
    return joined(times, names, parts)
