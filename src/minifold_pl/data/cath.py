"""CATH labels of a chain, from the codes of its domains."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from minifold_pl.constants import CATH_CLASSES, NO_LABEL

_CODE: Final = re.compile(r"[1-9](\.(0|[1-9][0-9]{0,5})){1,8}")


def is_cath_code(code: object) -> bool:
    """Whether it is a CATH code of two to nine levels, such as ``3.40.50``.

    A class has one digit and a number below it at most six; the largest in use have five.
    """
    return isinstance(code, str) and _CODE.fullmatch(code) is not None


def cath_class(codes: Sequence[str]) -> int:
    """0…3 for classes 1…4; ``NO_LABEL`` without a code or where the chain's domains disagree."""
    classes = {code.split(".")[0] for code in codes}
    if len(classes) != 1:
        return NO_LABEL
    (only,) = classes
    return int(only) - 1 if only in _CLASS_NUMBERS else NO_LABEL


def architecture(codes: Sequence[str]) -> str | None:
    """``3.40`` from ``3.40.50``; None without a code or where the chain's domains disagree.

    A chain of two α/β domains of different architecture keeps its class and loses its architecture. CATH's
    class 6 (special) has no label of either kind.
    """
    found = {".".join(code.split(".")[:2]) for code in codes}
    if len(found) != 1:
        return None
    (only,) = found
    return only if "." in only and only.split(".")[0] in _CLASS_NUMBERS else None


def topologies(codes: Iterable[str]) -> tuple[str, ...]:
    """``3.40.50`` of each code that goes so far, each once."""
    parts = (code.split(".") for code in codes)
    return tuple(dict.fromkeys(".".join(part[:3]) for part in parts if len(part) >= 3))


def label_set(chains: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """The architectures that occur, in the order of their numbers (``2.9`` before ``2.10``)."""
    found = {name for codes in chains if (name := architecture(codes)) is not None}
    return tuple(sorted(found, key=lambda name: [int(part) for part in name.split(".")]))


_CLASS_NUMBERS = frozenset(str(k + 1) for k in range(len(CATH_CLASSES)))
