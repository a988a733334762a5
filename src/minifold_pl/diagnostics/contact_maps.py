"""Predicted contact maps beside the true ones, chain by chain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from minifold_pl.data.collate import collate
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.metrics.contacts import CONTACT_SCORES, contact_map
from minifold_pl.modules.base import MinifoldModule
from minifold_pl.nn.contact_classifier import ContactClassifier


@dataclass(frozen=True, kw_only=True)
class MapOfChain:
    """What an encoder makes of one chain."""

    name: str
    cath_class: int
    """0…3, or ``NO_LABEL``."""
    contact: Bool[np.ndarray, "l l"]
    observed: Bool[np.ndarray, " l"]
    probability: Float[np.ndarray, "l l"]
    scores: dict[str, float]
    """Those of ``evaluate`` (:data:`~minifold_pl.metrics.contacts.CONTACT_SCORES`), NaN where not defined."""


def encoder_of(module: MinifoldModule) -> ContactClassifier:
    """The sequence encoder of a checkpoint of either stage.

    Raises:
        ValueError: It has none that predicts contacts.
    """
    encoder = getattr(module, "encoder", None)
    if not isinstance(encoder, ContactClassifier):
        raise ValueError(f"a {type(module).__name__} has no encoder that predicts contacts")
    return encoder


def predicted_maps(
    module: MinifoldModule,
    chains: ChainDataset,
    places: Sequence[int],
    *,
    advance: Callable[[int], None] = lambda count: None,
) -> list[MapOfChain]:
    """The maps of some chains of a data set, one at a time: they are few.

    Raises:
        ValueError: The checkpoint predicts no contacts.
    """
    encoder = encoder_of(module)
    found = []
    for place in places:
        batch = collate([chains[place]])
        with torch.inference_mode():
            logits = encoder(batch.tokens.to(module.device)).contact_logits.float().cpu()
        mask, length = batch.ca_mask, int(batch.lengths[0])  # a batch is padded
        found.append(
            MapOfChain(
                name=batch.names[0],
                cath_class=int(batch.cath_class[0]),
                contact=contact_map(batch.ca)[0, :length, :length].numpy(),
                observed=mask[0, :length].numpy(),
                probability=logits[0, :length, :length].sigmoid().numpy(),
                scores={
                    name: float(score(logits, batch.ca, mask)[0]) for name, score in CONTACT_SCORES.items()
                },
            )
        )
        advance(1)
    return found


def one_of_each_class(chains: ChainDataset, count: int, seed: int) -> list[int]:
    """Places of up to ``count`` chains of as many CATH classes as there are, the same ones for the same seed."""
    order = np.random.default_rng(seed).permutation(len(chains)).tolist()
    classes = [int(chains.store.cath_classes[chains.indices[place]]) for place in order]
    seen: dict[int, int] = {}
    rank = []
    for place, label in zip(order, classes, strict=True):
        rank.append((label < 0, seen.get(label, 0), label, place))
        seen[label] = seen.get(label, 0) + 1
    chosen = [entry for *_, entry in sorted(rank, key=lambda entry: entry[:3])]
    return chosen[:count]
