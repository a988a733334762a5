"""Stores made in parts, on many machines, and put together into the store that one run would have made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from minifold_pl.data.old_store import read_old_store
from minifold_pl.data.packed_chain import PackedChain, pack
from minifold_pl.data.split import SplitAssignment, SplitFractions, assign_splits
from minifold_pl.data.store import ChainStore
from minifold_pl.data.store_format import (
    HEADER,
    INDEX,
    OLD_FORMAT_VERSION,
    STRINGS,
    StoreError,
    read_header,
)
from minifold_pl.data.store_writer import StoreWriter

SHARD: Final = "shard"
"""Key of the provenance: [number from 1, how many there are]."""
SHARD_OF: Final = "shard_of"
"""Key of a shard's provenance: what all shards of one run share, as ``files``, ``bytes`` and ``sha256``."""
SETTINGS: Final = "settings"
"""Key of the provenance: what the outcome of a file depends on besides the file."""
MAKE_SPLITS: Final = "make_splits"
"""Key of the provenance: arguments of :func:`minifold_pl.data.split.assign_splits`, which needs all chains."""
SPLITS_GIVEN: Final = "splits"
"""Key of the provenance: a checksum of the splits file's content, where there was one."""
MERGED: Final = "merged"
"""Key of the provenance: those of stores that were no shards of one run."""
_REPORT: Final = "report.json"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the stores that are put together."""

    path: Path
    provenance: dict[str, Any]
    attached: dict[str, str]
    """Texts that lie in the store, by file name."""
    chains: Callable[[], Iterator[PackedChain]]

    @property
    def shard(self) -> tuple[int, int] | None:
        """Its number and how many there are; None when it is no shard."""
        found = self.provenance.get(SHARD)
        return (int(found[0]), int(found[1])) if found else None

    @property
    def shard_of(self) -> str:
        """What it is a shard of, in words."""
        found = self.provenance.get(SHARD_OF)
        if not found:
            return "a source that is not known"
        files = "1 file" if found["files"] == 1 else f"{found['files']:,} files"
        return f"{files} of {found['bytes']:,} bytes, sha256 {found['sha256'][:16]}"


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """A chain that was left out, since one of its name was there already."""

    part: int
    """Place of its store, from 0."""
    name: str
    first: int
    """Place of the store whose chain was kept."""


Join = Callable[[Sequence[Part], Sequence[Duplicate], SplitAssignment | None], dict[str, str]]
"""Makes the texts to attach to the whole from those of the parts."""


@dataclass(frozen=True, kw_only=True)
class Merge:
    """What :func:`merge_stores` did."""

    chains: int
    residues: int
    duplicates: list[Duplicate]
    notes: list[str] = field(default_factory=list)
    """How splits were made, where they were."""


def shard_range(count: int, number: int, total: int) -> range:
    """Places of the shard ``number`` of ``total`` (from 1) among ``count`` things: contiguous, sizes differ by one.

    Raises:
        ValueError: no such shard.
    """
    if not 1 <= number <= total:
        raise ValueError(f"shard {number}/{total}: give K/N with K in 1…N")
    return range(count * (number - 1) // total, count * number // total)


def parse_shard(text: str) -> tuple[int, int]:
    """``(2, 8)`` from ``2/8``.

    Raises:
        ValueError: it is of another form, or there is no such shard.
    """
    number, slash, total = text.partition("/")
    if not (slash and number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
        raise ValueError(f"shard {text!r}: give K/N, such as 2/8, with K in 1…N")
    return int(number), int(total)


def merge_stores(
    out: str | Path, stores: Sequence[str | Path], *, overwrite: bool = False, join: Join | None = None
) -> Merge:
    """Put stores together into one at ``out``, their chains byte for byte.

    Shards of one run are put in their order, whatever the order of ``stores``; splits that the run was asked to
    make are made here, and a chain whose name an earlier shard has is left out, as the one run would. Other
    stores are put together as given, and a name that two of them have is an error. A store of the earlier format
    is converted on the way.

    Args:
        out: Store to make.
        stores: Stores to put together.
        overwrite: Replace a store that is there.
        join: Makes the account of the whole run from those of its shards.

    Raises:
        StoreError: a store is damaged, a shard is missing, twice there, of another run or of a source that was
            not the same for all of them, names collide.
    """
    parts = [_part(Path(store)) for store in stores]
    if not parts:
        raise StoreError("no store to merge; give the folders of at least one")
    sharded = any(part.shard for part in parts)
    if sharded:
        parts = _in_order(parts)
    duplicates: list[Duplicate] = []
    first: dict[str, int] = {}
    with StoreWriter(out, overwrite=overwrite) as writer:
        for place, part in enumerate(parts):
            for chain in part.chains():
                if chain.name not in first:
                    first[chain.name] = place
                    writer.add_packed(chain)
                    continue
                if not sharded:
                    one, other = parts[first[chain.name]].path, part.path
                    raise StoreError(
                        f"{one} and {other} both have a chain named {chain.name!r}; names must differ"
                    )
                duplicates.append(Duplicate(part=place, name=chain.name, first=first[chain.name]))
        writer.provenance = _provenance(parts, sharded)
        assignment = _splits(parts, writer.provenance.get(MAKE_SPLITS) if sharded else None)
        if assignment is not None:
            writer.assign(assignment)
        if not sharded:
            attached = parts[0].attached if len(parts) == 1 else _reports_side_by_side(parts)
        else:
            attached = join(parts, duplicates, assignment) if join else _reports_side_by_side(parts)
        for name, text in attached.items():
            writer.attach(name, text)
        chains, residues = len(writer), writer.residues
    notes = assignment.notes if assignment else []
    return Merge(chains=chains, residues=residues, duplicates=duplicates, notes=notes)


def _part(path: Path) -> Part:
    if read_header(path)[0]["version"] == OLD_FORMAT_VERSION:
        provenance, attached, records = read_old_store(path)
        return Part(path=path, provenance=provenance, attached=attached, chains=lambda: map(pack, records))
    store = ChainStore.open(path)

    def chains() -> Iterator[PackedChain]:
        for chain in range(len(store)):
            store.check(chain)
            yield store.packed(chain)

    own = {HEADER, INDEX, STRINGS}
    names = [n for n in store.files if n not in own and not n.startswith("chains-")]
    attached = {name: store.attached(name) for name in names}
    return Part(path=path, provenance=store.provenance, attached=attached, chains=chains)


def _in_order(parts: list[Part]) -> list[Part]:
    by_number: dict[int, Part] = {}
    total = max(part.shard[1] for part in parts if part.shard)
    for part in parts:
        if part.shard is None:
            raise StoreError(f"{part.path} is no shard, others are; merge the shards of one run only")
        number, own_total = part.shard
        if own_total != total:
            raise StoreError(
                f"{part.path} is shard {number}/{own_total}, others are of {total}; merge one run only"
            )
        if number in by_number:
            raise StoreError(f"{by_number[number].path} and {part.path} are both shard {number}/{total}")
        by_number[number] = part
    missing = [str(number) for number in range(1, total + 1) if number not in by_number]
    if missing:
        raise StoreError(
            f"shard {', '.join(missing)} of {total} is missing; prepare it and give its store too"
        )
    ordered = [by_number[number] for number in range(1, total + 1)]
    for part in ordered:
        if SETTINGS in part.provenance and SHARD_OF not in part.provenance:
            raise StoreError(
                f"{part.path} does not say which files it is a shard of, an earlier version made it; prepare it again"
            )
        if part.provenance.get(SHARD_OF) != ordered[0].provenance.get(SHARD_OF):
            raise StoreError(
                f"{ordered[0].path} and {part.path} are shards of sources that differ: {ordered[0].shard_of}, and "
                f"{part.shard_of}; chains could be missing or twice there: prepare all shards from the same files"
            )
        if _without_shard(part) != _without_shard(ordered[0]):
            raise StoreError(
                f"{ordered[0].path} and {part.path} were prepared from other sources or with other settings: "
                f"{_without_shard(ordered[0])} and {_without_shard(part)}"
            )
    return ordered


def _without_shard(part: Part) -> dict[str, Any]:
    return {key: value for key, value in part.provenance.items() if key not in (SHARD, SHARD_OF)}


def _provenance(parts: Sequence[Part], sharded: bool) -> dict[str, Any]:
    if sharded or len(parts) == 1:
        return _without_shard(parts[0])
    return {MERGED: [part.provenance for part in parts]}


@dataclass(frozen=True)
class _Named:
    """What splits are made by."""

    name: str
    sequence: str
    cath: tuple[str, ...]


def _splits(parts: Sequence[Part], arguments: Mapping[str, Any] | None) -> SplitAssignment | None:
    if not arguments:
        return None
    chains: dict[str, _Named] = {}
    for part in parts:
        for chain in part.chains():
            chains.setdefault(chain.name, _Named(chain.name, chain.sequence, chain.cath))
    given = dict(arguments)
    if given.get("fractions") is not None:
        given["fractions"] = SplitFractions(**given["fractions"])
    return assign_splits(chains.values(), **given)


def _reports_side_by_side(parts: Sequence[Part]) -> dict[str, str]:
    """The parts' own accounts."""
    accounts = [
        {"store": part.path.name, "report": json.loads(part.attached[_REPORT])}
        for part in parts
        if _REPORT in part.attached
    ]
    return {_REPORT: json.dumps({MERGED: accounts}, indent=1)} if accounts else {}
