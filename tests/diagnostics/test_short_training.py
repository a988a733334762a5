"""Training for a given time: it learns, it ends in time, and the same seed takes the same first steps."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.diagnostics import short_training
from minifold_pl.diagnostics.short_training import Part, ShortTraining, TrainingPoint, train_for
from minifold_pl.modules.diffusion import DiffusionModule

CONFIG = ShortTraining(seconds=1e9, batch_size=2, noise_draws=2, warmup_steps=5)


class Clock:
    """A second a look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> None:
    monkeypatch.setattr(short_training, "monotonic", Clock())


def test_it_learns_and_ends_with_the_averaged_weights(
    diffusion: DiffusionModule, chains: ChainDataset
) -> None:
    points: list[TrainingPoint] = []
    end = train_for(diffusion, chains, replace(CONFIG, seconds=70.0), points.append, every=12.0)
    assert not diffusion.training
    assert end.skipped == 0 and end.steps > 15 and end.chains <= 2 * end.steps
    assert points[-1].terms["total"] < 0.95 * points[0].terms["total"]
    assert [p.step for p in points] == sorted({p.step for p in points})


def test_the_same_seed_takes_the_same_steps_and_another_takes_others(
    diffusion: DiffusionModule, chains: ChainDataset
) -> None:
    def weights(seed: int) -> torch.Tensor:
        module = copy.deepcopy(diffusion)
        short_training.monotonic = Clock()
        train_for(module, chains, replace(CONFIG, seconds=12.0, seed=seed))
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    first = weights(0)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


def test_the_trunk_is_taught_first_and_alone(chains: ChainDataset) -> None:
    torch.manual_seed(0)
    module = instantiate_model(
        "v13_small.yaml",
        ["--model.init_args.trunk_losses.distogram=0.3", "--model.init_args.freeze_encoder=false"],
    )
    assert isinstance(module, DiffusionModule)
    before = copy.deepcopy(module.state_dict())
    points: list[TrainingPoint] = []

    def moved() -> set[str]:
        return {
            name.split(".")[0] for name, w in module.state_dict().items() if not torch.equal(w, before[name])
        }

    def look(point: TrainingPoint) -> None:
        points.append(point)
        if point.terms.keys() == {"distogram", "total"}:
            assert moved() == {"encoder", "pair_stack", "trunk_heads"}

    train_for(module, chains, replace(CONFIG, seconds=60.0, trunk_share=0.5), look, every=5.0)
    assert len(points[0].terms) == 2 < len(points[-1].terms)
    assert "denoiser" in moved()


def test_what_is_done_on_the_way_sees_the_average_and_changes_nothing(
    diffusion: DiffusionModule, chains: ChainDataset, monkeypatch
) -> None:
    """A second a step and an hour a part: the hours do not count, and the end is that of a training without them."""
    now = 0.0
    collate = short_training.collate

    def step(items: object) -> object:
        nonlocal now
        now += 1.0
        return collate(items)

    monkeypatch.setattr(short_training, "monotonic", lambda: now)
    monkeypatch.setattr(short_training, "collate", step)

    def flat(module: DiffusionModule) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    def trained(seconds: float, *shares: float) -> tuple[torch.Tensor, list[torch.Tensor], int]:
        nonlocal now
        module, seen = copy.deepcopy(diffusion), []

        def look() -> None:
            nonlocal now
            now += 3600
            assert not module.training and not torch.is_grad_enabled()
            seen.append(flat(module))
            torch.randn(7)

        now = 0.0
        config = replace(CONFIG, seconds=seconds, ema_decay=0.9)
        end = train_for(module, chains, config, parts=[Part(share, look) for share in shares])
        return flat(module), seen, end.steps

    plain, _, steps = trained(12.0)
    other, seen, others = trained(12.0, 0.75, 0.5)
    assert steps == others == 12 and len(seen) == 2
    torch.testing.assert_close(other, plain, rtol=0, atol=0)
    assert not torch.equal(seen[0], seen[1])


def test_the_average_is_there_for_a_while(diffusion: DiffusionModule) -> None:
    parameters = list(diffusion.train().parameters())
    raw = [p.detach().clone() for p in parameters]
    average = [p + 1 for p in raw]
    with pytest.raises(RuntimeError), short_training._averaged(diffusion, parameters, average):
        assert all(torch.equal(p, a) for p, a in zip(parameters, average, strict=True))
        raise RuntimeError
    assert diffusion.training
    assert all(torch.equal(p, r) for p, r in zip(parameters, raw, strict=True))


def test_without_losses_of_its_own_the_trunk_is_not_taught_first(
    diffusion: DiffusionModule, chains: ChainDataset
) -> None:
    points: list[TrainingPoint] = []
    train_for(diffusion, chains, replace(CONFIG, seconds=12.0, trunk_share=0.9), points.append, every=2.0)
    assert "fape" in points[0].terms


def test_every_chain_is_seen_once_an_epoch(chains: ChainDataset) -> None:
    seen: dict[int, list[int]] = {}
    for epoch, places in short_training._batches(chains, CONFIG):
        if epoch == 3:
            break
        seen.setdefault(epoch, []).extend(places)
        assert len(places) <= 2
    assert all(sorted(places) == list(range(len(chains))) for places in seen.values())
    assert seen[0] != seen[1]


@pytest.mark.parametrize(
    "wrong",
    [{"seconds": 0.0}, {"lr": -1.0}, {"batch_size": 0}, {"ema_decay": 1.0}, {"trunk_share": 1.0}],
    ids=str,
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(CONFIG, **wrong)
