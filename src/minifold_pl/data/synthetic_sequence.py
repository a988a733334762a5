"""Sequences for synthetic backbones, drawn from the structure, and how alike two sequences are.

What a residue may be follows from where it is: helix, strand or loop, buried or not, at an end of a helix,
with φ > 0, beside which partner. The preferences are those of textbooks (Chou & Fasman 1978, Adv. Enzymol.
47:45; Richardson & Richardson 1988, Science 240:1648 for helix ends), rounded; they are the same for every
fold, so that what is learnt on some folds holds on others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int

from minifold_pl.constants import AMINO_ACIDS, C_ATOM, CA_ATOM, N_ATOM
from minifold_pl.data.synthetic_fold import Fold
from minifold_pl.geometry.backbone import place_beta

PREFERENCES: Final[dict[str, dict[str, float]]] = {
    "helix core": {"L": 6, "I": 3, "A": 3, "M": 3, "F": 3, "V": 2, "W": 1, "Y": 1},
    "helix boundary": {"A": 4, "L": 2, "K": 3, "R": 3, "Q": 3, "E": 3, "M": 1.5, "I": 1.5, "Y": 1},
    "helix surface": {"E": 5, "K": 5, "R": 3, "Q": 3, "A": 2.5, "D": 2, "S": 1, "N": 1, "T": 0.7},
    "helix cap": {"S": 4, "T": 3, "D": 4, "N": 2},
    "helix start": {"E": 3, "P": 3, "A": 2, "D": 2, "S": 1.5, "T": 1, "Q": 1, "W": 0.5},
    "helix end": {"K": 3, "R": 2.5, "N": 2, "A": 1.5, "L": 1.5, "Q": 1.5, "H": 1.5, "S": 1, "Y": 1},
    "strand core": {"V": 5, "I": 5, "F": 3, "L": 2.5, "Y": 2, "W": 1.2, "C": 1, "A": 1, "M": 0.7},
    "strand boundary": {"T": 3, "V": 3, "Y": 2.5, "I": 2, "K": 1.5, "R": 1.5, "F": 1.5, "S": 1, "Q": 1},
    "strand surface": {"T": 5, "K": 3.5, "R": 3, "E": 3, "S": 2.5, "Q": 2.5, "Y": 1, "V": 1, "H": 1},
    "extended": {
        "P": 2.5,
        "T": 2,
        "S": 2,
        "K": 2,
        "E": 1.5,
        "Q": 1.5,
        "R": 1.5,
        "V": 1,
        "N": 1,
        "A": 1,
        "D": 1,
    },
    "extended core": {"C": 3, "P": 2.5, "Y": 2, "F": 2, "L": 2, "V": 2, "W": 1, "H": 1, "M": 1},
    "loop": {"S": 3, "N": 3, "D": 3, "G": 2.5, "T": 2, "K": 2, "E": 1.5, "Q": 1, "H": 1, "R": 1, "A": 1},
    "loop core": {"P": 2, "A": 2, "L": 2, "Y": 2, "F": 1.5, "V": 1.5, "H": 1, "C": 1, "T": 1, "S": 1},
    "turned": {"G": 6, "N": 2.5, "D": 1.5},
}
"""Relative frequencies by surroundings. ``turned`` is φ > 0."""

MOST_SHARED: Final = 0.40
"""Largest identity of a held-out sequence to any training sequence."""

_SIGNATURE: Final = 0.75
"""Spread of the logarithm of a fold's own preferences about the general ones, position by position."""
_PROLINE_PHI: Final = (-95.0, -45.0)
_PAIR: Final = 5.8
"""Å between two Cα of neighbouring strands that face each other."""
_PACK: Final = 128
"""Room for the count of matches below a score, and one more than the longest sequence."""
_GAP: Final = 2
"""Price of a residue in a gap, in matches."""
_LETTERS: Final = {letter: k for k, letter in enumerate(AMINO_ACIDS)}
_CHARGE: Final = np.array([{"D": -1, "E": -1, "K": 1, "R": 1}.get(letter, 0) for letter in AMINO_ACIDS])


def surroundings(
    fold: Fold, angles: Float[np.ndarray, "l 2"], coords: Float[np.ndarray, "l 4 3"]
) -> list[str]:
    """The key of ``PREFERENCES`` of every residue; ``angles`` are φ and ψ in radians."""
    structure = fold.structure()
    atoms = torch.from_numpy(coords)
    beta = place_beta(atoms[:, N_ATOM], atoms[:, CA_ATOM], atoms[:, C_ATOM]).numpy()
    separation = np.abs(np.subtract.outer(np.arange(len(beta)), np.arange(len(beta))))
    near = np.linalg.norm(beta[:, None] - beta[None], axis=-1) < 10.0
    burial = (near & (separation > 2)).sum(-1)
    low, high = np.quantile(burial, (0.4, 0.65))
    phi = np.degrees(np.arctan2(np.sin(angles[:, 0]), np.cos(angles[:, 0])))
    found = []
    for i, kind in enumerate(structure):
        level = "core" if burial[i] > high else ("boundary" if burial[i] > low else "surface")
        ahead = structure[i + 1 : i + 3]
        if phi[i] > 0 and i > 0:
            found.append("turned")
        elif kind == "L" and ahead[:1] == "H":
            found.append("helix cap")
        elif kind == "H":
            if structure[max(i - 2, 0) : i].count("H") < 2:
                found.append("helix start")
            elif "L" in ahead:
                found.append("helix end")
            else:
                found.append(f"helix {level}")
        elif kind == "E":
            found.append(f"strand {level}")
        else:
            name = "extended" if kind == "C" else "loop"
            found.append(f"{name} core" if level == "core" else name)
    return found


def profile(
    fold: Fold,
    angles: Float[np.ndarray, "l 2"],
    coords: Float[np.ndarray, "l 4 3"],
    key: tuple[int, ...],
) -> Float[np.ndarray, "l 20"]:
    """Probability of every amino acid at every residue.

    The preferences of the surroundings, times what is the fold's own: a factor for each place of each
    element, drawn from ``key``, the same in all chains of the fold however long its elements are.
    """
    phi = np.degrees(np.arctan2(np.sin(angles[:, 0]), np.cos(angles[:, 0])))
    rows = np.zeros((fold.length, len(AMINO_ACIDS)))
    for i, name in enumerate(surroundings(fold, angles, coords)):
        for letter, weight in PREFERENCES[name].items():
            rows[i, _LETTERS[letter]] = weight
        if not _PROLINE_PHI[0] < phi[i] < _PROLINE_PHI[1]:
            rows[i, _LETTERS["P"]] = 0.0
    sizes = [fold.loops[0]]
    for element, loop in zip(fold.elements, fold.loops[1:], strict=True):
        sizes += [element.length, loop]
    at = 0
    for part, size in enumerate(sizes):
        own = np.random.default_rng([*key, part]).standard_normal((64, len(AMINO_ACIDS)))
        rows[at : at + size] *= np.exp(_SIGNATURE * own[:size])
        at += size
    return rows / rows.sum(-1, keepdims=True)


def partners(fold: Fold, coords: Float[np.ndarray, "l 4 3"]) -> Int[np.ndarray, " l"]:
    """For every residue an earlier one across the sheet, or a turn back in the helix; else -1."""
    structure = fold.structure()
    ca = coords[:, CA_ATOM]
    found = np.full(len(ca), -1)
    for i, kind in enumerate(structure):
        if kind == "H" and i >= 4 and structure[i - 4 : i + 1] == "HHHHH":
            found[i] = i - 4
        elif kind == "E" and i > 3:
            strand = np.array([c == "E" for c in structure[: i - 2]])
            gaps = np.where(strand, np.linalg.norm(ca[: i - 2] - ca[i], axis=-1), np.inf)
            if gaps.min() < _PAIR:
                found[i] = int(gaps.argmin())
    return found


def draw_sequence(
    probabilities: Float[np.ndarray, "l 20"], partner: Int[np.ndarray, " l"], rng: np.random.Generator
) -> str:
    """One sequence: residue by residue, unlike charges sought and like ones shunned between partners."""
    drawn = np.zeros(len(probabilities), dtype=int)
    throws = rng.random(len(probabilities))
    for i, row in enumerate(probabilities):
        if partner[i] >= 0 and _CHARGE[drawn[partner[i]]]:
            row = row * np.exp(-1.4 * _CHARGE * _CHARGE[drawn[partner[i]]])
        heap = row.cumsum()
        drawn[i] = min(int(np.searchsorted(heap, throws[i] * heap[-1])), len(AMINO_ACIDS) - 1)
    return "".join(AMINO_ACIDS[k] for k in drawn)


def identity(sequence: str, others: Sequence[str]) -> Float[np.ndarray, " n"]:
    """Share of identical residues of ``sequence`` to each of ``others``, of the shorter one's length.

    Counted on the global alignment that scores best with 1 for a match, 0 for a mismatch, -2 a residue in a
    gap (BLOSUM62 with 11 for a gap's first residue costs about as much), and nothing for gaps at the ends
    (Needleman & Wunsch 1970, J. Mol. Biol. 48:443). Mismatches are free, so that the figure is rather too
    high than too low.

    Raises:
        ValueError: a sequence has more than 127 residues.
    """
    if not others:
        return np.zeros(0)
    lengths = np.array([len(s) for s in others])
    if max(len(sequence), int(lengths.max())) >= _PACK:
        raise ValueError(
            f"a sequence has {max(len(sequence), int(lengths.max()))} residues; "
            f"identity compares up to {_PACK - 1}"
        )
    # blocks of like length: little padding, and arrays that stay in the cache
    found = np.zeros(len(others))
    order = np.argsort(lengths, kind="stable")
    for block in np.array_split(order, -(-len(order) // 256)):
        found[block] = _matches(sequence, [others[i] for i in block])
    return found / np.minimum(lengths, len(sequence))


def _matches(sequence: str, others: Sequence[str]) -> Int[np.ndarray, " n"]:
    lengths = np.array([len(s) for s in others])
    letters = np.zeros((lengths.max(), len(others)), dtype=np.uint8)
    for column, other in enumerate(others):
        letters[: len(other), column] = np.frombuffer(other.encode(), dtype=np.uint8)
    # score · 128 + matches, so that one integer carries both; it is never negative, since gaps at the ends
    # are free and mismatches cost nothing, and stays below 127 · 129
    rows, columns = len(letters) + 1, np.arange(len(others))
    line, step = (np.zeros((rows, len(others)), dtype=np.int16) for _ in range(2))
    best = np.zeros(len(others), dtype=np.int16)
    for letter in sequence.encode():
        np.multiply(letters == letter, np.int16(_PACK + 1), out=step[1:])
        step[1:] += line[:-1]
        np.maximum(step[1:], line[1:] - np.int16(_GAP * _PACK), out=step[1:])
        step[0] = 0
        reach = 1
        while reach < rows:  # a gap of any length is a sum of gaps of 1, 2, 4 … residues
            np.maximum(step[reach:], step[:-reach] - np.int16(_GAP * _PACK * reach), out=step[reach:])
            reach *= 2
        line, step = step, line
        np.maximum(best, line[lengths, columns], out=best)
    inside = np.arange(rows)[:, None] <= lengths
    return np.maximum(best, np.where(inside, line, 0).max(0)) % _PACK
