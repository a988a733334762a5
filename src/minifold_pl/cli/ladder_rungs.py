"""The rungs of ``minifold-pl diagnose ladder``: what each asks of a model, and how it is measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from minifold_pl.cli.evaluate_structures import BASELINES, MODEL, score_structures
from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.constants import CA_ATOM
from minifold_pl.data.collate import collate
from minifold_pl.data.datamodule import write_synthetic
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.data.store import ChainStore
from minifold_pl.data.synthetic import SyntheticConfig
from minifold_pl.diagnostics.chains import batches
from minifold_pl.diagnostics.sequence import sequence_gains, sequence_scores
from minifold_pl.diagnostics.short_training import ShortTraining, TrainingEnd, TrainingPoint, train_for
from minifold_pl.diagnostics.steps import LOSS
from minifold_pl.diffusion.draws import centered_noise, keyed_generator
from minifold_pl.diffusion.known_data import LibraryPosterior, Oracle
from minifold_pl.diffusion.samplers import ddim
from minifold_pl.geometry.frames import random_rotations
from minifold_pl.geometry.units import center, to_angstrom, to_model_units
from minifold_pl.losses.trunk import DISTOGRAM
from minifold_pl.metrics.baselines import random_chain
from minifold_pl.metrics.bootstrap import bootstrap_interval
from minifold_pl.metrics.comparison import SEES_ANSWER
from minifold_pl.metrics.contacts import contact_precision
from minifold_pl.metrics.lddt import lddt_ca
from minifold_pl.metrics.tm import tm_kabsch
from minifold_pl.metrics.tm_search import searched_scores
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.sampling import SamplerConfig
from minifold_pl.modules.sequence_controls import shuffled_tokens
from minifold_pl.types import Denoised, ProteinBatch

STEPS: Final = 25
"""Of DDIM, in every rung; its other settings are the config's."""
SYNTHETIC: Final = SyntheticConfig(n=2664, folds=72, min_length=40, max_length=100)
"""2,016 chains of 63 folds to train on; 315 others of these folds, and 333 of 9 more, to test."""
TRUNK_SHARE: Final = 0.25
"""Share of a training on many folds that goes to encoder and pair stack alone, before the denoiser's; by heart there is
nothing to gain by it."""
TRAINING: Final = "training."
"""Begins an ablation of the training, by a field of :class:`ShortTraining`."""
_LIBRARY: Final = 24
_WINDOW: Final = 60
_DRAWN: Final = 8
_LATE: Final = (725, 850, 975)
_NO_DATA: Final = "rungs 3, 4 and 6 are about real chains: give a prepared data set with --data"
_TIMES: Final = (100, 500, 900)
_SCORES: Final = ("tm_score", "lddt_ca", "tm_kabsch", "x0_tm_t975")


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One number that a rung asks for."""

    name: str
    value: float
    target: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether it is reached; NaN is not."""
        return self.value >= self.target if self.at_least else self.value <= self.target

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "met": self.met}


@dataclass(kw_only=True)
class Rung:
    """What came of a rung."""

    number: int
    title: str
    goals: list[Goal] = field(default_factory=list)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Row of a table → score → mean, 95 % interval and count, or a number."""
    training: dict[str, Any] | None = None

    @property
    def met(self) -> bool:
        """Whether all its goals are; a rung that asks for nothing has figures alone."""
        return all(goal.met for goal in self.goals)

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "rung": self.number, "title": self.title, "met": self.met, "goals": [goal.told() for goal in self.goals],
            "rows": self.rows, "training": self.training, "note": "",
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Climb:
    """What is climbed with."""

    config: str
    overrides: tuple[str, ...]
    data: Path | None
    """A prepared store of real chains."""
    synthetic: Path
    """Where the synthetic set is, or is made."""
    training: ShortTraining
    """Settings of the trainings, but for their time."""
    scale: float = 1.0
    """Multiple of every training's time: below 1 for a try."""
    seed: int = 0
    device: torch.device
    tell: Callable[[str], None] = print

    def model(self, *overrides: str) -> DiffusionModule:
        """The config's model with fresh weights, the same for the same seed."""
        torch.manual_seed(self.seed)
        module = instantiate_model(self.config, [*self.overrides, *overrides])
        if not isinstance(module, DiffusionModule):
            raise ValueError(
                f"{self.config} is of the first stage: the ladder is for models that sample structures"
            )
        return module.to(self.device)

    def train(
        self, module: DiffusionModule, chains: ChainDataset, seconds: float, **changes: Any
    ) -> TrainingEnd:
        """Train for ``seconds``, times the scale."""

        def tell(point: TrainingPoint) -> None:
            total = point.terms["total"]
            self.tell(f"  {point.seconds:.0f} s, step {point.step}, epoch {point.epoch}: loss {total:.3f}")

        return train_for(
            module, chains, replace(self.training, seconds=seconds * self.scale, **changes), tell
        )


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
        for t in _TIMES:
            x = centered_noise(batch.residue_mask, [keyed_generator(climb.seed, t, k) for k in range(2)])
            times = torch.full((2,), max(1, t * module.noise_schedule.timesteps // 1000), device=x.device)
            here, there = (module.denoiser(y, times, condition).x0 for y in (x, x @ turn.T))
            error = float((there - here @ turn.T).abs().max())
            rung.goals.append(
                Goal(name=f"largest error at t = {t}, model units", value=error, target=1e-4, at_least=False)
            )
    return rung


# --- 3 and 4: learn by heart -----------------------------------------------------------------------------------------


def one_chain(climb: Climb) -> Rung:
    """One real chain, learnt by heart."""
    rung = Rung(number=3, title="learns one real chain by heart in 3 minutes")
    chains = _real(climb, limit=1, shortest=50, longest=80)
    module = climb.model("--model.init_args.p_uncond=0")
    end = climb.train(module, chains, 140, noise_draws=16, batch_size=1)
    rung.training = _told(end, chains)
    tm, _ = _memory(module, chains, climb)
    rung.rows["samples"] = {"tm_score": _interval(tm)}
    rung.goals.append(Goal(name="TM of DDIM samples", value=float(tm.mean()), target=0.97))
    return rung


def thirty_two_chains(climb: Climb) -> Rung:
    """32 real chains, told apart by their sequences alone."""
    rung = Rung(number=4, title="learns 32 real chains by heart in 15 minutes, by their sequences")
    chains = _real(climb, limit=32, shortest=40, longest=128)
    module = climb.model("--model.init_args.p_uncond=0")
    end = climb.train(module, chains, 810)
    rung.training = _told(end, chains)
    tm, shuffled = _memory(module, chains, climb)
    chance = _chance(chains, climb)
    rung.rows = {
        "samples": {"tm_score": _interval(tm)}, "shuffled sequences": {"tm_score": _interval(shuffled)},
        "another of the chains": {"tm_score": _interval(chance)},
    }  # fmt: skip
    rung.goals += [
        Goal(name="mean TM of DDIM samples", value=float(tm.mean()), target=0.93),
        Goal(
            name="mean TM with shuffled sequences, at most chance + 0.05", value=float(shuffled.mean()),
            target=float(chance.mean()) + 0.05, at_least=False,
        ),
    ]  # fmt: skip
    return rung


# --- 5: generalise ---------------------------------------------------------------------------------------------------


def synthetic_folds(climb: Climb) -> Rung:
    """Held-out chains of folds that it has seen, and of folds that it has not."""
    rung = Rung(number=5, title="generalises on the synthetic set in 40 minutes")
    store = synthetic_store(climb)
    module, rung.training = _trained_on_folds(climb, store, 1980)
    rung.rows = _folds(module, store, climb)
    if _ddim(module).step_scale != 1:
        rung.rows["seen folds: model, steps not scaled"] = _unscaled(module, store, climb)
    seen, unseen = rung.rows["seen folds: model"], rung.rows["unseen folds: model"]
    rung.goals += [
        Goal(name="seen folds: mean TM of DDIM samples", value=seen["tm_score"]["mean"], target=0.60),
        Goal(name="seen folds: mean lDDT-Cα", value=seen["lddt_ca"]["mean"], target=0.60),
        Goal(
            name="seen folds: x̂0-TM at t = 975 less that of DDIM (least-RMSD pose)",
            value=seen["x0_tm_t975"]["mean"] - seen["tm_kabsch"]["mean"], target=0.02, at_least=False,
        ),
    ]  # fmt: skip
    for row in rung.rows:
        if row.startswith("unseen folds: ") and row.removeprefix("unseen folds: ") not in (
            MODEL,
            *SEES_ANSWER,
        ):
            rung.goals.append(
                Goal(
                    name=f"unseen folds: lower end of the model's TM above the upper one of {row[14:]}",
                    value=unseen["tm_score"]["low"], target=rung.rows[row]["tm_score"]["high"],
                )
            )  # fmt: skip
    return rung


def ablation(climb: Climb, override: str, seconds: float) -> dict[str, Any]:
    """Rung 5 with one choice switched off (``""`` for none), trained for ``seconds``: its rows and its training."""
    store = synthetic_store(climb)
    name, _, value = override.partition("=")
    if name.startswith(TRAINING):
        changes = {name.removeprefix(TRAINING): json.loads(value)}
        module, training = _trained_on_folds(climb, store, seconds, **changes)
    else:
        settings = [f"--model.init_args.{override}"] if override else []
        module, training = _trained_on_folds(climb, store, seconds, *settings)
    return {"override": override, "training": training, "rows": _folds(module, store, climb)}


def synthetic_store(climb: Climb) -> ChainStore:
    """The set of rung 5, made where it is not there."""
    if not climb.synthetic.exists():
        climb.tell(f"  making {SYNTHETIC.n:,} synthetic chains in {climb.synthetic}")
        write_synthetic(climb.synthetic, SYNTHETIC)
    store = ChainStore.open(climb.synthetic)
    if store.provenance.get("synthetic") != asdict(SYNTHETIC):
        raise ValueError(f"{climb.synthetic} is not the synthetic set of rung 5; give another folder")
    return store


def _trained_on_folds(
    climb: Climb, store: ChainStore, seconds: float, *overrides: str, **changes: Any
) -> tuple[DiffusionModule, dict[str, Any]]:
    module = climb.model(*overrides)
    chains = ChainDataset(
        store, "train", max_length=128, long_chains="drop", needs=module.needs, random_rotation=True
    )
    end = climb.train(module, chains, seconds, **{"trunk_share": TRUNK_SHARE, **changes})
    return module, _told(end, chains)


def _folds(module: DiffusionModule, store: ChainStore, climb: Climb) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for label, split in (("seen folds", "validation"), ("unseen folds", "test")):
        chains, pool = (
            ChainDataset(store, s, max_length=128, long_chains="drop", needs=module.needs)
            for s in (split, "train")
        )
        rows |= {
            f"{label}: {row}": scores for row, scores in evaluated(module, chains, pool, climb.seed).items()
        }
    return rows


def _unscaled(module: DiffusionModule, store: ChainStore, climb: Climb) -> dict[str, Any]:
    """The model's scores by DDIM as published, for what the longer steps are worth."""
    chains = ChainDataset(store, "validation", max_length=128, long_chains="drop", needs=module.needs)
    found: dict[str, list[float]] = {}
    for batch in batches(chains, 16, module.device):
        drawn = module.sample(
            batch, replace(_ddim(module), step_scale=1.0), seed=climb.seed,
            keys=[f"{name}/0" for name in batch.names], confidence=False,
        ).x0.float()  # fmt: skip
        found.setdefault("tm_score", []).extend(searched_scores(drawn, batch.ca, batch.ca_mask).tm.tolist())
        found.setdefault("lddt_ca", []).extend(lddt_ca(drawn, batch.ca, batch.ca_mask).tolist())
    return {name: _interval(values) for name, values in found.items()}


def evaluated(
    module: DiffusionModule, chains: ChainDataset, pool: ChainDataset, seed: int
) -> dict[str, dict[str, Any]]:
    """The model's and the baselines' scores with 95 % intervals, as ``evaluate`` measures them."""
    with module.sharing_trunks():
        _, scores = score_structures(
            module,
            chains,
            pool,
            _ddim(module),
            seed=seed,
            num_samples=1,
            batch_size=16,
            advance=lambda count: None,
        )
    return {
        row: {name: _interval(by_score[name]) for name in _SCORES if name in by_score}
        for row, by_score in scores.items()
        if row in (MODEL, *BASELINES)
    }


# --- 6: real chains --------------------------------------------------------------------------------------------------


def real_chains(climb: Climb, seconds: float) -> dict[str, Any]:
    """Train on real chains up to 128 residues, one per cluster an epoch; validation chains, and does it read them?"""
    if climb.data is None:
        raise ValueError(_NO_DATA)
    store = ChainStore.open(climb.data)
    module = climb.model()
    longest = min(128, module.max_residues or 128)
    train, validation = (
        ChainDataset(
            store, split, max_length=longest, long_chains="drop", needs=module.needs, seed=climb.seed,
            one_per_cluster=one_per_cluster, random_rotation=one_per_cluster,
        )
        for split, one_per_cluster in (("train", True), ("validation", False))
    )  # fmt: skip
    end = climb.train(module, train, seconds, trunk_share=TRUNK_SHARE)
    rows = evaluated(module, validation, train, climb.seed)
    rows[MODEL] |= _precision(module, validation)
    found = sequence_scores(module, validation, _LATE, seed=climb.seed, batch_size=8)
    return {
        "config": climb.config,
        "training": _told(end, train),
        "rows": rows,
        "validation_chains": len(validation),
        "sequence_loss": {row: _interval(scores[LOSS].mean(0)) for row, scores in found.rows.items()},
        "sequence_gain": {row: gain._asdict() for row, gain in sequence_gains(found).items()},
    }


@torch.no_grad()
def _precision(module: DiffusionModule, chains: ChainDataset) -> dict[str, Any]:
    """Share of true contacts among the likeliest L/5 and L pairs of long range: the trunk's, or the encoder's."""
    trunk = module.objective.trunk
    found: dict[str, list[float]] = {}
    for batch in batches(chains, 8, module.device):
        features = module.encode(batch.tokens)
        if module.trunk_heads is not None and trunk is not None and DISTOGRAM in trunk.weights:
            said = module.trunk_heads(features.single, module.condition(batch, features).pair).distogram
            probability = trunk.contact_probability(said)
        else:
            probability = module.encoder.contact_logits(features).sigmoid()
        for name, top in (("precision_long_L5", 5), ("precision_long_L", 1)):
            share = contact_precision(probability, batch.ca, batch.ca_mask, top=top)
            found.setdefault(name, []).extend(share.tolist())
    return {name: _interval(values) for name, values in found.items()}


# --- what they share -------------------------------------------------------------------------------------------------


def _real(climb: Climb, *, limit: int, shortest: int, longest: int) -> ChainDataset:
    if climb.data is None:
        raise ValueError(_NO_DATA)
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
            replace(batch, tokens=tokens), _ddim(module), seed=climb.seed, keys=batch.names, confidence=False
        ).x0.float()
        found.append(searched_scores(drawn, batch.ca, batch.ca_mask).tm.cpu())
    return found[0], found[1]


def _ddim(module: DiffusionModule) -> SamplerConfig:
    given = module.sampler
    return replace(given, steps=STEPS, compile="off") if given.kind == "ddim" else SamplerConfig(steps=STEPS)


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


def _interval(values: Sequence[float] | Tensor) -> dict[str, Any]:
    return bootstrap_interval(torch.as_tensor(values).tolist())._asdict()


def _told(end: TrainingEnd, chains: ChainDataset) -> dict[str, Any]:
    return {**end._asdict(), "distinct_chains": len(chains)}


RUNGS: Mapping[int, Callable[[Climb], Rung]] = {
    1: sampler, 2: equivariance, 3: one_chain, 4: thirty_two_chains, 5: synthetic_folds,
}  # fmt: skip
