"""Which split a chain belongs to, as a splits file says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from minifold_pl.data.chain_set import SourceError
from minifold_pl.data.records import TEST, TRAIN, VALIDATION

SPLITS_FILE: Final = "chain_set_splits.json"
"""The usual name of the splits file beside a chain set."""


@dataclass(frozen=True)
class SplitTable:
    """What a splits file says."""

    split_of: Mapping[str, str] = field(default_factory=dict)
    """Split, by chain name."""
    cath_nodes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """CATH codes, by chain name."""


def read_splits(path: str | Path) -> SplitTable:
    """A splits file in Ingraham's form: {train, validation, test: lists of names, cath_nodes: codes by name}.

    Raises:
        SourceError: it cannot be read, is of another form, or puts a chain into two splits.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SourceError(f"splits file {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise SourceError(f"splits file {path} is no JSON: {error}") from None
    names = (
        {split: content.get(split, []) for split in (TRAIN, VALIDATION, TEST)} if _is_dict(content) else {}
    )
    sound = all(isinstance(n, list) and all(isinstance(name, str) for name in n) for n in names.values())
    if not any(names.values()) or not sound:
        raise SourceError(
            f"splits file {path} must be an object of lists of chain names: {TRAIN}, {VALIDATION}, {TEST}"
        )
    split_of: dict[str, str] = {}
    for split, members in names.items():
        for name in members:
            if split_of.setdefault(name, split) != split:
                raise SourceError(
                    f"splits file {path} puts {name!r} into {split_of[name]} and {split}; "
                    "a chain has one split"
                )
    nodes = content.get("cath_nodes")
    cath_nodes = {
        name: tuple(code for code in codes if isinstance(code, str))
        for name, codes in (nodes.items() if _is_dict(nodes) else ())
        if isinstance(codes, list)
    }
    return SplitTable(split_of, cath_nodes)


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)
