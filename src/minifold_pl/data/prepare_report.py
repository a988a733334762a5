"""The account of a store that was prepared: what became of every file, line and chain.

A store keeps it twice: ``sources.jsonl`` has, a line each, the source's files with what was found in them, and
``report.json`` sums it up for people. The second is a function of the first, so that shards that are merged, and
stores that are added to, have the report that one run would have made.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from minifold_pl.data.outcome import ACTIONS, DUPLICATE, Action, Problem
from minifold_pl.data.records import SPLITS
from minifold_pl.data.structure_content import printable

if TYPE_CHECKING:
    from minifold_pl.data.shards import Duplicate, Part
    from minifold_pl.data.split import SplitAssignment
    from minifold_pl.data.store import ChainStore

REPORT_FILE: Final = "report.json"
SOURCES_FILE: Final = "sources.jsonl"
OWN_KEY: Final = "the records' own key"


@dataclass(frozen=True)
class Told:
    """What is kept of an entry besides its chain."""

    name: str | None
    """Of the chain; None where there is none."""
    line: int | None
    parent: str | None
    named: bool
    """The splits file names it."""
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class SourceAccount:
    """What was found in one file."""

    path: str
    """Absolute."""
    size: int
    mtime_ns: int
    sha256: str
    """Empty where it was not needed."""
    told: tuple[Told, ...]

    def as_line(self) -> str:
        """A line of JSON."""
        rows = [[t.name, t.line, t.parent, t.named, t.problems] for t in self.told]
        content = {"path": self.path, "size": self.size, "mtime_ns": self.mtime_ns, "sha256": self.sha256}
        return json.dumps({**content, "told": rows}, separators=(",", ":"))

    @classmethod
    def from_line(cls, line: str) -> SourceAccount:
        """What :meth:`as_line` wrote."""
        content = json.loads(line)
        told = tuple(
            Told(name, number, parent, named, tuple(Problem(*problem) for problem in problems))
            for name, number, parent, named, problems in content.pop("told")
        )
        return cls(**content, told=told)


def accounts_of(store: ChainStore) -> list[SourceAccount]:
    """What a store tells of each file that it is made of.

    Raises:
        StoreError: it tells nothing, or what it tells has changed since it was written.
    """
    return [SourceAccount.from_line(line) for line in store.attached(SOURCES_FILE).splitlines()]


class TextProblem(NamedTuple):
    """A problem as it is told."""

    action: Action
    reason: str
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(kw_only=True)
class PrepareReport:
    """What became of every chain; files are added by :meth:`begin`, :meth:`take`, :meth:`end`."""

    source: str
    """The file, or the folder that all files are in."""
    splits_from: str
    """The splits file's path, how splits were made, or that there was neither."""
    named_by_splits: int = 0
    """Chains that the splits file names."""
    strict_splits: bool = False
    """The splits file was asked for, not found beside the source."""
    files: int = 0
    files_refused: dict[str, str] = field(default_factory=dict)
    """Files that could not be read at all, and why."""
    files_without_a_chain: int = 0
    """Files that were read, and of which no chain is in the store."""
    kept: int = 0
    """Chains in the store, repaired ones among them."""
    split_sizes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    split_notes: list[str] = field(default_factory=list)
    """How splits were made, and what to know of them."""
    list_problems: list[str] = field(default_factory=list)
    """What was not understood of CATH's lists and the splits file, and left out."""
    problems: list[TextProblem] = field(default_factory=list)
    already_there: bool = False
    """The store had been made of this source before, and was left as it is."""
    _found: int = 0
    _places: dict[str, str] = field(default_factory=dict)
    _file: str = ""
    _before: int = 0
    _refusal: Problem | None = None
    _of_lines: bool = False

    @classmethod
    def of_store(cls, store: ChainStore) -> Self:
        """The account that lies in a store.

        Raises:
            StoreError: it has changed since it was written.
        """
        saved = json.loads(store.attached(REPORT_FILE))
        known = ("source", "splits_from", "named_by_splits", "strict_splits", "split_sizes", "split_notes")
        report = cls(**{name: saved[name] for name in known})
        report.list_problems = saved.get("list_problems", [])  # stores of before have none
        for account in accounts_of(store):
            report.add(account)
        return report

    def add(self, account: SourceAccount) -> None:
        """A whole file."""
        self.begin(account.path)
        for told in account.told:
            self.take(told)
        self.end()

    def begin(self, path: str) -> None:
        """Take up the next file; each of what it told follows by :meth:`take`."""
        self.files += 1
        inside = os.path.join(self.source, "")
        self._file = printable(path.removeprefix(inside) if os.path.isdir(self.source) else path)
        self._before = self.kept
        self._refusal = None
        self._of_lines = False

    def take(self, told: Told) -> bool:
        """Whether its chain is kept: no chain of that name was there before."""
        place = self._file if told.line is None else f"line {told.line}"
        self._of_lines |= told.line is not None
        if told.name is not None and told.name in self._places:
            where = (
                f"first seen {'in' if told.line is None else 'on'} {self._places[told.name]}, which is kept"
            )
            self._tell(Problem("dropped", DUPLICATE, where, told.name), place)
            return False
        for problem in told.problems:
            self._tell(problem, place)
            if problem.name is None and problem.action == "dropped":
                self._refusal = problem
        if told.name is None:
            return False
        self._places[told.name] = place
        self.kept += 1
        self._found += told.named
        return True

    def end(self) -> None:
        """The file is through."""
        if self._of_lines:
            return
        if self._refusal is not None:
            self.files_refused[self._file] = ": ".join(
                filter(None, (self._refusal.reason, self._refusal.detail))
            )
        elif self.kept == self._before:
            self.files_without_a_chain += 1

    def _tell(self, problem: Problem, place: str) -> None:
        self.problems.append(TextProblem(problem.action, problem.reason, problem.told(place)))

    @property
    def absent_from_source(self) -> int:
        """Chains that the splits file names and the source lacks."""
        return self.named_by_splits - self._found if self.strict_splits or self._found else 0

    @property
    def found(self) -> int:
        """Chains of the store that the splits file names."""
        return self._found

    def reasons(self, action: str) -> Counter[str]:
        """Chains and files that were ``dropped``, ``repaired`` or ``noted``, by reason."""
        return Counter(p.reason for p in self.problems if p.action == action)

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "source": self.source,
            "splits_from": self.splits_from,
            "named_by_splits": self.named_by_splits,
            "strict_splits": self.strict_splits,
            "absent_from_source": self.absent_from_source,
            "files": self.files,
            "files_refused": self.files_refused,
            "files_without_a_chain": self.files_without_a_chain,
            "kept": self.kept,
            **{action: dict(self.reasons(action)) for action in ACTIONS},
            "split_sizes": self.split_sizes,
            "split_notes": self.split_notes,
            "list_problems": self.list_problems,
            "problems": [str(problem) for problem in self.problems],
        }

    def text(self) -> str:
        """The content of ``report.json``."""
        return json.dumps(self.as_dict(), indent=1)

    def table(self) -> str:
        """The account as a few aligned lines."""
        rows = [("kept", self.kept, "")]
        rows += [("  " + split, count, "") for split, count in self.split_sizes.items() if count]
        for action in ACTIONS:
            rows += [(action, count, reason) for reason, count in self.reasons(action).most_common()]
        if not self.reasons("dropped"):
            rows.append(("dropped", 0, ""))
        if self.absent_from_source:
            rows.append(
                ("not found", self.absent_from_source, "named by the splits file, absent from the source")
            )
        if self.list_problems:
            rows.append(("not read", len(self.list_problems), "of CATH's lists and the splits file"))
        if self.files > 1:
            rows.append(("files", self.files, ""))
            rows.append(("  refused", len(self.files_refused), ""))
            rows.append(
                ("  no chain", self.files_without_a_chain, "read, but none of their chains is in the store")
            )
        lines = [f"{what:<14}{count:>8}  {reason}".rstrip() for what, count, reason in rows]
        lines += [f"note          {note}" for note in self.split_notes]
        return "\n".join(
            [f"source        {printable(self.source)}", f"splits from   {self.splits_from}", *lines]
        )


def join_shards(
    parts: Sequence[Part], duplicates: Sequence[Duplicate], assignment: SplitAssignment | None
) -> dict[str, str]:
    """What the one run would have attached to its store; for :func:`minifold_pl.data.shards.merge_stores`."""
    if any(SOURCES_FILE not in part.attached for part in parts):
        return {}  # shards that no prepare has made
    reports = [json.loads(part.attached[REPORT_FILE]) for part in parts]
    known = {name: reports[0][name] for name in ("source", "named_by_splits", "strict_splits")}
    froms = [report["splits_from"] for report in reports]
    # A shard without a chain of the splits file beside the source says that there was none.
    report = PrepareReport(**known, splits_from=next((f for f in froms if f != OWN_KEY), OWN_KEY))
    told = [problem for found in reports for problem in found.get("list_problems", [])]
    report.list_problems = list(dict.fromkeys(told))  # every shard has read the same lists
    accounts: dict[str, SourceAccount] = {}
    for part in parts:
        for line in part.attached[SOURCES_FILE].splitlines():
            account = SourceAccount.from_line(line)
            if account.path in accounts:  # the lines of a chain set lie in several shards
                account = replace(account, told=accounts[account.path].told + account.told)
            accounts[account.path] = account
    for account in accounts.values():
        report.add(account)
    taken = {(duplicate.part, duplicate.name) for duplicate in duplicates}
    for place, part in enumerate(parts):
        for chain in part.chains():
            if (place, chain.name) not in taken:
                split = assignment.split_of.get(chain.name, chain.split) if assignment else chain.split
                report.split_sizes[split] += 1
    if assignment is not None:
        report.split_notes = assignment.notes
    lines = [account.as_line() for account in accounts.values()]
    return {REPORT_FILE: report.text(), SOURCES_FILE: "".join(line + "\n" for line in lines)}
