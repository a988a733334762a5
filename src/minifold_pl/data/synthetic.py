"""The embedded data set: synthetic chains, physically sound, whose sequence determines their fold.

It exists so that a newcomer, and a test, can see the whole system learn in minutes on a CPU. Folds are packed
from ideal secondary structure (:mod:`minifold_pl.data.synthetic_fold`), chains closed with exact bond
geometry (:mod:`minifold_pl.data.synthetic_backbone`) and sequences drawn from the structure
(:mod:`minifold_pl.data.synthetic_sequence`). No result on it says anything about real proteins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int

from minifold_pl.constants import CA_ATOM
from minifold_pl.data.records import TEST, TRAIN, VALIDATION, ChainRecord
from minifold_pl.data.synthetic_backbone import Backbone, build_backbones, vary_backbones
from minifold_pl.data.synthetic_fold import Fold, common_residues, draw_fold, vary_lengths
from minifold_pl.data.synthetic_sequence import MOST_SHARED, draw_sequence, identity, partners, profile
from minifold_pl.metrics.tm import tm_kabsch

SHORTEST: Final = 24
LONGEST: Final = 120
"""Residues of a synthetic chain, at least and at most."""
FEWEST_FOLDS: Final = 5
"""One of each class to train on, and one that training never sees."""
MOST_ALIKE: Final = 0.45
"""TM-score, in the pose of least RMSD, above which two folds count as one."""
FIRST_TOPOLOGY: Final = 9001
"""Topology numbers of synthetic folds start here: CATH itself has none so high."""

_CLASSES: Final = (4, 1, 2, 3, 1, 2, 3, 1, 2, 3)
"""CATH class of fold 0, 1, 2, …, in turn."""
_LONGEST_IRREGULAR: Final = 60
"""Residues beyond which an irregular fold, without secondary structure to hold it together, is no likely
protein."""
_HELD_OUT: Final = 0.12
"""Share of folds that make up the test split."""
_VALIDATION_EVERY: Final = 8
"""Of this many chains of a training fold one is for validation."""
_SAME_FOLD: Final = 0.75
"""TM-score that the shapes of one fold reach with its first, in the pose of least RMSD."""
_ROUNDS: Final = 12
_TRIES: Final = 80
"""Rounds of fold drawing, and sequences drawn for a held-out chain, before giving up."""


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """What the synthetic set holds; the same values make the same chains.

    Raises:
        ValueError: a value is out of range, or two do not go together.
    """

    n: int = 2000
    """Chains, over all splits."""
    folds: int | None = None
    """Distinct folds; null: one for every 30 chains, 5 to 72."""
    min_length: int = 40
    """Shortest chain, residues."""
    max_length: int = 100
    """Longest chain, residues."""
    shapes: int = 3
    """Closed chains a fold is made from, with elements and loops of different lengths."""
    bend: float = 0.3
    """How far chains of a fold differ: rms of the bending, in units of the TM-score's d0."""
    seed: int = 0
    """Key of every random draw."""

    def __post_init__(self) -> None:
        if not SHORTEST <= self.min_length <= self.max_length <= LONGEST:
            raise ValueError(
                f"min_length {self.min_length} and max_length {self.max_length} must satisfy "
                f"{SHORTEST} <= min_length <= max_length <= {LONGEST}"
            )
        if self.max_length - self.min_length < 8:
            raise ValueError(
                f"min_length {self.min_length} and max_length {self.max_length} are too near; "
                "folds differ in length: leave at least 8 residues between them"
            )
        if self.folds is not None and self.folds < FEWEST_FOLDS:
            raise ValueError(
                f"folds is {self.folds}; give {FEWEST_FOLDS} or more: "
                "four classes to train on, and one fold held out"
            )
        if self.n < 3 * self.fold_count:
            raise ValueError(
                f"n is {self.n} for {self.fold_count} folds; a fold needs 3 chains: raise n to "
                f"{3 * self.fold_count}, or lower folds"
            )
        if self.shapes < 1 or not 0 <= self.bend <= 1 or self.seed < 0:
            raise ValueError(
                f"shapes {self.shapes}, bend {self.bend}, seed {self.seed}: "
                "give shapes >= 1, 0 <= bend <= 1, seed >= 0"
            )

    @property
    def fold_count(self) -> int:
        """``folds``, or what stands for null."""
        return min(72, max(FEWEST_FOLDS, self.n // 30)) if self.folds is None else self.folds

    @property
    def test_folds(self) -> int:
        """How many folds, the last ones, are never trained on."""
        return max(1, round(_HELD_OUT * self.fold_count))


def generate(config: SyntheticConfig) -> Iterator[ChainRecord]:
    """The chains in the order of their index; chain ``i`` is of fold ``i`` modulo the number of folds.

    Validation chains are of folds seen in training, test chains of folds never seen; neither has a sequence
    that reaches 40 % identity to any training chain (:func:`minifold_pl.data.synthetic_sequence.identity`).
    Clusters are named by fold and split, since no sequence cluster reaches across splits; the fold itself is
    the CATH topology, numbered from 9001.

    Raises:
        ValueError: no such set could be made: too many folds for these lengths, or chains too short to differ
        enough.
    """
    folds = _shapes(config, _distinct_folds(config))
    chains = []
    for index in range(config.n):
        shapes = folds[index % config.fold_count]
        chains.append(shapes[int(_rng(config, _CHAIN, index).integers(len(shapes)))])
    bent = vary_backbones(
        [backbone for backbone, _ in chains],
        [_rng(config, _BEND, index) for index in range(config.n)],
        amplitude=config.bend,
    )
    sequences = _sequences(config, [sequences for _, sequences in chains])
    for index, (backbone, sequence) in enumerate(zip(bent, sequences, strict=True)):
        fold, split = index % config.fold_count, _split(config, index)
        yield ChainRecord(
            name=f"synthetic-{index:05d}",
            sequence=sequence,
            coords=_placed(backbone.coords, _rng(config, _POSE, index)),
            cath=(f"{backbone.fold.architecture}.{FIRST_TOPOLOGY + fold}",),
            split=split,
            cluster=f"fold-{fold:03d}-{split}",
            representative=index < config.fold_count,
        )


@dataclass(frozen=True)
class _Profile:
    """What the sequences of a closed chain are drawn from."""

    probabilities: Float[np.ndarray, "l 20"]
    partner: Int[np.ndarray, " l"]


_Shape = tuple[Backbone, _Profile]

# what a generator is for: the second number of its key
_FOLD, _SHAPE, _SIGNATURE, _CHAIN, _BEND, _SEQUENCE, _POSE = range(7)


def _rng(config: SyntheticConfig, *key: int) -> np.random.Generator:
    """A generator of its own for every draw, so that none depends on how many were made before."""
    return np.random.default_rng([config.seed, *key])


def _split(config: SyntheticConfig, index: int) -> str:
    fold, member = index % config.fold_count, index // config.fold_count
    if fold >= config.fold_count - config.test_folds:
        return TEST
    return VALIDATION if member % _VALIDATION_EVERY == 2 else TRAIN


def _distinct_folds(config: SyntheticConfig) -> list[Backbone]:
    """A closed chain of each fold, no two of them alike."""
    wanted = [_CLASSES[k % len(_CLASSES)] for k in range(config.fold_count)]
    found: dict[int, list[Backbone]] = {c: [] for c in set(wanted)}
    drawn = dict.fromkeys(found, 0)
    for _ in range(_ROUNDS):
        missing = {c: wanted.count(c) - len(found[c]) for c in sorted(found)}
        if not any(missing.values()):
            order = {c: iter(found[c]) for c in found}
            return [next(order[c]) for c in wanted]
        candidates: list[tuple[int, Fold, np.random.Generator]] = []
        for cath_class, lacking in missing.items():
            for _ in range(ceil(1.5 * lacking) + 1 if lacking else 0):
                rng = _rng(config, _FOLD, cath_class, drawn[cath_class])
                drawn[cath_class] += 1
                fold = draw_fold(cath_class, *_lengths(config, cath_class), rng)
                if fold is not None:
                    candidates.append((cath_class, fold, rng))
        built = build_backbones([fold for _, fold, _ in candidates], [rng for _, _, rng in candidates])
        for (cath_class, *_), backbone in zip(candidates, built, strict=True):
            if backbone is None or len(found[cath_class]) == wanted.count(cath_class):
                continue
            if all(_alike(backbone, other) < MOST_ALIKE for others in found.values() for other in others):
                found[cath_class].append(backbone)
    short = ", ".join(f"class {c}: {len(found[c])} of {wanted.count(c)}" for c in sorted(found))
    raise ValueError(
        f"found too few distinct folds of {config.min_length} to {config.max_length} residues ({short}); "
        "lower folds, or widen min_length … max_length"
    )


def _lengths(config: SyntheticConfig, cath_class: int) -> tuple[int, int]:
    longest = config.max_length
    if cath_class == 4:
        longest = min(longest, max(_LONGEST_IRREGULAR, config.min_length + 8))
    # the shapes of a fold may be a little shorter or longer than the first
    return config.min_length + 1, longest - 1


def _alike(a: Backbone, b: Backbone) -> float:
    """The higher of two TM-scores: residues paired from the first on, and from the last."""
    n = min(len(a.coords), len(b.coords))
    first, second = (torch.from_numpy(x.coords[:, CA_ATOM]) for x in (a, b))
    pairs = torch.stack((first[:n], first[-n:])), torch.stack((second[:n], second[-n:]))
    return float(tm_kabsch(*pairs, torch.ones(2, n, dtype=torch.bool)).max())


def _shapes(config: SyntheticConfig, folds: list[Backbone]) -> list[list[_Shape]]:
    """Every fold's chain, and others of it whose elements and loops are a residue longer or shorter."""
    rngs = [_rng(config, _SHAPE, k, j) for k in range(len(folds)) for j in range(1, config.shapes)]
    owners = [k for k in range(len(folds)) for _ in range(1, config.shapes)]
    varied = [
        vary_lengths(folds[k].fold, config.min_length, config.max_length, rng)
        for k, rng in zip(owners, rngs, strict=True)
    ]
    found = [[backbone] for backbone in folds]
    for k, backbone in zip(owners, build_backbones(varied, rngs), strict=True):
        # a loop may have gone another way round: then it is another fold
        if backbone is not None and _alike_by_residue(folds[k], backbone) > _SAME_FOLD:
            found[k].append(backbone)
    return [
        [(b, _profile(b, (config.seed, _SIGNATURE, k))) for b in shapes] for k, shapes in enumerate(found)
    ]


def _profile(backbone: Backbone, key: tuple[int, ...]) -> _Profile:
    return _Profile(
        probabilities=profile(backbone.fold, backbone.angles, backbone.coords, key),
        partner=partners(backbone.fold, backbone.coords),
    )


def _alike_by_residue(a: Backbone, b: Backbone) -> float:
    """TM-score of two chains of one fold, over the residues that both have, element by element."""
    i, j = common_residues(a.fold, b.fold)
    first, second = (torch.from_numpy(x.coords[k, CA_ATOM])[None] for x, k in ((a, i), (b, j)))
    return float(tm_kabsch(first, second, torch.ones(1, len(i), dtype=torch.bool)))


def _sequences(config: SyntheticConfig, profiles: list[_Profile]) -> list[str]:
    """A sequence for every chain; those held out are drawn again until they are unlike all training ones."""
    sequences = [""] * config.n
    splits = [_split(config, index) for index in range(config.n)]
    for index, (split, chain) in enumerate(zip(splits, profiles, strict=True)):
        if split == TRAIN:
            sequences[index] = draw_sequence(
                chain.probabilities, chain.partner, _rng(config, _SEQUENCE, index)
            )
    training = [s for s, split in zip(sequences, splits, strict=True) if split == TRAIN]
    for index, (split, chain) in enumerate(zip(splits, profiles, strict=True)):
        if split == TRAIN:
            continue
        rng = _rng(config, _SEQUENCE, index)
        for _ in range(_TRIES):
            sequence = draw_sequence(chain.probabilities, chain.partner, rng)
            if identity(sequence, training).max() < MOST_SHARED:
                sequences[index] = sequence
                break
        else:
            raise ValueError(
                f"chain {index} found no sequence under {MOST_SHARED:.0%} identity to all {len(training)} "
                f"training chains in {_TRIES} draws; raise min_length (now {config.min_length}), or lower n "
                f"(now {config.n})"
            )
    return sequences


def _placed(coords: Float[np.ndarray, "l 4 3"], rng: np.random.Generator) -> Float[np.ndarray, "l 4 3"]:
    """Centred on the mean Cα and turned at random, so that no orientation goes with a fold."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    q[:, 0] *= np.sign(np.linalg.det(q))
    return ((coords - coords[:, CA_ATOM].mean(0)) @ q.T).astype(np.float32)
