"""The numbers of an evaluation while training: samples, one-step estimates and baselines of fixed chains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from minifold_pl.constants import CA_ATOM
from minifold_pl.data.collate import collate
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.diffusion.draws import keyed_generator
from minifold_pl.metrics import baselines
from minifold_pl.metrics.comparison import score_guesses
from minifold_pl.metrics.diversity import diversity
from minifold_pl.metrics.tm import tm_kabsch
from minifold_pl.metrics.wiener import wiener_smoother
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.one_step import (
    OneStep,
    dashboard_times,
    mostly_noise,
    noised_chains,
    one_step,
    structure_loss,
)
from minifold_pl.modules.sampling import SamplerConfig
from minifold_pl.modules.sequence_controls import masked_tokens, shuffled_tokens
from minifold_pl.modules.structures import predicted_atoms
from minifold_pl.types import ProteinBatch

MODEL: Final = "model"
OTHER: Final = "other chain"
WIENER: Final = "wiener smoother"
SHUFFLED: Final = "shuffled sequence"
MASKED: Final = "MASK sequence"
SEQUENCE: Final = "val/sequence"
"""Where the sequence test is logged."""
TRUTH: Final = "truth"
SEES_THE_ANSWER: Final = ("mirrored truth", TRUTH)
OTHER_CHAINS: Final = 8
"""Draws of another random chain for each target; their mean stands in the table."""
_POOL: Final = 256
"""Chains that another random chain is drawn from."""
_KINDS: Final = {MODEL: "real", SHUFFLED: "shuffled", MASKED: "mask"}
_LATE_LOSS: Final = "loss_mostly_noise"
_GAIN: Final = "sequence_gain_"

Rows = dict[str, dict[str, Tensor]]
"""Row → score → one number a chain."""


def x0_tm(t: int) -> str:
    """Name of the one-step score at timestep ``t``."""
    return f"x0_tm_t{t:03d}"


def sequence_name(row: str, score: str) -> str | None:
    """The name under which a number of the sequence test is logged; None for every other score."""
    if score == _LATE_LOSS:
        return f"{SEQUENCE}/{_KINDS[row]}"
    if score.startswith(_GAIN):
        return f"{SEQUENCE}_gain/{score.removeprefix(_GAIN)}"
    return None


def choose_chains(chains: ChainDataset, count: int, seed: int) -> list[int]:
    """Up to ``count`` chains of a dataset, the same ones for the same seed; cropped ones only where all are."""
    generator = keyed_generator(seed, "choose_chains")
    order = torch.randperm(len(chains), generator=generator).tolist()
    uncropped = chains.store.lengths[chains.indices] == chains.lengths
    whole = [i for i in order if uncropped[i]]
    return sorted((whole or order)[:count])


def share_of(chains: ChainDataset, chosen: Sequence[int], rank: int, ranks: int) -> list[int]:
    """This rank's part of the chosen chains, longest first; every rank gets long and short ones."""
    order = sorted(chosen, key=lambda i: (-int(chains.lengths[i]), i))
    return order[rank::ranks]


def sampled_rows(
    module: DiffusionModule,
    chains: ChainDataset,
    indices: Sequence[int],
    sampler: SamplerConfig | None,
    *,
    samples: int,
    batch_size: int,
    searched: bool,
    seed: int,
    between_batches: Callable[[], None] = lambda: None,
) -> tuple[Rows, dict[int, Float[Tensor, "l a 3"]]]:
    """Scores of sampled structures, means over the ``samples`` of a chain, and each chain's first one (Å, CPU).

    Scored are the Cα as they are predicted; of a model that predicts N, C and O the structures have these as well.
    ``between_batches`` is called before each batch; it may end the evaluation by an exception.
    """
    rows: list[Rows] = []
    first: dict[int, Tensor] = {}
    for part, batch in _batches(chains, indices, batch_size, module.device):
        between_batches()
        with module.sharing_trunks():
            sampled = [
                module.sample(
                    batch, sampler, seed=seed, keys=[_key(name, k) for name in batch.names], confidence=False
                )
                for k in range(samples)
            ]
        drawn = [one.x0.float() for one in sampled]
        scores = _mean_scores(drawn, batch, searched)
        if samples > 1:
            scores["diversity"] = diversity(torch.stack(drawn, 1), batch.residue_mask).double().cpu()
        rows.append({MODEL: scores})
        atoms = predicted_atoms(sampled[0])
        written = drawn[0][:, :, None] if atoms is None else atoms.float()
        for i, structure, length in zip(part, written.cpu(), batch.lengths.tolist(), strict=True):
            first[i] = structure[:length]
    return joined(rows), first


def one_step_rows(
    module: DiffusionModule,
    chains: ChainDataset,
    indices: Sequence[int],
    *,
    batch_size: int,
    sequence_test: bool,
    seed: int,
) -> Rows:
    """TM of x̂0 at the dashboard's timesteps, at the pose of least RMSD.

    With ``sequence_test`` also with shuffled and MASK sequences where x_t is mostly noise, and what the real
    sequence gains there: the structural losses without it minus those with it, by chain.
    """
    timesteps = module.noise_schedule.timesteps
    times = dashboard_times(timesteps)
    rows: list[Rows] = []
    # All timesteps of a chain share its pass through encoder and pair stack, and memory is that of a sampled batch.
    together = max(1, batch_size // len(times))
    for _, batch in _batches(chains, indices, together, module.device):
        real = one_step(module, batch, times, seed=seed)
        found: Rows = {MODEL: _x0_scores(real, batch)}
        late = mostly_noise(times, timesteps)
        if sequence_test and late.any():
            hard = [t for t, is_late in zip(times, late.tolist(), strict=True) if is_late]
            with_it = structure_loss(module, real)[late.to(module.device)].mean(0)
            found[MODEL][_LATE_LOSS] = with_it.double().cpu()
            for row, tokens in ((SHUFFLED, shuffled_tokens(batch, seed)), (MASKED, masked_tokens(batch))):
                step = one_step(module, batch, hard, seed=seed, tokens=tokens)
                without = structure_loss(module, step).mean(0)
                found[row] = {**_x0_scores(step, batch), _LATE_LOSS: without.double().cpu()}
                found[MODEL][f"{_GAIN}{_KINDS[row]}"] = (without - with_it).double().cpu()
        rows.append(found)
    return joined(rows)


def baseline_rows(
    module: DiffusionModule,
    chains: ChainDataset,
    indices: Sequence[int],
    *,
    batch_size: int,
    searched: bool,
    with_wiener: bool,
    seed: int,
) -> Rows:
    """What trivial predictions score on the same chains, and on the same noise: it never changes."""
    pool = {i: torch.as_tensor(chains[i].coords[:, CA_ATOM]) for i in choose_chains(chains, _POOL, seed)}
    rows: list[Rows] = []
    for part, batch in _batches(chains, indices, batch_size, torch.device("cpu")):
        ca, mask = batch.ca.float(), batch.ca_mask
        found = {
            "centroid": _mean_scores([baselines.centroid(ca, mask)], batch, searched),
            "ideal helix": _mean_scores([baselines.ideal_helix(ca, mask)], batch, searched),
            "mirrored truth": _mean_scores([baselines.mirrored_truth(ca, mask)], batch, searched),
            TRUTH: _mean_scores([baselines.truth(ca, mask)], batch, searched),
        }
        others, known = _others(chains, part, batch, pool, seed)
        scores = _mean_scores(others, batch, searched)
        found = {OTHER: {k: v.where(known, torch.nan) for k, v in scores.items()}, **found}
        if with_wiener:
            found[WIENER] = _wiener_scores(module, batch, seed)
        rows.append(found)
    return joined(rows)


def joined(parts: Sequence[Rows]) -> Rows:
    """The chains of several parts one after the other; every part has the same rows and scores."""
    return {
        row: {name: torch.cat([part[row][name] for part in parts]) for name in parts[0][row]}
        for row in (parts[0] if parts else ())
    }


def _batches(
    chains: ChainDataset, indices: Sequence[int], size: int, device: torch.device
) -> Iterator[tuple[Sequence[int], ProteinBatch]]:
    for start in range(0, len(indices), size):
        part = indices[start : start + size]
        yield part, collate([chains[i] for i in part]).to(device)


def _key(name: str, sample: int) -> str:
    return name if sample == 0 else f"{name}/{sample}"


def _mean_scores(guesses: Sequence[Tensor], batch: ProteinBatch, searched: bool) -> dict[str, Tensor]:
    """Scores of each chain, as means over several guesses at it."""
    scored = score_guesses(
        {MODEL: torch.stack(list(guesses)).float()},
        batch.ca.float(),
        batch.ca_mask,
        batch.bonded,
        searched=searched,
    )
    return {name: values.mean(0).cpu() for name, values in scored[MODEL].items()}


def _x0_scores(step: OneStep, batch: ProteinBatch) -> dict[str, Tensor]:
    return {
        x0_tm(t): tm_kabsch(x0, batch.ca.float(), batch.ca_mask).double().cpu()
        for t, x0 in zip(step.times, step.x0, strict=True)
    }


def _wiener_scores(module: DiffusionModule, batch: ProteinBatch, seed: int) -> dict[str, Tensor]:
    schedule = module.noise_schedule
    times = dashboard_times(schedule.timesteps)
    unit = module.target(batch).unit
    scores = {}
    for t, noised in zip(times, noised_chains(module, batch, times, seed=seed), strict=True):
        alpha_bar = schedule.alpha_bar(torch.full((len(batch),), t), torch.float64)
        smooth = wiener_smoother(noised, alpha_bar, batch.residue_mask, unit)
        scores[x0_tm(t)] = tm_kabsch(smooth, batch.ca.float(), batch.ca_mask).double()
    return scores


def _others(
    chains: ChainDataset, part: Sequence[int], batch: ProteinBatch, pool: Mapping[int, Tensor], seed: int
) -> tuple[list[Tensor], Tensor]:
    """Random windows of other chains, none of the target's own cluster; which targets have any to draw from."""
    clusters, ca, mask = chains.store.clusters, batch.ca.float(), batch.ca_mask
    cluster = {i: clusters[int(chains.indices[i])] for i in {*part, *pool}}
    pools = [
        [trace for j, trace in pool.items() if j != i and (cluster[i] is None or cluster[j] != cluster[i])]
        for i in part
    ]
    known = torch.tensor([bool(p) for p in pools])
    generators = [keyed_generator(seed, "random_chain", name) for name in batch.names]
    drawn = []
    for _ in range(OTHER_CHAINS):
        guess = torch.zeros_like(ca)
        for k, candidates in enumerate(pools):
            if candidates:
                row = slice(k, k + 1)
                guess[row] = baselines.random_chain(ca[row], mask[row], candidates, generators[row])
        drawn.append(guess)
    return drawn, known
