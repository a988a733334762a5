"""From a chain set file to a store, with an account of every record that was not sound."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from minifold_pl.data.chain_set import MIN_LENGTH, RecordProblem, SourceError, read_chain_set
from minifold_pl.data.records import NO_SPLIT, SPLITS, TEST, TRAIN, VALIDATION, ChainRecord
from minifold_pl.data.store import StoreWriter

SPLITS_FILE: Final = "chain_set_splits.json"
"""The usual name of the splits file beside a chain set."""
REPORT_FILE: Final = "report.json"
"""The account of :func:`prepare`, kept in the store."""
_ACTIONS: Final = ("noted", "repaired", "dropped")
OWN_KEY: Final = "the records' own key"


@dataclass(kw_only=True)
class PrepareReport:
    """What became of every record."""

    source: str
    splits_from: str
    """The splits file's path, or that there was none."""
    kept: int = 0
    """Chains in the store, repaired ones among them."""
    split_sizes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    absent_from_source: int = 0
    """Chains that the splits file names and the source lacks."""
    problems: list[RecordProblem] = field(default_factory=list)

    def reasons(self, action: str) -> Counter[str]:
        """Records that were ``dropped``, ``repaired`` or ``noted``, by reason."""
        return Counter(p.reason for p in self.problems if p.action == action)

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "source": self.source,
            "splits_from": self.splits_from,
            "kept": self.kept,
            **{action: dict(self.reasons(action)) for action in _ACTIONS},
            "split_sizes": self.split_sizes,
            "absent_from_source": self.absent_from_source,
            "problems": [str(problem) for problem in self.problems],
        }

    def table(self) -> str:
        """The account as a few aligned lines."""
        rows = [("kept", self.kept, "")]
        rows += [("  " + split, count, "") for split, count in self.split_sizes.items() if count]
        for action in _ACTIONS:
            rows += [(action, count, reason) for reason, count in self.reasons(action).most_common()]
        if not self.reasons("dropped"):
            rows.append(("dropped", 0, ""))
        if self.absent_from_source:
            rows.append(
                ("not found", self.absent_from_source, "named by the splits file, absent from the source")
            )
        lines = [f"{what:<14}{count:>8}  {reason}".rstrip() for what, count, reason in rows]
        return "\n".join([f"source        {self.source}", f"splits from   {self.splits_from}", *lines])


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    splits: str | Path | None = None,
    min_length: int = MIN_LENGTH,
    overwrite: bool = False,
) -> PrepareReport:
    """Read a chain set into a store at ``out``; every sound chain is kept, missing residues stay as masks.

    Splits come from ``splits``; without it from ``chain_set_splits.json`` beside the source, and for chains
    that it does not name (it may belong to a sister file) from their own ``split`` key. A chain in no split
    is kept under ``none``.

    Raises:
        SourceError: the source or the splits file cannot be read at all, or holds no sound chain.
        StoreError: something is in the way at ``out``.
        OSError: the store cannot be written; nothing is left behind.
    """
    source = Path(source)
    records = read_chain_set(source, min_length)
    table, splits_from = _find_splits(source, splits)
    strict = splits is not None
    report = PrepareReport(source=str(source), splits_from=splits_from)
    found: set[str] = set()
    with StoreWriter(out, overwrite=overwrite) as writer:
        for item in records:
            if isinstance(item, RecordProblem):
                report.problems.append(item)
                continue
            record = _placed(item, table, strict)
            found.add(record.name)
            report.kept += 1
            report.split_sizes[record.split] += 1
            writer.add(record)
        if strict or not found.isdisjoint(table.split_of):
            report.absent_from_source = len(table.split_of.keys() - found)
        else:
            report.splits_from = OWN_KEY  # the file beside the source is about other chains
        if not report.kept:
            first = f"; first: {report.problems[0]}" if report.problems else ""
            raise SourceError(f"{source} holds no sound chain of {len(report.problems)} records{first}")
        writer.provenance = {
            "source": source.name,
            "splits_from": report.splits_from,
            "min_length": min_length,
        }
        writer.attach(REPORT_FILE, json.dumps(report.as_dict(), indent=1))
    return report


@dataclass(frozen=True)
class SplitTable:
    """What a splits file says."""

    split_of: Mapping[str, str] = field(default_factory=dict)
    """Split, by chain name."""
    cath_nodes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """CATH codes, by chain name."""


def _find_splits(source: Path, splits: str | Path | None) -> tuple[SplitTable, str]:
    beside = source.parent / SPLITS_FILE
    if splits is not None:
        return read_splits(splits), str(splits)
    if beside.is_file():
        return read_splits(beside), f"{beside}, else {OWN_KEY}"
    return SplitTable(), OWN_KEY


def _placed(record: ChainRecord, table: SplitTable, strict: bool) -> ChainRecord:
    split = table.split_of.get(record.name, NO_SPLIT if strict else record.split)
    return replace(record, split=split, cath=record.cath or table.cath_nodes.get(record.name, ()))


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
