"""Every score there is, held to what the registry says of it."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from minifold_pl.constants import BACKBONE_ATOMS, CA_ATOM, NO_LABEL
from minifold_pl.geometry.backbone import backbone_from_torsions
from minifold_pl.metrics import classes, functional
from minifold_pl.metrics.chain_mean import ChainMean
from minifold_pl.metrics.contact import ContactMetrics
from minifold_pl.metrics.contacts import contact_map
from minifold_pl.metrics.registry import SCORES, Score

LENGTHS = (40, 25, 33)
EVERY = sorted(SCORES)
SHAPES = {"pair": 2, "trace": 1, "bonded trace": 1, "backbone": 1, "samples": 1, "contacts": 2}
"""How many arguments hold coordinates or logits, by what a score takes."""


def of(kind: str) -> list[str]:
    return [name for name in EVERY if SCORES[name].takes == kind]


def backbones() -> tuple[Tensor, Tensor]:
    """Three protein-like backbones (helix, turn, strand …) and their mask, Å."""
    generator = torch.Generator().manual_seed(0)
    width = max(LENGTHS)
    helical = (torch.arange(width) // 9 % 2 == 0).expand(len(LENGTHS), -1)
    noise = 0.15 * torch.randn(2, len(LENGTHS), width, generator=generator)
    phi = torch.where(helical, -1.05, -2.1) + noise[0]
    psi = torch.where(helical, -0.8, 2.3) + noise[1]
    mask = torch.arange(width) < torch.tensor(LENGTHS)[:, None]
    return backbone_from_torsions(phi, psi), mask


def arguments(
    score: Score, backbone: Tensor, mask: Tensor, other: Tensor | None = None
) -> tuple[Tensor, ...]:
    """What the score takes, for ``backbone`` as the prediction of ``other`` (itself, where not given)."""
    other = backbone if other is None else other
    ca, truth = backbone[:, :, CA_ATOM], other[:, :, CA_ATOM]
    bonded = mask & torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
    taken: dict[str, tuple[Tensor, ...]] = {
        "pair": (ca, truth, mask),
        "trace": (ca, mask),
        "bonded trace": (ca, mask, bonded),
        "backbone": (backbone, mask),
        "samples": (torch.stack([ca, truth, truth], 1), mask),
        "contacts": (torch.where(contact_map(ca), 4.0, -4.0), truth, mask),
    }
    return taken[score.takes]


def noised(backbone: Tensor) -> Tensor:
    return backbone + 1.5 * torch.randn(backbone.shape, generator=torch.Generator().manual_seed(1))


def values(score: Score, taken: tuple[Tensor, ...]) -> Tensor:
    return score.function(*taken).double()


def test_every_exported_function_and_class_is_registered() -> None:
    functions = {score.function for score in SCORES.values()}
    exported = {getattr(functional, name) for name in functional.__all__}
    # These two give several scores at once, or a pose besides.
    assert exported - functions == {functional.searched_scores, functional.tm_superposition}
    assert functions <= exported
    written = {
        thing
        for thing in vars(classes).values()
        if isinstance(thing, type) and issubclass(thing, ChainMean) and thing is not ChainMean
    }
    assert written == {score.metric for score in SCORES.values()}
    for name, score in SCORES.items():
        assert score.function.__name__ == name
        assert score.metric.higher_is_better == score.higher_is_better


@pytest.fixture(scope="session")
def real_backbones(real_data) -> tuple[Tensor, Tensor]:
    """100 complete real chains of at most 128 residues, N, Cα, C and O, and their mask, Å."""
    chains: list[Tensor] = []
    with gzip.open(real_data / "ci_small.jsonl.gz", "rt") as file:
        for line in file:
            coords = json.loads(line)["coords"]
            chain = torch.stack([torch.tensor(coords[atom]) for atom in BACKBONE_ATOMS], 1)
            if chain.isfinite().all():
                chains.append(chain)
    backbone = torch.nn.utils.rnn.pad_sequence(chains[:100], batch_first=True)
    return backbone, torch.arange(backbone.shape[1]) < torch.tensor([len(c) for c in chains[:100]])[:, None]


@pytest.mark.parametrize("name", EVERY)
def test_real_chains_score_what_the_registry_says(name, real_backbones) -> None:
    score = SCORES[name]
    backbone, mask = real_backbones
    truth = values(score, arguments(score, backbone, mask))
    mirrored = values(score, arguments(score, backbone * torch.tensor([-1.0, 1.0, 1.0]), mask, backbone))
    if score.truth is None:
        assert truth.unique().numel() > 1  # it does depend on the chain
    else:
        torch.testing.assert_close(truth, torch.full_like(truth, score.truth), atol=1e-3, rtol=0)
    same = (mirrored - truth).abs() < 1e-5
    if score.sees_mirror is None:
        assert same.any() and not same.all()
    else:
        assert (same != score.sees_mirror).all()


@pytest.mark.parametrize("name", [n for n in EVERY if SCORES[n].truth is not None])
def test_truth_is_perfect_and_noise_is_not(name) -> None:
    score = SCORES[name]
    backbone, mask = backbones()
    expected = torch.full((len(LENGTHS),), score.truth, dtype=torch.float64)
    perfect = values(score, arguments(score, backbone, mask))
    torch.testing.assert_close(perfect, expected, atol=1e-4, rtol=0)
    worse = values(score, arguments(score, noised(backbone), mask, backbone))
    assert ((worse - expected).abs() > 1e-3).all()


@pytest.mark.parametrize("name", EVERY)
def test_a_mirror_image_is_seen_or_cannot_be_as_the_registry_says(name) -> None:
    score = SCORES[name]
    backbone, mask = backbones()
    mirror = backbone * torch.tensor([-1.0, 1.0, 1.0])
    truth = values(score, arguments(score, backbone, mask))
    mirrored = values(score, arguments(score, mirror, mask, backbone))
    if score.sees_mirror is not False:
        assert ((mirrored - truth).abs() > 0.02).any()
    else:
        torch.testing.assert_close(mirrored, truth, atol=1e-5, rtol=0, equal_nan=True)
    if score.sees_mirror and score.truth is not None:
        assert (mirrored != score.truth).all()


@pytest.mark.parametrize("filling", [1e4, float("nan"), float("inf")])
@pytest.mark.parametrize("name", EVERY)
def test_masked_residues_change_nothing(name, filling) -> None:
    score = SCORES[name]
    backbone, mask = backbones()
    mask = mask.clone()
    mask[0, 11:14] = False
    taken = arguments(score, noised(backbone), mask, backbone)
    poisoned = list(taken)
    for k in range(SHAPES[score.takes]):
        poisoned[k] = poison(taken[k], mask, filling, logits=score.takes == "contacts" and k == 0)
        assert not torch.equal(poisoned[k], taken[k])
    torch.testing.assert_close(values(score, tuple(poisoned)), values(score, taken), equal_nan=True)


def poison(x: Tensor, mask: Tensor, filling: float, *, logits: bool) -> Tensor:
    if logits:
        return x.masked_fill(~(mask[:, :, None] & mask[:, None, :]), filling)
    residues = mask[:, None, :, None] if x.ndim == 4 and x.shape[1] == 3 else mask[:, :, None, None]
    return x.masked_fill(~(residues if x.ndim == 4 else mask[:, :, None]), filling)


@pytest.mark.parametrize("name", EVERY)
def test_a_chain_alone_scores_as_in_a_batch(name) -> None:
    score = SCORES[name]
    backbone, mask = backbones()
    together = values(score, arguments(score, noised(backbone), mask, backbone))
    for k, length in enumerate(LENGTHS):
        pred, true = (x[k : k + 1, :length] for x in (noised(backbone), backbone))
        alone = values(score, arguments(score, pred, mask[k : k + 1, :length], true))
        torch.testing.assert_close(alone, together[k : k + 1], atol=1e-5, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("name", EVERY)
def test_a_chain_without_residues_is_no_better_than_any_other(name) -> None:
    score = SCORES[name]
    backbone, mask = backbones()
    mask = mask.clone()
    mask[1] = False
    found = values(score, arguments(score, noised(backbone), mask, backbone))
    assert found[[0, 2]].isfinite().all()
    # A count of nothing is 0, a share of nothing is undefined.
    assert found[1].isnan() or name == "clash_count"


@pytest.mark.parametrize("name", EVERY)
def test_metric_gives_the_mean_of_its_function_over_batches_and_can_be_reset(name) -> None:
    score = SCORES[name]
    backbone, mask = backbones()
    taken = arguments(score, noised(backbone), mask, backbone)
    metric = score.metric()
    assert metric.full_state_update is False
    expected = metric.score(*taken).double()
    expected = expected[~expected.isnan()].mean().float()
    for rows in (slice(0, 2), slice(2, 3)):
        metric.update(*(x[rows] for x in taken))
    torch.testing.assert_close(metric.compute(), expected, equal_nan=True)
    metric.reset()
    assert metric.chains == 0
    metric(*taken)
    torch.testing.assert_close(pickle.loads(pickle.dumps(metric)).compute(), expected, equal_nan=True)


@pytest.mark.parametrize("name", [n for n in EVERY if SCORES[n].takes in ("pair", "contacts")])
@pytest.mark.parametrize("filling", [float("nan"), float("inf")])
def test_a_truth_that_is_not_known_where_the_mask_says_so_is_refused_by_name(name, filling) -> None:
    score = SCORES[name]
    backbone, mask = backbones()
    first, truth, mask = arguments(score, noised(backbone), mask, backbone)
    truth = truth.clone()
    truth[1, 7, 2] = filling
    with pytest.raises(ValueError, match=r"truth of chain 1 of the batch is .* at residue 7"):
        score.function(first, truth, mask)


WORST = {"rmsd": float("inf"), "rg_ratio": float("inf"), "clash_count": 31 * 32 / 2, "diversity": 2 / 3}
"""Of a chain of 33 residues; 0 for every other score."""


@pytest.mark.parametrize("name", [n for n in EVERY if SCORES[n].takes != "contacts"])
def test_a_prediction_without_numbers_scores_worst_and_stays_in_the_mean(name) -> None:
    score = SCORES[name]
    backbone, mask = backbones()
    lost = backbone.clone()
    lost[2] = float("nan")
    found = values(score, arguments(score, lost, mask, backbone))
    whole = values(score, arguments(score, backbone, mask))
    assert found[2] == pytest.approx(WORST.get(name, 0), abs=1e-5)
    torch.testing.assert_close(found[:2], whole[:2])
    lost = backbone.clone()
    lost[2, 5] = float("inf")
    assert not values(score, arguments(score, lost, mask, backbone)).isnan().any()


@pytest.mark.parametrize("name", of("pair"))
@pytest.mark.parametrize("size", [1e4, 1e6, 1e12, 1e20, 3e38])
def test_a_prediction_that_ran_away_has_a_score_and_a_bad_one(name, size) -> None:
    score = SCORES[name]
    backbone, mask = backbones()
    away = size * torch.randn(backbone.shape, generator=torch.Generator().manual_seed(4))
    found = values(score, arguments(score, away.clamp(-3.4e38, 3.4e38), mask, backbone))
    assert not found.isnan().any()
    if score.higher_is_better and name != "secondary_structure_agreement":
        assert (found < 0.01 + 4 / 25).all() if name.startswith("gdt") else (found < 0.05).all()
    elif not score.higher_is_better:
        assert (found > 100).all()


@pytest.mark.parametrize("name", [n for n in of("pair") if SCORES[n].higher_is_better])
def test_one_residue_that_ran_away_costs_one_residue(name) -> None:
    score = SCORES[name]
    backbone, mask = backbones()
    away = backbone.clone()
    away[:, 20] = 1e20
    found = values(score, arguments(score, away, mask, backbone))
    if "kabsch" not in name:
        assert (found > 1 - 8 / 25).all()
    assert (found < 1).all()


@pytest.mark.parametrize("name", ["tm_score", "gdt_ts", "gdt_ha"])
@pytest.mark.parametrize("extent", [1e3, 1e5, 1e8])
def test_equal_chains_of_any_extent_are_equal(name, extent) -> None:
    generator = torch.Generator().manual_seed(5)
    ca = extent * torch.randn(2, 60, 3, generator=generator, dtype=torch.float64)
    found = SCORES[name].function(ca, ca, torch.ones(2, 60, dtype=torch.bool))
    torch.testing.assert_close(found, torch.ones_like(found), atol=1e-3, rtol=0)


def test_truth_is_left_alone_by_every_score() -> None:
    backbone, mask = backbones()
    for score in SCORES.values():
        taken = arguments(score, noised(backbone), mask, backbone)
        before = [x.clone() for x in taken]
        score.function(*taken)
        assert all(torch.equal(a, b) for a, b in zip(taken, before, strict=True))


def run_metrics(pick: Callable[[Tensor], Tensor]) -> dict[str, ChainMean]:
    backbone, mask = backbones()
    found: dict[str, ChainMean] = {}
    for name, score in SCORES.items():
        found[name] = score.metric()
        found[name].update(*(pick(x) for x in arguments(score, noised(backbone), mask, backbone)))
    return found


def run_contact_collection(pick: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """The collection that training uses, with one label missing."""
    backbone, mask = backbones()
    generator = torch.Generator().manual_seed(2)
    output = SimpleNamespace(
        class_logits=pick(torch.eye(4)[[0, 1, 3]]),
        architecture_logits=pick(torch.eye(4)[[2, 2, 2]]),
        contact_logits=pick(torch.randn(len(mask), *[mask.shape[1]] * 2, generator=generator)),
    )
    batch = SimpleNamespace(
        ca=pick(backbone[:, :, CA_ATOM]),
        ca_mask=pick(mask),
        cath_class=pick(torch.tensor([0, 2, NO_LABEL])),
        cath_architecture=pick(torch.tensor([1, 2, 2])),
    )
    metrics = ContactMetrics()
    metrics.update(output, batch)
    return metrics.compute()


def _one_rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    # Three chains on two ranks: 2 and 1, so that a mean of the two means would be wrong.
    metrics = run_metrics(lambda x: x[rank::world])
    result: dict[str, Any] = {"mean": {name: metric.compute() for name, metric in metrics.items()}}
    # Synchronised for the result alone: what a rank counts stays its own, and goes on.
    result["own"] = {name: int(metric.chains) for name, metric in metrics.items()}
    result["contact"] = run_contact_collection(lambda x: x[rank::world])
    torch.save(result, f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_give_what_one_gives_for_every_metric(tmp_path) -> None:
    mp.spawn(_one_rank, args=(2, str(tmp_path)), nprocs=2)
    expected = run_metrics(lambda x: x)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for name, metric in expected.items():
        for rank in ranks:
            torch.testing.assert_close(rank["mean"][name], metric.compute(), equal_nan=True, msg=name)
        assert ranks[0]["own"][name] + ranks[1]["own"][name] == metric.chains, name
    contact = run_contact_collection(lambda x: x)
    assert contact["class_accuracy"] == 0.5
    for rank in ranks:
        torch.testing.assert_close(rank["contact"], contact, equal_nan=True)
    # The halves differ, so that the equality above says something.
    halves = run_metrics(lambda x: x[:2])
    differing = [
        name for name in expected if not torch.equal(halves[name].compute(), expected[name].compute())
    ]
    assert len(differing) > len(expected) // 2
