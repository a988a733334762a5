"""What the rungs of ``minifold-pl diagnose ladder`` share: goals, models from fresh weights, scores with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from minifold_pl.cli.evaluate_structures import BASELINES, MODEL, Scores, score_structures
from minifold_pl.cli.generation import choose_device
from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.diagnostics.chains import batches
from minifold_pl.diagnostics.short_training import Part, ShortTraining, TrainingEnd, TrainingPoint, train_for
from minifold_pl.metrics.bootstrap import Interval, bootstrap_interval
from minifold_pl.metrics.lddt import lddt_ca
from minifold_pl.metrics.tm_search import searched_scores
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.sampling import SamplerConfig

STEPS: Final = 25
"""Of DDIM, in every rung; its other settings are the config's."""
TRUNK_SHARE: Final = 0.25
"""Share of a training on many folds that goes to encoder and pair stack alone, before the denoiser's; by heart there is
nothing to gain by it."""
NO_DATA: Final = "rungs 3, 4 and 6 are about real chains: give a prepared data set with --data"
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
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of a rung that compares several: all that is known of each."""
    note: str = ""
    minutes: float | None = None
    """The whole rung's time must stay within, on two CPU cores."""

    def within(self, seconds: float) -> None:
        """Take the whole rung's time for a goal, where it has one."""
        if self.minutes is not None:
            goal = Goal(name="minutes, all told", value=seconds / 60, target=self.minutes, at_least=False)
            self.goals.append(goal)

    @property
    def met(self) -> bool:
        """Whether all its goals are; a rung that asks for nothing has figures alone."""
        return all(goal.met for goal in self.goals)

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "rung": self.number, "title": self.title, "met": self.met, "goals": [goal.told() for goal in self.goals],
            "rows": self.rows, "training": self.training, "models": self.models, "note": self.note,
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
        """The config's model with fresh weights, the same for the same seed, and those that it names."""
        torch.manual_seed(self.seed)
        module = instantiate_model(self.config, [*self.overrides, *overrides])
        if not isinstance(module, DiffusionModule):
            raise ValueError(
                f"{self.config} is of the first stage: the ladder is for models that sample structures"
            )
        module.begin_weights()
        return module.to(self.device)

    def train(
        self,
        module: DiffusionModule,
        chains: ChainDataset,
        seconds: float,
        *,
        parts: Sequence[Part] = (),
        **changes: Any,
    ) -> TrainingEnd:
        """Train for ``seconds``, times the scale; ``parts`` are done on the way, and their time does not count."""

        def tell(point: TrainingPoint) -> None:
            total = point.terms["total"]
            self.tell(f"  {point.seconds:.0f} s, step {point.step}, epoch {point.epoch}: loss {total:.3f}")

        config = replace(self.training, seconds=seconds * self.scale, **changes)
        return train_for(module, chains, config, tell, parts=parts)


def climb_with(settings: Mapping[str, Any], data: Path | None, tell: Callable[[str], None]) -> Climb:
    """By the command's settings, under the names of its options."""
    return Climb(
        config=settings["config"],
        overrides=tuple(f"--{setting.lstrip('-')}" for setting in settings["set"]),
        data=data,
        synthetic=Path(settings["out"]) / "synthetic",
        training=ShortTraining(seconds=1.0, seed=settings["seed"]),
        scale=settings["scale"],
        seed=settings["seed"],
        device=choose_device(settings["device"]),
        tell=tell,
    )


class Evaluation(NamedTuple):
    """Samples of a set of chains and what trivial predictions score there."""

    rows: dict[str, dict[str, Any]]
    """Row → score → mean, 95 % interval over chains, and count."""
    by_chain: Scores
    clusters: list[str]
    """Of each chain: its fold, or the family of like sequences."""

    def gain(self, baseline: str) -> Interval:
        """TM-score of the model less that of a baseline, chain by chain; the interval is over whole clusters."""
        pairs = zip(self.by_chain[MODEL]["tm_score"], self.by_chain[baseline]["tm_score"], strict=True)
        return bootstrap_interval([ours - theirs for ours, theirs in pairs], groups=self.clusters)

    def by_cluster(self) -> dict[str, dict[str, float]]:
        """Cluster → mean TM-score of the model and of the baselines, and how many chains."""
        found: dict[str, dict[str, float]] = {}
        for cluster in dict.fromkeys(self.clusters):
            members = [i for i, other in enumerate(self.clusters) if other == cluster]
            found[cluster] = {"n": len(members)} | {
                row: math.fsum(self.by_chain[row]["tm_score"][i] for i in members) / len(members)
                for row in self.rows
            }
        return found


def evaluated(module: DiffusionModule, chains: ChainDataset, pool: ChainDataset, seed: int) -> Evaluation:
    """The model's and the baselines' scores, as ``evaluate`` measures them."""
    with module.sharing_trunks():
        listed, scores = score_structures(
            module,
            chains,
            pool,
            ddim_of(module),
            seed=seed,
            num_samples=1,
            batch_size=16,
            advance=lambda count: None,
            times=[975 * module.noise_schedule.timesteps // 1000],
        )
    rows: dict[str, dict[str, Any]] = {
        row: {name: interval(by_score[name]) for name in _SCORES if name in by_score}
        for row, by_score in scores.items()
        if row in (MODEL, *BASELINES)
    }
    store = chains.store
    clusters = {store.names[i]: store.clusters[i] or store.names[i] for i in chains.indices.tolist()}
    return Evaluation(rows, scores, [clusters[chain["name"]] for chain in listed])


def sampled(
    module: DiffusionModule, chains: ChainDataset, seed: int, sampler: SamplerConfig
) -> dict[str, dict[str, Any]]:
    """TM and lDDT-Cα of the samples that :func:`evaluated` draws, without the baselines: cheap enough on the way."""
    found: dict[str, list[float]] = {}
    for batch in batches(chains, 16, module.device):
        with module.sharing_trunks():
            keys = [f"{name}/0" for name in batch.names]
            drawn = module.sample(batch, sampler, seed=seed, keys=keys, confidence=False).x0.float()
        found.setdefault("tm_score", []).extend(searched_scores(drawn, batch.ca, batch.ca_mask).tm.tolist())
        found.setdefault("lddt_ca", []).extend(lddt_ca(drawn, batch.ca, batch.ca_mask).tolist())
    return {name: interval(values) for name, values in found.items()}


def ddim_of(module: DiffusionModule) -> SamplerConfig:
    """The config's DDIM with the ladder's number of steps."""
    given = module.sampler
    return replace(given, steps=STEPS, compile="off") if given.kind == "ddim" else SamplerConfig(steps=STEPS)


def interval(values: Sequence[float] | Tensor) -> dict[str, Any]:
    """Mean, 95 % bootstrap interval and count."""
    return bootstrap_interval(torch.as_tensor(values).tolist())._asdict()


def told(end: TrainingEnd, chains: ChainDataset) -> dict[str, Any]:
    """A training, for JSON."""
    return {**end._asdict(), "distinct_chains": len(chains)}


def parameters(module: DiffusionModule) -> int:
    """How many numbers it is made of, frozen ones too."""
    return sum(p.numel() for p in module.parameters())
