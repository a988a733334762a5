"""Pooled embeddings of chains, and maps of them in two dimensions."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float

from minifold_pl.constants import CATH_CLASSES, NO_LABEL
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.diagnostics.chains import batches
from minifold_pl.diagnostics.contact_maps import encoder_of
from minifold_pl.modules.base import MinifoldModule

NO_UMAP: Final = "umap-learn is not installed: pip install umap-learn"
_FEWEST: Final = 3
_NEIGHBOURS: Final = 15
"""umap-learn's own default."""


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """One vector a chain, with what is known of the chain."""

    names: tuple[str, ...]
    vectors: Float[np.ndarray, "n d"]
    classes: tuple[str | None, ...]
    """Name of the CATH class; None where unknown."""
    architectures: tuple[str | None, ...]
    """CATH code of the architecture, such as ``3.40``; None where unknown."""


@dataclass(frozen=True, kw_only=True)
class PrincipalComponents:
    """The two directions in which the vectors differ most."""

    points: Float[np.ndarray, "n 2"]
    explained: tuple[float, float]
    """Share of the variance along each."""


def pooled_embeddings(
    module: MinifoldModule,
    chains: ChainDataset,
    *,
    batch_size: int,
    advance: Callable[[int], None] = lambda count: None,
) -> Embeddings:
    """The attention-pooled embedding of every chain, from the encoder of a checkpoint of either stage.

    Raises:
        ValueError: The checkpoint has no such encoder, or gives vectors that are not finite.
    """
    encoder = encoder_of(module)
    names: list[str] = []
    vectors = []
    for batch in batches(chains, batch_size, module.device):
        with torch.inference_mode():
            vectors.append(encoder.encode(batch.tokens).pooled.float().cpu().numpy())
        names += batch.names
        advance(len(batch))
    joined = np.concatenate(vectors)
    if not np.isfinite(joined).all():
        raise ValueError("the encoder's embeddings are not finite: its weights are broken")
    place = {chains.store.name(int(i)): int(i) for i in chains.indices}
    classes = [int(chains.store.cath_classes[place[name]]) for name in names]
    return Embeddings(
        names=tuple(names),
        vectors=joined,
        classes=tuple(None if k == NO_LABEL else CATH_CLASSES[k] for k in classes),
        architectures=tuple(chains.store.chain_architectures[place[name]] for name in names),
    )


def principal_components(vectors: Float[np.ndarray, "n d"]) -> PrincipalComponents:
    """Project onto the two principal components; the largest entry of each is positive, so that none is mirrored.

    Raises:
        ValueError: There are fewer than three vectors.
    """
    if len(vectors) < _FEWEST:
        raise ValueError(f"{len(vectors)} chains have no map; give {_FEWEST} at least")
    centred = np.asarray(vectors, dtype=np.float64) - np.mean(vectors, 0, dtype=np.float64)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    axes, spread = axes[:2], spread**2
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    points, shares = centred @ axes.T, spread[:2] / max(float(spread.sum()), 1e-300)
    if points.shape[1] < 2:  # vectors of one number
        points, shares = np.pad(points, ((0, 0), (0, 1))), np.pad(shares, (0, 1))
    return PrincipalComponents(points=points, explained=(float(shares[0]), float(shares[1])))


def has_umap() -> bool:
    """Whether umap-learn can be used."""
    return importlib.util.find_spec("umap") is not None


def umap_points(vectors: Float[np.ndarray, "n d"], seed: int = 0) -> Float[np.ndarray, "n 2"]:
    """UMAP with its own defaults (McInnes et al. 2018), the same map for the same seed.

    Raises:
        ValueError: umap-learn is missing, or there are fewer than three vectors.
    """
    if not has_umap():
        raise ValueError(NO_UMAP)
    if len(vectors) < _FEWEST:
        raise ValueError(f"{len(vectors)} chains have no map; give {_FEWEST} at least")
    from umap import UMAP

    neighbours = min(_NEIGHBOURS, len(vectors) - 1)
    # Its spectral start needs more vectors than dimensions and neighbours.
    start = "spectral" if len(vectors) > 2 * neighbours else "random"
    reducer = UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1, init=start)
    return np.asarray(reducer.fit_transform(np.asarray(vectors, dtype=np.float32)), dtype=np.float64)
