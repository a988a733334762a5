"""Chains of one split as items ready to be padded: cropped, filled, turned, all of it by key.

An item is a pure function of (seed, epoch, chain): no worker, batch or earlier item has a say in it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
import torch.utils.data
from jaxtyping import Bool, Float, Int

from minifold_pl.constants import CA_ATOM, CLS, EOS, NO_LABEL
from minifold_pl.data.crops import contacts_cut
from minifold_pl.data.quarantine import Quarantine
from minifold_pl.data.store import ChainStore
from minifold_pl.types import Coordinates

LongChains = Literal["crop", "drop"]

_CROP, _ROTATION, _LIMIT = range(3)
"""First word of each draw's key, so that no two kinds of draw share a stream."""
_CROP_OBSERVED_SHARE: Final = 0.5
"""A crop holds at least this share of the Cα that the best crop of its chain holds: none falls into a gap."""


class ChainItem(NamedTuple):
    """One chain or crop of ``l`` residues; see :class:`minifold_pl.types.ProteinBatch` for the meanings."""

    name: str
    tokens: Int[np.ndarray, " n"]
    coords: Float[np.ndarray, "l 4 3"]
    atom_mask: Bool[np.ndarray, "l 4"]
    bonded: Bool[np.ndarray, " l"]
    start: int
    """Place of the first residue in the whole chain."""
    cath_class: int
    cath_architecture: int
    cropped: bool = False
    """A piece of a longer chain."""
    contacts_cut: float = 0.0
    """See :func:`minifold_pl.data.crops.contacts_cut`; 0 of a whole chain."""


class ChainDataset(torch.utils.data.Dataset[ChainItem]):
    """Chains of one split; ``dataset[i]`` is an item of epoch 0, ``dataset[epoch, i]`` of any epoch.

    Args:
        store: Where the chains are.
        split: ``train``, ``validation``, ``test``, ``none`` or ``all``.
        max_length: Longest item in residues; None takes chains whole.
        long_chains: ``crop`` takes a random contiguous piece of a longer chain, ``drop`` leaves it out.
        seed: Key of all draws.
        random_rotation: Turn every item about the origin by a random rotation.
        one_per_cluster: Keep one chain of each cluster: its representative if that is left, else the first
            one. A chain without cluster stands for itself.
        limit: Keep a random selection of this many chains; None keeps all.
        needs: Leave out chains of which less is known; :attr:`left_out` counts them.
        architectures: Label set; others get ``NO_LABEL``. None takes the training split's.
        replace_damaged: Take another chain in place of a damaged one (see
            :class:`minifold_pl.data.quarantine.Quarantine`); else reading it is an error.

    Raises:
        ValueError: a value out of range, no chain left, none with the coordinates that are needed, or clusters
            asked for where the store knows none.
    """

    def __init__(
        self,
        store: ChainStore,
        split: str,
        *,
        max_length: int | None = None,
        long_chains: LongChains = "crop",
        seed: int = 0,
        random_rotation: bool = False,
        one_per_cluster: bool = False,
        limit: int | None = None,
        needs: Coordinates = "ca",
        architectures: tuple[str, ...] | None = None,
        replace_damaged: bool = False,
    ) -> None:
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length is {max_length}; give at least 1 residue, or null for whole chains")
        if long_chains not in ("crop", "drop"):
            raise ValueError(f"long_chains is {long_chains!r}; allowed are 'crop' and 'drop'")
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}; give at least 1 chain, or null for all")
        if seed < 0:
            raise ValueError(f"seed is {seed}; give 0 or more")
        self.store = store
        self.split = split
        self.max_length = max_length
        self.seed = seed
        self.random_rotation = random_rotation
        self.architectures = store.architectures if architectures is None else architectures
        self._architecture_index = {name: k for k, name in enumerate(self.architectures)}
        self.left_out: dict[str, int] = {}
        """How many chains of the split were left out for what they lack."""
        self._needs = needs
        self.indices: Int[np.ndarray, " c"] = self._select(long_chains, one_per_cluster, limit)
        """Places in the store, in its order."""
        self.quarantine = Quarantine(store, self.indices, seed) if replace_damaged else None

    def _select(self, long_chains: LongChains, one_per_cluster: bool, limit: int | None) -> np.ndarray:
        chains = self.store.indices(self.split)
        if not len(chains):
            raise ValueError(f"store {self.store.path} has no chain in split {self.split!r}")
        chains = self._with_coordinates(chains)
        if self.max_length is not None and long_chains == "drop":
            chains = chains[self.store.lengths[chains] <= self.max_length]
            if not len(chains):
                raise ValueError(
                    f"every chain of split {self.split!r} is longer than max_length={self.max_length}; "
                    "raise it, or set long_chains to 'crop'"
                )
        if one_per_cluster:
            chains = self._one_per_cluster(chains)
        if limit is not None and limit < len(chains):
            chosen = np.random.default_rng((_LIMIT, self.seed)).permutation(len(chains))[:limit]
            chains = chains[np.sort(chosen)]
        return chains

    def _with_coordinates(self, chains: np.ndarray) -> np.ndarray:
        has_ca, has_backbone = self.store.has_coords[chains], self.store.has_backbone[chains]
        lacking = {}
        if self._needs in ("ca", "backbone"):
            lacking["no coordinates"] = ~has_ca
        if self._needs == "backbone":
            lacking["only Cα coordinates"] = has_ca & ~has_backbone
        self.left_out = {reason: int(which.sum()) for reason, which in lacking.items() if which.any()}
        kept = chains[~np.any(list(lacking.values()), axis=0)] if lacking else chains
        if not len(kept):
            counts = ", ".join(f"{count:,} have {reason}" for reason, count in self.left_out.items())
            wanted = "Cα" if self._needs == "ca" else "N, Cα and C"
            raise ValueError(
                f"no chain of split {self.split!r} in store {self.store.path} has the {wanted} coordinates that the "
                f"model needs: {counts}; prepare a store from structures"
            )
        return kept

    def _one_per_cluster(self, chains: np.ndarray) -> np.ndarray:
        if (self.store.cluster_ids < 0).all():
            raise ValueError(
                f"store {self.store.path} knows no clusters; set one_per_cluster to false, "
                "or prepare it from records with a `cluster` key"
            )
        clusters = self.store.cluster_ids[chains]
        alone = clusters < 0
        # Representatives first, then the store's order: the first of each cluster stays.
        order = np.lexsort((chains, ~self.store.representative[chains]))
        order = order[~alone[order]]
        _, first = np.unique(clusters[order], return_index=True)
        return np.sort(np.concatenate([chains[alone], chains[order[first]]]))

    def only(self, places: Sequence[int]) -> ChainDataset:
        """The same data set with nothing but these of its items, in this order."""
        fewer = copy.copy(self)
        fewer.indices = self.indices[list(places)]
        if self.quarantine is not None:
            fewer.quarantine = Quarantine(self.store, fewer.indices, self.seed)
        return fewer

    @property
    def lengths(self) -> Int[np.ndarray, " c"]:
        """Residues of each item, after cropping."""
        lengths = self.store.lengths[self.indices]
        return lengths if self.max_length is None else np.minimum(lengths, self.max_length)

    @property
    def cropped_share(self) -> float:
        """Share of chains that are too long to be taken whole."""
        return float((self.store.lengths[self.indices] > self.lengths).mean())

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: int | tuple[int, int]) -> ChainItem:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if self.quarantine is None:
            self.store.check(int(self.indices[index]))
        else:
            index = self.quarantine.sound(epoch, index)
        chain = int(self.indices[index])
        coords = np.array(self.store.coords(chain))
        observed = ~np.isnan(coords).any(-1)
        if not observed[:, CA_ATOM].any():
            coords[:] = 0.0  # known by its sequence only, or by atoms that have no place without Cα
        elif not observed.all():
            _fill_missing_ca(coords, observed[:, CA_ATOM])
            np.nan_to_num(coords, copy=False, nan=0.0)
        piece = self._piece(chain, epoch, observed[:, CA_ATOM])
        cropped = piece.stop - piece.start < len(coords)
        cut = contacts_cut(coords[:, CA_ATOM], observed[:, CA_ATOM], piece) if cropped else 0.0
        coords = coords[piece]
        if self.random_rotation:
            coords = coords @ _rotation(np.random.default_rng((_ROTATION, self.seed, epoch, chain))).T
        bonded = self.store.bonded(chain)[piece].copy()
        bonded[-1] = False  # a crop's last residue has lost its neighbour
        return ChainItem(
            name=self.store.name(chain),
            tokens=np.concatenate([[CLS], self.store.tokens(chain)[piece], [EOS]]).astype(np.int64),
            coords=coords,
            atom_mask=observed[piece],
            bonded=bonded,
            start=piece.start,
            cath_class=int(self.store.cath_classes[chain]),
            cath_architecture=self._architecture_index.get(
                self.store.chain_architectures[chain] or "", NO_LABEL
            ),
            cropped=cropped,
            contacts_cut=cut,
        )

    def _piece(self, chain: int, epoch: int, observed: Bool[np.ndarray, " l"]) -> slice:
        length = len(observed)
        if self.max_length is None or length <= self.max_length:
            return slice(0, length)
        total = np.concatenate([[0], np.cumsum(observed)])
        inside = total[self.max_length :] - total[: -self.max_length]
        starts = np.flatnonzero(inside >= _CROP_OBSERVED_SHARE * inside.max())
        draw = np.random.default_rng((_CROP, self.seed, epoch, chain)).integers(len(starts))
        start = int(starts[draw])
        return slice(start, start + self.max_length)


def _fill_missing_ca(coords: Float[np.ndarray, "l 4 3"], observed: Bool[np.ndarray, " l"]) -> None:
    """Put missing Cα on the line between their observed neighbours; beyond the ends, at the nearest one."""
    places = np.arange(len(coords))
    for axis in range(3):
        ca = coords[:, CA_ATOM, axis]
        ca[~observed] = np.interp(places[~observed], places[observed], ca[observed])


def _rotation(rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """A rotation drawn uniformly: that of a quaternion uniform on the 3-sphere (Shoemake 1992)."""
    q = rng.standard_normal(4)
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        dtype=np.float32,
    )
