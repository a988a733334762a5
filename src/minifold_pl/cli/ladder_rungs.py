"""Rungs 1 to 4 of ``minifold-pl diagnose ladder``: what nothing is trained for, and real chains learnt by heart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from minifold_pl.cli.ladder_climb import NO_DATA, Climb, Goal, Rung, ddim_of, interval, told
from minifold_pl.cli.ladder_folds import synthetic_folds, synthetic_store
from minifold_pl.constants import CA_ATOM
from minifold_pl.data.collate import collate
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.data.store import ChainStore
from minifold_pl.diffusion.draws import centered_noise, keyed_generator
from minifold_pl.diffusion.known_data import LibraryPosterior, Oracle
from minifold_pl.diffusion.process import add_noise
from minifold_pl.diffusion.samplers import ddim
from minifold_pl.geometry.frames import random_rotations
from minifold_pl.geometry.units import center, to_angstrom, to_model_units
from minifold_pl.metrics.baselines import random_chain
from minifold_pl.metrics.tm import tm_kabsch
from minifold_pl.metrics.tm_search import searched_scores
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.sequence_controls import shuffled_tokens
from minifold_pl.types import Denoised, ProteinBatch

_LIBRARY: Final = 24
_WINDOW: Final = 60
_DRAWN: Final = 8
_TIMES: Final = (100, 500, 900)


# --- 1 and 2: nothing is trained -------------------------------------------------------------------------------------


def sampler(climb: Climb) -> Rung:
    """The sampler with denoisers that are known to be right, and with ones that are known to be wrong."""
    rung = Rung(number=1, title="the sampler reaches what an ideal denoiser knows")
    schedule = climb.model().noise_schedule
    library = _windows(climb, _LIBRARY, _WINDOW)
    mask = torch.ones(len(library), library.shape[1], dtype=torch.bool)

    def sampled(denoise: Callable[..., Denoised], steps: int, eta: float) -> Tensor:
        generators = [keyed_generator(climb.seed, "ladder", k) for k in range(_DRAWN)]
        return ddim(denoise, schedule, mask[:_DRAWN], generators=generators, steps=steps, eta=eta).x0

    def nearest(x: Tensor) -> float:
        tms = [
            searched_scores(to_angstrom(s.expand_as(library)), to_angstrom(library), mask).tm.max() for s in x
        ]
        return float(torch.stack(tms).mean())

    known = library[:_DRAWN]
    oracle = min(
        float(
            tm_kabsch(
                to_angstrom(sampled(Oracle(known), steps, eta)), to_angstrom(known), mask[:_DRAWN]
            ).min()
        )
        for steps in (10, 50)
        for eta in (0.0, 1.0)
    )
    rung.goals.append(Goal(name="TM of an oracle's samples, the worst", value=oracle, target=0.9995))
    right = nearest(sampled(LibraryPosterior(library, schedule), 50, 0.0))
    rung.goals.append(Goal(name="TM to the library, exact posterior", value=right, target=0.9995))
    for name, wrong in {
        "× 1.3": {"scale": 1.3},
        "× 0.7": {"scale": 0.7},
        "mirrored": {"mirrored": True},
    }.items():
        denoise = LibraryPosterior(library, schedule, **wrong)  # type: ignore[arg-type]
        value = nearest(sampled(denoise, 50, 0.0))
        rung.goals.append(
            Goal(name=f"TM to the library, posterior {name}", value=value, target=0.5, at_least=False)
        )
    return rung


def equivariance(climb: Climb) -> Rung:
    """f(Qx) against Q f(x), with weights as if trained: maps that begin at 0 hide what is behind them."""
    rung = Rung(number=2, title="the denoiser turns along with the chain: f(Qx) = Q f(x)")
    module = climb.model().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        batch = module.example_batch(2, 60)
        condition = module.condition(batch, module.encode(batch.tokens))
        turn = random_rotations(1)[0].to(climb.device)
        truth = module.target(batch).x0
        for t in _TIMES:
            noise = centered_noise(batch.residue_mask, [keyed_generator(climb.seed, t, k) for k in range(2)])
            times = torch.full((2,), max(1, t * module.noise_schedule.timesteps // 1000), device=noise.device)
            x = add_noise(truth, times, noise, module.noise_schedule)
            here: Denoised | None = None
            there: Denoised | None = None
            for name in ("", ", begun from its own estimate"):  # as sampling does it from its second step on
                here, there = (
                    module.denoiser(y, times, condition, before)
                    for y, before in ((x, here), (x @ turn.T, there))
                )
                error = float((there.x0 - here.x0 @ turn.T).abs().max())
                rung.goals.append(
                    Goal(
                        name=f"largest error at t = {t}{name}, model units",
                        value=error,
                        target=1e-4,
                        at_least=False,
                    )
                )
    return rung


# --- 3 and 4: learn by heart -----------------------------------------------------------------------------------------


def one_chain(climb: Climb) -> Rung:
    """One real chain, learnt by heart."""
    rung = Rung(number=3, title="learns one real chain by heart in 3 minutes", minutes=3)
    chains = _real(climb, limit=1, shortest=50, longest=80)
    module = climb.model("--model.init_args.p_uncond=0")
    end = climb.train(module, chains, 140, noise_draws=16, batch_size=1)
    rung.training = told(end, chains)
    tm, _ = _memory(module, chains, climb)
    rung.rows["samples"] = {"tm_score": interval(tm)}
    rung.goals.append(Goal(name="TM of DDIM samples", value=float(tm.mean()), target=0.97))
    return rung


def thirty_two_chains(climb: Climb) -> Rung:
    """32 real chains, told apart by their sequences alone."""
    rung = Rung(
        number=4, title="learns 32 real chains by heart in 15 minutes, by their sequences", minutes=15
    )
    chains = _real(climb, limit=32, shortest=40, longest=128)
    module = climb.model("--model.init_args.p_uncond=0")
    end = climb.train(module, chains, 810)
    rung.training = told(end, chains)
    tm, shuffled = _memory(module, chains, climb)
    chance = _chance(chains, climb)
    rung.rows = {
        "samples": {"tm_score": interval(tm)}, "shuffled sequences": {"tm_score": interval(shuffled)},
        "another of the chains": {"tm_score": interval(chance)},
    }  # fmt: skip
    rung.goals += [
        Goal(name="mean TM of DDIM samples", value=float(tm.mean()), target=0.93),
        Goal(
            name="mean TM with shuffled sequences, at most chance + 0.05", value=float(shuffled.mean()),
            target=float(chance.mean()) + 0.05, at_least=False,
        ),
    ]  # fmt: skip
    return rung


# --- what they share -------------------------------------------------------------------------------------------------


def _real(climb: Climb, *, limit: int, shortest: int, longest: int) -> ChainDataset:
    if climb.data is None:
        raise ValueError(NO_DATA)
    store = ChainStore.open(climb.data)
    chains = ChainDataset(
        store, "train", max_length=longest, long_chains="drop", seed=climb.seed, random_rotation=True,
        one_per_cluster=True, needs="backbone",
    )  # fmt: skip
    whole = [i for i in range(len(chains)) if chains.lengths[i] >= shortest and _complete(chains, i)]
    if len(whole) < limit:
        raise ValueError(
            f"{climb.data} has {len(whole)} complete training chains of {shortest} to {longest} residues, and "
            f"{limit} are needed"
        )
    drawn = torch.randperm(len(whole), generator=keyed_generator(climb.seed, "ladder", limit))[:limit]
    return chains.only([whole[i] for i in drawn.tolist()])


def _complete(chains: ChainDataset, i: int) -> bool:
    item = chains[i]
    return bool(item.atom_mask.all() and item.bonded[:-1].all())


def _memory(module: DiffusionModule, chains: ChainDataset, climb: Climb) -> tuple[Tensor, Tensor]:
    """TM of samples, with the real and with shuffled sequences."""
    batch = collate([chains[i] for i in range(len(chains))]).to(climb.device)
    found = []
    for tokens in (batch.tokens, shuffled_tokens(batch, climb.seed)):
        drawn = module.sample(
            replace(batch, tokens=tokens),
            ddim_of(module),
            seed=climb.seed,
            keys=batch.names,
            confidence=False,
        ).x0.float()
        found.append(searched_scores(drawn, batch.ca, batch.ca_mask).tm.cpu())
    return found[0], found[1]


def _chance(chains: ChainDataset, climb: Climb) -> Tensor:
    """TM of each chain to another one of them, the shorter one laid on a piece of the longer."""
    traces = [torch.from_numpy(chains[i].coords[:, CA_ATOM]) for i in range(len(chains))]
    batch: ProteinBatch = collate([chains[i] for i in range(len(chains))])
    found = []
    for i, name in enumerate(batch.names):
        row = slice(i, i + 1)
        pool = [trace for k, trace in enumerate(traces) if k != i]
        guess = random_chain(
            batch.ca[row], batch.ca_mask[row], pool, [keyed_generator(climb.seed, "ladder chance", name)]
        )
        found.append(searched_scores(guess, batch.ca[row], batch.ca_mask[row]).tm)
    return torch.cat(found)


def _windows(climb: Climb, count: int, length: int) -> Tensor:
    """Pieces of that many chains, model units, centred: real ones where there are any."""
    store = ChainStore.open(climb.data) if climb.data is not None else synthetic_store(climb)
    chains = ChainDataset(store, "train", max_length=None, needs="ca", random_rotation=True)
    found = []
    for i in range(len(chains)):
        ca = torch.from_numpy(chains[i].coords[:length, CA_ATOM])
        if len(ca) == length and bool(ca.isfinite().all()):
            found.append(ca)
        if len(found) == count:
            library = torch.stack(found)
            return to_model_units(center(library, torch.ones(library.shape[:2], dtype=torch.bool)))
    raise ValueError(f"there are {len(found)} training chains of {length} residues, and {count} are needed")


RUNGS: Mapping[int, Callable[[Climb], Rung]] = {
    1: sampler, 2: equivariance, 3: one_chain, 4: thirty_two_chains, 5: synthetic_folds,
}  # fmt: skip
