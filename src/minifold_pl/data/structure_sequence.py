"""Where the observed residues of a chain stand in its full sequence, and what the others are numbered."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from jaxtyping import Int, UInt8

from minifold_pl.data.records import split_residue_id

_MAX_CONFLICT: Final = 0.05
"""Share of residues in which atoms and full sequence may differ before the sequence is held to be another chain's."""
_LARGEST_NUMBER: Final = 10**9
_INSERTION_CODES: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def placed_at_once(observed: str, full: str, numbers: Sequence[int] | None) -> list[int] | None:
    """Places of the observed residues in the full sequence where they are beyond doubt, else None.

    Beyond doubt is one run that occurs once, or letters that all agree when residues are placed by their numbers
    (None where numbers mean nothing), from the first place where the first run of consecutive numbers fits.
    """
    if observed == full:
        return list(range(len(full)))
    start = full.find(observed)
    if start >= 0 and full.find(observed, start + 1) < 0:
        return list(range(start, start + len(observed)))
    if numbers is None:
        return None
    run = next((i for i, (a, b) in enumerate(pairwise(numbers), 1) if b != a + 1), len(numbers))
    start = full.find(observed[:run])
    while start >= 0:
        places = placement([start + number - numbers[0] for number in numbers], full)
        if places is not None and all(full[p] == a for p, a in zip(places, observed, strict=True)):
            return places
        start = full.find(observed[:run], start + 1)
    return None


def placed_between(
    observed: str,
    numbers: Int[np.ndarray, " l"],
    insertions: UInt8[np.ndarray, " l"],
    missing: Sequence[tuple[str, str]],
    full: str,
) -> list[int] | None:
    """Places of the observed residues when those that the file calls missing, (number, letter), fill the rest.

    None where the two sorted by number are not the full sequence, or the observed ones are not in its order.
    """
    codes = insertions[insertions != 0].tobytes()
    sound = (not codes or codes.isalpha()) and bool((np.abs(numbers, dtype=np.int64) < _LARGEST_NUMBER).all())
    if not sound or len(observed) + len(missing) != len(full):
        return None
    ids = [split_residue_id(number) for number, _ in missing]
    unobserved = np.array([number << 8 | (ord(code) if code else 0) for number, code in ids], dtype=np.int64)
    keys = np.concatenate([numbers.astype(np.int64) << 8 | insertions, unobserved])
    order = keys.argsort(kind="stable")
    letters = np.frombuffer((observed + "".join([letter for _, letter in missing])).encode(), dtype=np.uint8)
    if letters[order].tobytes() != full.encode():
        return None
    places = (order < len(observed)).nonzero()[0]
    seen = order[places]  # observed residues by number; of one number in the file's order
    in_order = np.array_equal(keys[seen], keys[: len(observed)])
    return places.tolist() if in_order else None


def placement(labels: Sequence[int | None], full: str) -> list[int] | None:
    """The labels, if every residue has one and they run upwards within the full sequence."""
    places = [label for label in labels if label is not None]
    upwards = all(a < b for a, b in pairwise([-1, *places, len(full)]))
    return places if upwards and len(places) == len(labels) else None


def agrees(observed: str, full: str, places: Sequence[int]) -> bool:
    """Whether the residues at their places are those of the full sequence, a few substitutions aside."""
    conflicts = sum(a != full[p] for p, a in zip(places, observed, strict=True) if "X" not in (a, full[p]))
    return conflicts <= max(1, _MAX_CONFLICT * len(observed))


def is_residue_id(text: str) -> bool:
    """Whether it is a residue number with at most an insertion code."""
    try:
        split_residue_id(text)
    except ValueError:
        return False
    return True


def is_between(before: str, residue_id: str, after: str) -> bool:
    """Whether a residue number lies between two others: by number, then insertion code."""
    try:
        return split_residue_id(before) < split_residue_id(residue_id) < split_residue_id(after)
    except ValueError:
        return False


def filled_numbers(before: str, after: str, count: int, known: Sequence[str]) -> list[str]:
    """Residue numbers of ``count`` unobserved residues between two observed ones.

    ``known`` are the numbers that the file gives to unobserved residues there. Where they are not as many, the
    residues are counted on from the one before if there is room, else they get its number and a letter each. Empty
    strings where even letters do not suffice.
    """
    if len(known) == count:
        return list(known)
    if not (is_residue_id(before) and is_residue_id(after)):
        return [""] * count
    (low, code), (high, _) = split_residue_id(before), split_residue_id(after)
    if high - low > count:
        return [str(low + i) for i in range(1, count + 1)]
    free = _INSERTION_CODES[_INSERTION_CODES.find(code.upper()) + 1 if code else 0 :]
    if high != low and count <= len(free):
        return [f"{low}{letter}" for letter in free[:count]]
    return [""] * count
