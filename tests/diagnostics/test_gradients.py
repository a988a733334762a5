"""Cosines of gradients, against a plain loop and on losses of which they are known."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from minifold_pl.constants import NO_LABEL
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.diagnostics import gradients
from minifold_pl.diagnostics.gradients import ALL, gradient_report, loss_terms, verdict
from minifold_pl.losses.reduction import PerChain

TIMES = (225, 725)


def plain_cosines(module, chains, times, seed) -> dict:
    """Every chain alone, every term by ``backward``, gradients as one long vector a module."""
    sums: dict[str, dict[str, torch.Tensor]] = {}
    for batch in gradients.batches(chains, 1, torch.device("cpu")):
        for name in loss_terms(module, batch, times, seed):
            module.zero_grad()
            loss_terms(module, batch, times, seed)[name].mean().backward()
            for parameter, p in module.named_parameters():
                if p.grad is not None:
                    before = sums.setdefault(name, {}).get(parameter, torch.zeros_like(p))
                    sums[name][parameter] = before + p.grad.clone()
    return sums


@pytest.mark.parametrize("kind", ["diffusion", "contact"])
def test_cosines_and_norms_are_those_of_a_plain_loop(kind, request, chains) -> None:
    module = request.getfixturevalue(kind)
    chains = ChainDataset(chains.store, "train", limit=3)
    # Batches of two and one: each chain counts the same.
    report = gradient_report(module, chains, TIMES, seed=1, batch_size=2)
    sums = plain_cosines(module, chains, TIMES, 1)
    for (first, second), by_module in report.cosines.items():
        for name, found in by_module.items():
            inside = [
                p for p in sums[first]
                if p in sums[second] and (name == ALL or p.startswith(f"{name}."))
                and sums[first][p].any() and sums[second][p].any()
            ]  # fmt: skip
            a, b = (torch.cat([sums[term][p].flatten() for p in inside]).double() for term in (first, second))
            assert found.cosine == pytest.approx(float(a @ b / (a.norm() * b.norm())), abs=1e-4)
            assert 1 <= found.by_batch.n <= 2  # a chain without clashes says nothing of them
    for term, by_module in report.norms.items():
        for name, norm in by_module.items():
            parts = [g.flatten() for p, g in sums[term].items() if p.startswith(f"{name}.")]
            assert norm == pytest.approx(float(torch.cat(parts).norm()) / len(chains), rel=1e-4)


def test_only_what_both_terms_reach_is_compared(diffusion, chains) -> None:
    report = gradient_report(diffusion, chains, TIMES, seed=0, batch_size=5)
    assert report.modules == ("pair_stack", "denoiser", "aux", "rg_head")
    assert report.frozen == ("encoder",)
    assert set(report.norms["aux"]) == {"aux"}
    assert set(report.norms["rg"]) == {"rg_head"}
    assert set(report.norms["fape"]) == {"pair_stack", "denoiser"}
    assert not [pair for pair in report.cosines if "aux" in pair or "rg" in pair]
    assert set(report.cosines["fape", "dist"]) == {"pair_stack", "denoiser", ALL}
    assert report.weights["bond"] == 3.0


def test_a_deeper_look_names_the_parts_of_a_module(diffusion, chains) -> None:
    report = gradient_report(diffusion, chains, TIMES, seed=0, batch_size=5, depth=2)
    assert all("." in name for name in report.modules)
    assert sum(name.startswith("denoiser.") for name in report.modules) > 2
    flat = gradient_report(diffusion, chains, TIMES, seed=0, batch_size=5)
    pair = ("fape", "frame_rot")
    assert report.cosines[pair][ALL].cosine == pytest.approx(flat.cosines[pair][ALL].cosine)


@pytest.mark.parametrize(("factor", "cosine"), [(3.0, 1.0), (-0.5, -1.0)])
def test_copies_of_a_loss_are_parallel_whatever_their_scale(
    diffusion, chains, monkeypatch, factor, cosine
) -> None:
    plain = loss_terms

    def two(*args):
        terms = plain(*args)
        return {"fape": terms["fape"], "dist": terms["fape"]._replace(value=factor * terms["fape"].value)}

    monkeypatch.setattr(gradients, "loss_terms", two)
    report = gradient_report(diffusion, chains, TIMES, seed=0, batch_size=2)
    for found in report.cosines["fape", "dist"].values():
        assert found.cosine == pytest.approx(cosine, abs=1e-6)
        assert found.by_batch.mean == pytest.approx(cosine, abs=1e-6)


def test_losses_of_different_parameters_share_none(diffusion, chains, monkeypatch) -> None:
    def apart(module, batch, times, seed):
        parts = {"fape": module.rg_head, "dist": module.aux}
        counted = torch.ones(len(batch), dtype=torch.bool)
        return {
            name: PerChain(next(part.parameters()).square().sum() * counted, counted)
            for name, part in parts.items()
        }

    monkeypatch.setattr(gradients, "loss_terms", apart)
    assert gradient_report(diffusion, chains, TIMES, seed=0, batch_size=2).cosines == {}


def test_labels_that_are_missing_give_their_term_no_gradient(contact, chains, monkeypatch) -> None:
    plain = gradients.batches

    def unlabelled(*args):
        for batch in plain(*args):
            yield type(batch)(**{**vars(batch), "cath_class": torch.full_like(batch.cath_class, -1)})

    monkeypatch.setattr(gradients, "batches", unlabelled)
    report = gradient_report(contact, chains, (), seed=0, batch_size=2)
    assert not [pair for pair in report.cosines if "class" in pair]
    assert ("architecture", "contact") in report.cosines


@pytest.mark.parametrize("size", [1, 2, 4])
def test_chains_without_a_label_weigh_nothing_at_any_batch_size(contact, chains, monkeypatch, size) -> None:
    """Two of five have a class: the gradient is the mean of theirs, in whatever batches they come."""
    plain = gradients.batches
    labelled = [batch.names[0] for batch in plain(chains, 1, torch.device("cpu"))][1::3]
    assert len(labelled) == 2

    def partly(*args):
        for batch in plain(*args):
            known = torch.tensor([name in labelled for name in batch.names])
            yield dataclasses.replace(batch, cath_class=batch.cath_class.where(known, NO_LABEL))

    monkeypatch.setattr(gradients, "batches", partly)
    sums = plain_cosines(contact, chains, (), 0)
    report = gradient_report(contact, chains, (), seed=0, batch_size=size)
    counts = {"class": 2, "contact": 5}
    for term, count in counts.items():
        for name, norm in report.norms[term].items():
            parts = [g.flatten() for p, g in sums[term].items() if p.startswith(f"{name}.")]
            assert norm == pytest.approx(float(torch.cat(parts).norm()) / count, rel=1e-4)
    shared = [p for p in sums["class"] if p in sums["contact"]]
    shared = [p for p in shared if sums["class"][p].any() and sums["contact"][p].any()]
    a, b = (torch.cat([sums[term][p].flatten() for p in shared]).double() for term in counts)
    expected = float(a @ b / (a.norm() * b.norm()))
    assert report.cosines["class", "contact"][ALL].cosine == pytest.approx(expected, abs=1e-4)


def test_nothing_is_trained_and_the_mode_is_evaluation(diffusion, chains) -> None:
    before = {name: value.clone() for name, value in diffusion.state_dict().items()}
    diffusion.train()
    gradient_report(diffusion, chains, TIMES, seed=0, batch_size=5)
    assert all(torch.equal(value, before[name]) for name, value in diffusion.state_dict().items())
    assert not diffusion.training
    assert all(p.grad is None for p in diffusion.parameters())


def test_recomputed_activations_give_the_same_gradients(diffusion, chains) -> None:
    plain = gradient_report(diffusion, chains, TIMES, seed=0, batch_size=5)
    for module in diffusion.modules():
        if hasattr(module, "checkpoint_activations"):
            module.checkpoint_activations = not module.checkpoint_activations
    again = gradient_report(diffusion, chains, TIMES, seed=0, batch_size=5)
    for pair, by_module in plain.cosines.items():
        assert again.cosines[pair][ALL].cosine == pytest.approx(by_module[ALL].cosine, abs=1e-5)


def test_a_model_without_anything_to_train_is_refused(diffusion, chains) -> None:
    with pytest.raises(ValueError, match="every parameter of this model is frozen"):
        gradient_report(diffusion.requires_grad_(False), chains, TIMES, seed=0, batch_size=5)


def test_words_for_cosines() -> None:
    assert [verdict(c) for c in (0.59, 0.16, -0.23, -0.5)] == [
        "aligned", "near-orthogonal", "near-orthogonal", "competing",
    ]  # fmt: skip
    assert math.isclose(gradients.ALIGNED, 0.3)
