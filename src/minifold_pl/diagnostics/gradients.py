"""Do the loss terms pull the shared weights in the same direction? Cosines of their gradients, by module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from minifold_pl.data.dataset import ChainDataset
from minifold_pl.diagnostics.chains import batches
from minifold_pl.diffusion.draws import centered_noise, keyed_generator
from minifold_pl.losses.objective import final_weights
from minifold_pl.losses.reduction import PerChain
from minifold_pl.metrics.bootstrap import Interval, bootstrap_interval
from minifold_pl.modules.base import MinifoldModule
from minifold_pl.modules.contact_classifier import ContactClassifierModule
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.draws import Draws
from minifold_pl.modules.one_step import check_times
from minifold_pl.types import ProteinBatch

ALL: Final = "all shared"
ALIGNED: Final = 0.3
"""From this cosine on two terms are called aligned, from its negative down competing."""

Gradient = dict[str, Tensor]
"""Parameter → gradient."""


class PairCosine(NamedTuple):
    """How the gradients of two terms lie to each other in one module."""

    cosine: float
    """Of the two gradients, each a mean over all chains that have anything to count for its term."""
    by_batch: Interval
    """Of the gradients of single batches: mean and 95 % bootstrap interval over batches. Noise draws it to 0."""


class GradientReport(NamedTuple):
    """Gradients of every loss term, over the same chains and noise."""

    modules: tuple[str, ...]
    """Modules with trainable parameters; frozen ones have no gradient."""
    frozen: tuple[str, ...]
    norms: dict[str, dict[str, float]]
    """Term → module → norm of its mean gradient, unweighted; a module that it does not reach is left out."""
    weights: dict[str, float]
    """Weight of each term in the total, at the end of training."""
    cosines: dict[tuple[str, str], dict[str, PairCosine]]
    """Pair of terms → module (and all shared parameters together) → cosine. Only what both reach."""
    chains: tuple[str, ...]


def gradient_report(
    module: MinifoldModule,
    chains: ChainDataset,
    times: Sequence[int],
    *,
    seed: int,
    batch_size: int,
    depth: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> GradientReport:
    r"""Cosine similarity of the gradients of every pair of loss terms.

    .. math:: \cos(a, b) = \frac{\langle g_a, g_b \rangle}{|g_a| |g_b|},
        \qquad g_a = \frac{1}{|C_a|} \sum_{c \in C_a} \nabla_\theta L_a(c)

    over the parameters of a module that both terms reach. :math:`C_a` are the chains that have anything to count for
    term a, such as a label: ``batch_size`` changes neither gradients nor cosines. The module evaluates (no dropout),
    as it is: nothing is trained. Chains of the second stage are noised to each of ``times``, without self-conditioning.

    Args:
        module: Of either stage.
        chains: Whole chains.
        times: Timesteps of the second stage; not looked at in the first.
        seed: Key of the noise.
        batch_size: Chains at once, times the timesteps.
        depth: How many parts of a parameter's name make its module; None for the module's children, or theirs where
            there is only one.
        advance: Called with the number of chains finished.

    Raises:
        ValueError: a timestep out of range, or nothing to train.
    """
    module.eval()
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not trained:
        raise ValueError("every parameter of this model is frozen: there are no gradients to compare")
    if isinstance(module, DiffusionModule):
        times = check_times(times, module.noise_schedule.timesteps)
    groups = _groups(list(trained), depth)
    total: dict[str, Gradient] = {}
    counts: dict[str, int] = {}
    seen: dict[tuple[str, str], dict[str, list[float]]] = {}
    names: list[str] = []
    for batch in batches(chains, batch_size, module.device):
        terms = loss_terms(module, batch, times, seed)
        found = _gradients({name: term.mean() for name, term in terms.items()}, trained)
        for pair, by_module in _cosines(found, groups).items():
            for name, cosine in by_module.items():
                seen.setdefault(pair, {}).setdefault(name, []).append(cosine)
        # A term's mean is over the chains that it counts: a batch in which few are labelled weighs little.
        for name, gradient in found.items():
            counted = int(terms[name].counted.sum())
            counts[name] = counts.get(name, 0) + counted
            _add(total.setdefault(name, {}), gradient, counted)
        names += batch.names
        advance(len(batch))
    for term, gradient in total.items():
        for value in gradient.values():
            value /= max(counts[term], 1)
    cosines = {
        pair: {
            name: PairCosine(cosine, bootstrap_interval(seen[pair][name]))
            for name, cosine in by_module.items()
        }
        for pair, by_module in _cosines(total, groups).items()
    }
    norms = {
        term: {name: norm for name, part in groups.items() if (norm := _norm(gradient, part)) > 0}
        for term, gradient in total.items()
    }
    frozen = {name.split(".")[0] for name, p in module.named_parameters() if not p.requires_grad}
    children = {name.split(".")[0] for name in trained}
    return GradientReport(
        tuple(groups), tuple(sorted(frozen - children)), norms, term_weights(module), cosines, tuple(names)
    )


def loss_terms(
    module: MinifoldModule, batch: ProteinBatch, times: Sequence[int], seed: int
) -> Mapping[str, PerChain]:
    """Every loss term of every chain of ``batch``, at each timestep in the second stage, with its graph."""
    if isinstance(module, ContactClassifierModule):
        return module.terms_per_chain(module(batch), batch)
    assert isinstance(module, DiffusionModule)
    noise = [
        centered_noise(
            batch.residue_mask, [keyed_generator(seed, "gradients", t, name) for name in batch.names]
        )
        for t in times
    ]
    t = torch.tensor(times, device=batch.tokens.device).repeat_interleave(len(batch))
    draws = Draws(t, torch.cat(noise).to(t.device))
    prediction, target = module.predict_structure(batch, batch.tokens, module.target(batch), draws, False)
    return module.objective.per_chain(prediction, target)


def term_weights(module: MinifoldModule) -> dict[str, float]:
    """The weight of each term in the total, once every ramp is over."""
    if isinstance(module, DiffusionModule):
        return final_weights(module.loss_weights)
    assert isinstance(module, ContactClassifierModule)
    return dict(module.weights)


def verdict(cosine: float) -> str:
    """The word for a cosine: ``aligned``, ``near-orthogonal`` or ``competing``."""
    if cosine >= ALIGNED:
        return "aligned"
    return "competing" if cosine <= -ALIGNED else "near-orthogonal"


def _gradients(terms: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Gradient]:
    """Of each term, where it has any; the last backward pass frees the graph."""
    live = [name for name, term in terms.items() if term.requires_grad]
    found = {}
    for name in live:
        values = torch.autograd.grad(
            terms[name], list(parameters.values()), retain_graph=name != live[-1], allow_unused=True
        )
        found[name] = {
            parameter: value.detach().float()
            for parameter, value in zip(parameters, values, strict=True)
            if value is not None
        }
    return found


def _add(sums: Gradient, gradient: Gradient, weight: float) -> None:
    for name, value in gradient.items():
        if name in sums:
            sums[name].add_(value, alpha=weight)
        else:
            sums[name] = weight * value


def _cosines(
    gradients: Mapping[str, Gradient], groups: Mapping[str, Sequence[str]]
) -> dict[tuple[str, str], dict[str, float]]:
    products = {name: _Products.of(gradients, part) for name, part in groups.items()}
    products[ALL] = _Products(*(torch.stack(parts).sum(0) for parts in zip(*products.values(), strict=True)))
    pairs = [(a, b) for a, b in combinations(range(len(gradients)), 2) if products[ALL].norms[a, b] > 0]
    terms = list(gradients)
    return {
        (terms[a], terms[b]): {
            name: found.cosine(a, b) for name, found in products.items() if found.norms[a, b] > 0
        }
        for a, b in pairs
    }


class _Products(NamedTuple):
    """Products of the gradients of k terms over the parameters that both terms of a pair reach."""

    inner: Float[Tensor, "k k"]
    norms: Float[Tensor, "k k"]
    """Squared norm of the row's term, where the column's term has a gradient, too."""

    @classmethod
    def of(cls, gradients: Mapping[str, Gradient], parameters: Sequence[str]) -> _Products:
        k = len(gradients)
        inner, norms = torch.zeros(2, k, k, dtype=torch.float64)
        for name in parameters:
            rows = [i for i, gradient in enumerate(gradients.values()) if name in gradient]
            if not rows:
                continue
            values = torch.stack([list(gradients.values())[i][name].flatten() for i in rows]).double()
            found = torch.zeros(k, k, dtype=torch.float64)
            found[torch.tensor(rows)[:, None], rows] = (values @ values.T).cpu()
            reached = found.diagonal() > 0
            inner += found
            norms += found.diagonal()[:, None] * reached
        return cls(inner, norms)

    def cosine(self, a: int, b: int) -> float:
        return float(self.inner[a, b] / (self.norms[a, b] * self.norms[b, a]).sqrt())


def _norm(gradient: Gradient, parameters: Sequence[str]) -> float:
    squares = (float(gradient[p].double().square().sum()) for p in parameters if p in gradient)
    return sum(squares) ** 0.5


def _groups(parameters: Sequence[str], depth: int | None) -> dict[str, list[str]]:
    """Module → its parameters."""
    if depth is None:
        depth = 1 if len({name.split(".")[0] for name in parameters}) > 1 else 2
    groups: dict[str, list[str]] = {}
    for name in parameters:
        groups.setdefault(".".join(name.split(".")[:-1][:depth]) or name, []).append(name)
    return groups
