"""Which split a chain belongs to, as a splits file says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from minifold_pl.data.cath import is_cath_code
from minifold_pl.data.chain_set import SourceError, shortened
from minifold_pl.data.records import TEST, TRAIN, VALIDATION

SPLITS_FILE: Final = "chain_set_splits.json"
"""The usual name of the splits file beside a chain set."""

_SPLITS: Final = (TRAIN, VALIDATION, TEST)
_CODES: Final = "cath_nodes"
_TOLD: Final = 5
"""Bad entries of one kind that are named."""


@dataclass(frozen=True)
class SplitTable:
    """What a splits file says."""

    split_of: Mapping[str, str] = field(default_factory=dict)
    """Split, by chain name."""
    cath_nodes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """CATH codes, by chain name."""
    problems: Sequence[str] = ()
    """What was not understood and is left out."""


def read_splits(path: str | Path) -> SplitTable:
    """A splits file in Ingraham's form: {train, validation, test: lists of names, cath_nodes: codes by name}.

    Anything else in it is told and left out. What would put chains elsewhere than a user means is refused: a list of
    names under another key, such as ``val``, a split that is given twice, a chain in two splits.

    Raises:
        SourceError: it cannot be read, is of another form, or is refused as said.
    """
    path = Path(path)
    problems: list[str] = []
    content = _content(path, problems)
    names = {split: content.get(split) for split in _SPLITS}
    sound = all(members is None or isinstance(members, list) for members in names.values())
    if not sound or not any(isinstance(name, str) for members in names.values() for name in members or ()):
        raise SourceError(
            f"splits file {path} must be an object of lists of chain names: {', '.join(_SPLITS)}"
        )
    unknown = [key for key in content if key not in (*_SPLITS, _CODES)]
    for key in unknown:
        if _is_names(content[key]):
            raise SourceError(
                f"splits file {path}: {shortened(key)} is none of {', '.join(_SPLITS)}, and holds "
                f"{len(content[key]):,} names; rename it, or leave it out"
            )
    if unknown:
        problems.append(f"unknown keys: {shortened(unknown)}")
    split_of: dict[str, str] = {}
    for split, members in names.items():
        if bad := [name for name in members or () if not isinstance(name, str)]:
            problems.append(f"{len(bad):,} of {split} are no names: {shortened(bad)}")
        for name in members or ():
            if isinstance(name, str) and split_of.setdefault(name, split) != split:
                raise SourceError(
                    f"splits file {path} puts {shortened(name)} into {split_of[name]} and {split}; "
                    "a chain has one split"
                )
    cath_nodes = _cath_nodes(content.get(_CODES), problems)
    return SplitTable(split_of, cath_nodes, [f"splits file {path.name}: {problem}" for problem in problems])


def _content(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise SourceError(f"splits file {path}: {error.strerror}") from None
    text = data.decode("utf-8", "replace")
    try:
        content = json.loads(text, object_pairs_hook=_Object)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"splits file {path} is no JSON: {error}") from None
    if not isinstance(content, _Object):
        content = _Object()
    if refused := [key for key in content.twice if key in (*_SPLITS, _CODES)]:
        raise SourceError(f"splits file {path} has {refused[0]!r} twice; put the two together")
    if content.twice:
        problems.append(f"keys that are given twice: {shortened(content.twice)}")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.append(f"line {line} is not text: {error}")
    return content


class _Object(dict[str, Any]):
    """An object of JSON that remembers which keys it has twice; the first of them counts."""

    def __init__(self, pairs: Sequence[tuple[str, Any]] = ()) -> None:
        super().__init__()
        self.twice: list[str] = []
        for key, value in pairs:
            if key in self:
                self.twice.append(key)
            else:
                self[key] = value


def _cath_nodes(nodes: Any, problems: list[str]) -> dict[str, tuple[str, ...]]:
    """The codes of each chain, of the form that CATH's have."""
    if nodes is None:
        return {}
    if not isinstance(nodes, _Object):
        problems.append(f"{_CODES} is no object of codes by name")
        return {}
    if nodes.twice:
        problems.append(
            f"chains that {_CODES} has twice, of which the first is kept: {shortened(nodes.twice)}"
        )
    found: dict[str, tuple[str, ...]] = {}
    bad: list[str] = []
    for name, codes in nodes.items():
        given = codes if isinstance(codes, list) else [codes]
        found[name] = tuple(code for code in given if is_cath_code(code))
        bad += [f"{shortened(code)} of {shortened(name)}" for code in given if not is_cath_code(code)]
    problems += [f"no CATH code: {one}" for one in bad[:_TOLD]]
    if len(bad) > _TOLD:
        problems.append(f"no CATH code: {len(bad) - _TOLD:,} more")
    return found


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(name, str) for name in value)
