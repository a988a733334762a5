from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from minifold_pl.constants import (
    AMINO_ACIDS,
    C_N_BOND,
    C_N_CA_ANGLE,
    C_O_BOND,
    CA_ATOM,
    CA_C_BOND,
    CA_C_N_ANGLE,
    N_CA_BOND,
    N_CA_C_ANGLE,
)
from minifold_pl.data import synthetic
from minifold_pl.data.cath import cath_class
from minifold_pl.data.synthetic import SyntheticConfig, generate
from minifold_pl.data.synthetic_backbone import in_allowed_region
from minifold_pl.data.synthetic_fold import HELIX_HELIX, draw_fold
from minifold_pl.data.synthetic_sequence import MOST_SHARED, identity
from minifold_pl.geometry.backbone import torsions
from minifold_pl.geometry.measures import pseudo_dihedrals
from minifold_pl.metrics.tm import tm_kabsch

QUICK = SyntheticConfig(n=600, folds=14, min_length=24, max_length=48)
"""The size of the quickstart."""


@pytest.fixture(scope="module")
def chains():
    return list(generate(QUICK))


@pytest.fixture(scope="module")
def by_fold(chains):
    folds = defaultdict(list)
    for chain in chains:
        folds[chain.cath[0]].append(chain)
    return folds


def atoms(chain):
    """N, Cα, C, O, each (l, 3)."""
    return chain.coords.astype(float).transpose(1, 0, 2)


def norm(v):
    return np.linalg.norm(v, axis=-1)


def angle(a, b, c):
    return np.degrees(np.arccos(((a - b) * (c - b)).sum(-1) / norm(a - b) / norm(c - b)))


def tm(a, b):
    """TM-score, residues paired from the first on or from the last: whichever is better."""
    n = min(len(a), len(b))
    x, y = (torch.from_numpy(np.stack((c.coords[:n, CA_ATOM], c.coords[-n:, CA_ATOM]))) for c in (a, b))
    return float(tm_kabsch(x, y, torch.ones(2, n, dtype=torch.bool)).max())


def structure(chain):
    """Shares of helix and strand, from Cα alone: runs of four by dihedral and length."""
    ca = torch.from_numpy(chain.coords[:, CA_ATOM])
    turn = torch.rad2deg(pseudo_dihedrals(ca[None])[0])
    reach = (ca[3:] - ca[:-3]).norm(dim=-1)
    shares = []
    for found in (((turn - 50).abs() < 25) & (reach < 6.2), (turn.abs() > 140) & (reach > 8.8)):
        inside = np.zeros(len(ca), dtype=bool)
        for start in found.nonzero()[:, 0].tolist():
            inside[start : start + 4] = True
        shares.append(inside)
    return shares[0].mean(), (shares[1] & ~shares[0]).mean()


# --- physics ---------------------------------------------------------------------------------------


def test_bond_lengths_and_angles_are_sound_everywhere(chains):
    for chain in chains:
        n, ca, c, o = atoms(chain)
        for length, ideal in (
            (ca - n, N_CA_BOND), (c - ca, CA_C_BOND), (o - c, C_O_BOND), (n[1:] - c[:-1], C_N_BOND),
        ):  # fmt: skip
            assert np.abs(norm(length) - ideal).max() < 0.03
        assert np.abs(norm(np.diff(ca, axis=0)) - 3.8).max() < 0.1
        assert np.abs(angle(n, ca, c) - N_CA_C_ANGLE).max() < 7.0
        assert np.abs(angle(ca[:-1], c[:-1], n[1:]) - CA_C_N_ANGLE).max() < 3.0
        assert np.abs(angle(c[:-1], n[1:], ca[1:]) - C_N_CA_ANGLE).max() < 3.0


def test_nothing_clashes(chains):
    for chain in chains:
        flat = chain.coords.reshape(-1, 3).astype(float)
        residue = np.arange(len(flat)) // 4
        apart = np.abs(residue[:, None] - residue) >= 2
        assert norm(flat[:, None] - flat)[apart].min() > 2.6
        ca = chain.coords[:, CA_ATOM].astype(float)
        i, j = np.triu_indices(len(ca), 3)
        assert norm(ca[i] - ca[j]).min() > 3.6


def test_torsions_lie_in_allowed_regions_and_peptides_are_trans(chains):
    shares = []
    for chain in chains:
        phi, psi, omega = torsions(torch.from_numpy(chain.coords).double())
        shares.append(in_allowed_region(torch.stack((phi, psi), -1))[1:-1].double().mean())
        assert torch.rad2deg(omega[:-1].abs()).min() > 160
    assert np.mean(shares) > 0.96
    assert min(shares) > 0.85


def test_secondary_structure_is_that_of_the_class(chains):
    shares = defaultdict(list)
    for chain in chains:
        shares[cath_class(chain.cath)].append(structure(chain))
    (alpha, _), (in_beta, beta), (mixed_alpha, mixed_beta), (few_alpha, _) = (
        np.mean(shares[k], axis=0) for k in range(4)
    )
    assert alpha > 0.7 and in_beta < 0.25 and beta > 0.5
    assert 0.25 < mixed_alpha < 0.7 and 0.25 < mixed_beta < 0.7
    assert few_alpha < 0.45


def test_helices_are_right_handed(chains):
    for chain in chains:
        if cath_class(chain.cath) == 0:
            turn = pseudo_dihedrals(torch.from_numpy(chain.coords[None, :, CA_ATOM]))[0]
            assert ((turn - 0.87).abs() < 0.4).double().mean() > 0.4
            assert ((turn + 0.87).abs() < 0.4).double().mean() < 0.15


def test_chains_are_as_compact_as_real_ones(chains):
    ratio = []
    for chain in chains:
        ca = chain.coords[:, CA_ATOM]
        ratio.append(np.sqrt(((ca - ca.mean(0)) ** 2).sum(-1).mean()) / (2.2 * len(ca) ** 0.38))
    assert 0.9 < np.median(ratio) < 1.25  # 2.2 L^0.38 Å: Skolnick, Kolinski & Ortiz 1997
    assert max(ratio) < 1.7


def test_strands_lie_side_by_side_at_4_8_angstrom(chains):
    nearest = []
    for chain in chains:
        if cath_class(chain.cath) != 1:
            continue
        ca = chain.coords[:, CA_ATOM].astype(float)
        distance = norm(ca[:, None] - ca)
        i = np.arange(len(ca))
        distance[np.abs(i[:, None] - i) < 4] = np.inf
        nearest.extend(distance.min(1))
    assert 4.4 < np.median(nearest) < 5.6  # 4.8 Å between strands: Cα pairs at 4.5 and 5.5 in turn


# --- folds ------------------------------------------------------------------------------------------


def test_helices_pack_at_9_to_10_angstrom():
    rng = np.random.default_rng(0)
    for fold in filter(None, (draw_fold(1, 40, 90, rng) for _ in range(20))):
        for a, b in combinations(fold.elements, 2):
            lines = [e.origin + np.linspace(-0.75, 0.75, 25)[:, None] * e.length * e.axis for e in (a, b)]
            assert norm(lines[0][:, None] - lines[1]).min() > HELIX_HELIX[0] - 0.7


def test_crossovers_between_parallel_strands_are_right_handed():
    rng = np.random.default_rng(0)
    seen = 0
    for fold in filter(None, (draw_fold(3, 40, 90, rng) for _ in range(60))):
        for first, helix, last in zip(fold.elements, fold.elements[1:], fold.elements[2:], strict=False):
            if first.kind + helix.kind + last.kind != "EHE":
                continue
            middles = [e.trace().mean(0) for e in (first, helix, last)]
            assert first.axis @ last.axis > 0  # parallel
            # up the first strand and round by way of the helix, a right-handed screw leads to the last
            around = np.cross(middles[1] - 0.5 * (middles[0] + middles[2]), first.axis)
            assert around @ (middles[2] - middles[0]) < 0
            seen += 1
    assert seen > 20


def test_sheets_have_the_left_handed_twist_of_real_ones():
    rng = np.random.default_rng(0)
    for fold in filter(None, (draw_fold(2, 30, 45, rng) for _ in range(20))):
        for a, b in zip(fold.elements, fold.elements[1:], strict=False):
            across = b.trace().mean(0) - a.trace().mean(0)
            if norm(across) > 6.5:  # not neighbours
                continue
            along = b.axis if a.axis @ b.axis > 0 else -b.axis
            assert np.cross(a.axis, along) @ across < 0


def test_chains_of_a_fold_are_alike_and_folds_are_not(by_fold):
    between = [tm(a[0], b[0]) for a, b in combinations(by_fold.values(), 2)]
    assert np.mean(between) < 0.25
    assert max(between) < 0.55
    rng = np.random.default_rng(0)
    within = []
    for members in by_fold.values():
        for _ in range(12):
            a, b = (members[k] for k in rng.choice(len(members), 2, replace=False))
            if len(a) == len(b):
                within.append(tm(a, b))
    assert np.mean(within) > 0.75
    assert np.quantile(within, 0.2) > 0.7


def test_no_two_chains_are_the_same(by_fold):
    for members in by_fold.values():
        shapes = {tuple(np.round(norm(np.diff(m.coords[:, CA_ATOM], n=2, axis=0)), 2)) for m in members}
        assert len(shapes) == len(members)
        assert len({m.sequence for m in members}) == len(members)


# --- labels, splits, sequences ----------------------------------------------------------------------


def test_validation_has_folds_of_training_and_test_has_none_of_them(chains):
    folds = {
        split: {c.cath[0] for c in chains if c.split == split} for split in ("train", "validation", "test")
    }
    assert folds["validation"] <= folds["train"]
    assert not folds["test"] & folds["train"]
    assert len(folds["train"] | folds["test"]) == QUICK.folds
    counts = Counter(c.split for c in chains)
    assert min(counts["validation"], counts["test"]) >= 40
    assert {cath_class((code,)) for code in folds["train"]} == {0, 1, 2, 3}


def test_held_out_sequences_are_unlike_every_training_sequence(chains):
    training = [c.sequence for c in chains if c.split == "train"]
    for chain in chains:
        if chain.split != "train":
            assert identity(chain.sequence, training).max() < MOST_SHARED


def test_no_cluster_reaches_across_splits(chains):
    splits = defaultdict(set)
    for chain in chains:
        splits[chain.cluster].add(chain.split)
    assert all(len(found) == 1 for found in splits.values())


def test_the_sequence_determines_the_fold(chains):
    counts = {}
    for chain in chains:
        if chain.split == "train":
            table = counts.setdefault((chain.cath[0], len(chain)), np.full((len(chain), 20), 0.5))
            table[np.arange(len(chain)), [AMINO_ACIDS.index(a) for a in chain.sequence]] += 1
    profiles = {key: np.log(20 * t / t.sum(-1, keepdims=True)) for key, t in counts.items()}

    def best_fold(sequence):
        letters = np.array([AMINO_ACIDS.index(a) for a in sequence])

        def score(profile, shift):
            places = np.arange(len(letters)) + shift
            inside = (places >= 0) & (places < len(profile))
            return profile[places[inside], letters[inside]].sum()

        return max((score(p, s), fold) for (fold, _), p in profiles.items() for s in range(-4, 5))[1]

    validation = [c for c in chains if c.split == "validation"]
    assert np.mean([best_fold(c.sequence) == c.cath[0] for c in validation]) >= 0.95


def test_hydrophobic_residues_are_buried_and_left_handed_turns_are_glycine_asparagine_or_aspartate(chains):
    burial, turned = defaultdict(list), Counter()
    for chain in chains:
        ca = chain.coords[:, CA_ATOM].astype(float)
        near = (norm(ca[:, None] - ca) < 10).sum(1)
        phi, _, _ = torsions(torch.from_numpy(chain.coords).double())
        phi[0] = -torch.pi  # the first residue has none
        for letter, neighbours, left in zip(chain.sequence, near, (phi > 0).tolist(), strict=True):
            burial[letter in "AVILMFWY"].append(neighbours)
            turned[letter in "GND"] += left
    assert np.mean(burial[True]) > np.mean(burial[False]) + 1
    assert turned[True] > 20 * turned[False]


# --- the generator ----------------------------------------------------------------------------------


SMALL = SyntheticConfig(n=30, folds=5, min_length=24, max_length=40, seed=3)


def test_the_same_seed_makes_the_same_chains_and_another_seed_others():
    first, again, other = (list(generate(c)) for c in (SMALL, SMALL, replace(SMALL, seed=4)))
    for a, b in zip(first, again, strict=True):
        assert (a.name, a.sequence, a.cath, a.split) == (b.name, b.sequence, b.cath, b.split)
        np.testing.assert_array_equal(a.coords, b.coords)
    assert not {c.sequence for c in first} & {c.sequence for c in other}


def test_chains_keep_to_the_lengths_asked_for():
    lengths = [len(c) for c in generate(SMALL)]
    assert min(lengths) >= SMALL.min_length
    assert max(lengths) <= SMALL.max_length
    assert len(lengths) == SMALL.n


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"min_length": 60, "max_length": 50}, "min_length 60 and max_length 50"),
        ({"min_length": 5}, "min_length 5"),
        ({"max_length": 500}, "max_length 500"),
        ({"min_length": 40, "max_length": 44}, "at least 8 residues"),
        ({"n": 100, "folds": 90}, "raise n to 270"),
        ({"folds": 2}, "folds is 2"),
        ({"bend": -1.0}, "bend -1.0"),
        ({"shapes": 0}, "shapes 0"),
    ],
)
def test_an_impossible_configuration_says_what_to_change(changes, words):
    with pytest.raises(ValueError, match=words):
        SyntheticConfig(**changes)


def test_folds_that_cannot_be_told_apart_end_in_an_error_not_in_a_loop(monkeypatch):
    monkeypatch.setattr(synthetic, "MOST_ALIKE", 0.05)
    monkeypatch.setattr(synthetic, "_ROUNDS", 2)
    with pytest.raises(ValueError, match="lower folds, or widen min_length"):
        list(generate(SMALL))


def test_sequences_that_cannot_be_told_apart_end_in_an_error_not_in_a_loop(monkeypatch):
    monkeypatch.setattr(synthetic, "MOST_SHARED", 0.05)
    monkeypatch.setattr(synthetic, "_TRIES", 3)
    with pytest.raises(ValueError, match="raise min_length"):
        list(generate(SMALL))


@pytest.mark.slow
def test_the_default_set_has_its_size_classes_and_folds():
    chains = list(generate(SyntheticConfig()))
    assert len(chains) == 2000
    assert len({c.cath[0] for c in chains}) >= 60
    assert {cath_class(c.cath) for c in chains} == {0, 1, 2, 3}
    assert min(map(len, chains)) >= 40 and max(map(len, chains)) <= 100
    firsts = list({c.cath[0]: c for c in reversed(chains)}.values())
    assert np.mean([tm(a, b) for a, b in combinations(firsts, 2)]) < 0.2
