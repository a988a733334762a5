"""Sources piece by piece: what there is to read, and what came of it."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

from minifold_pl.data.cath_domains import Domain, DomainTable, read_cath_domains
from minifold_pl.data.chain_set import RecordProblem, SourceError, read_lines
from minifold_pl.data.journal import Journal
from minifold_pl.data.outcome import Entry, Outcome, Problem
from minifold_pl.data.packed_chain import pack
from minifold_pl.data.prepare_report import PrepareReport, SourceAccount, accounts_of
from minifold_pl.data.prepare_settings import PrepareSettings
from minifold_pl.data.read_source import SAME, labelled, read_block
from minifold_pl.data.records import NO_SPLIT
from minifold_pl.data.sequences import read_sequences
from minifold_pl.data.shards import SETTINGS, SHARD, shard_range
from minifold_pl.data.source_files import SourceFile, common_root, find_files
from minifold_pl.data.splits_file import SplitTable
from minifold_pl.data.store import ChainStore, StoreError, is_store
from minifold_pl.data.structure_content import structure_name
from minifold_pl.data.worker_pool import BATCH, Failure, Job, run_jobs

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Takes what is done and how much of it there is; the function it gives is told of every part that is finished."""

FORMAT: Final = 3
"""Of journals, and of what a store remembers of its sources: raise it when outcomes change."""

_BLOCK_BYTES: Final = 1 << 22
"""Text of a chain set that is one piece of work."""
_IN_PROCESS_BYTES: Final = 1 << 24
"""A chain set that is not larger is read here: starting processes takes longer."""
_READ: Final = "minifold_pl.data.read_source"


class Work(Protocol):
    """A source, and how it is read."""

    source: str
    """What the report calls it."""
    identity: dict[str, Any]
    """What a journal of this work is told by."""
    settings: dict[str, Any]
    """What the store remembers of how it was read."""
    files: Sequence[SourceFile]
    """All that it is made of, in their order."""
    adds: bool
    """The store that is there is added to."""
    before: ChainStore | None
    """The store that is added to."""
    list_problems: Sequence[str]
    """What was not understood of CATH's lists."""

    def whole(self) -> dict[str, Any]:
        """What every shard of it must have been made of: how many ``files`` and ``bytes``, and a ``sha256``."""
        ...

    def read(self, journal: Journal, progress: Progress) -> None:
        """Read what the journal does not have yet."""
        ...

    def items(self, journal: Journal) -> Iterator[tuple[SourceFile, str, Iterable[Entry]]]:
        """Every file with its sha256 (empty where it was not needed) and what is in it, in their order."""
        ...

    def counted(self, report: PrepareReport) -> str:
        """How much there was, for an error."""
        ...


class StructureFiles:
    """Structure files and folders of them; and the store that was made of others before, where there is one."""

    def __init__(
        self, paths: Sequence[str | Path], out: Path, settings: PrepareSettings, splits: SplitTable
    ) -> None:
        files = find_files(paths)
        self._settings = settings
        self._given = list(map(str, paths))
        table = read_cath_domains(*settings.cath_domains) if settings.cath_domains else DomainTable()
        self.list_problems: Sequence[str] = table.problems
        self._domains: dict[str, list[Domain]] = defaultdict(list)
        for domain in table.domains.values():
            self._domains[domain.name[:4]].append(domain)
        self.settings = {
            "format": FORMAT,
            "kind": "structures",
            "min_length": settings.min_length,
            "min_complete": settings.min_complete,
            "cath_domains": [file_sha256(path) for path in settings.cath_domains],
            "domains": settings.domains,
            "cath_nodes": _digest(sorted(splits.cath_nodes.items())) if splits.cath_nodes else None,
        }
        self.identity = self.settings
        self.before: ChainStore | None = None
        self._known: dict[str, tuple[SourceAccount, list[int | None]]] = {}
        self.adds = is_store(out) and not settings.overwrite
        self.source = common_root(files)
        self._found: Sequence[SourceFile] = files
        if settings.shard is not None:
            places = shard_range(len(files), *settings.shard)
            files = files[places.start : places.stop]
        if self.adds:
            self._remember(out)
            if settings.shard is None:  # files that are not named again keep their chains
                here = {file.path for file in files}
                files += [
                    SourceFile(a.path, a.size, a.mtime_ns)
                    for a, _ in self._known.values()
                    if a.path not in here and not os.path.isdir(a.path)  # that was closed before
                ]
                files.sort(key=lambda file: file.path)
                self.source = common_root(files)
        self.files: Sequence[SourceFile] = files

    def whole(self) -> dict[str, Any]:
        """The names of all files, below the folder that they are in, and their sizes: contents are not read."""
        named = [(os.path.relpath(file.path, self.source), file.size) for file in self._found]
        size = sum(max(file.size, 0) for file in self._found)
        return {"files": len(named), "bytes": size, "sha256": _digest(sorted(named))}

    def _remember(self, out: Path) -> None:
        """What the store at ``out`` has of each file."""
        self.before = ChainStore.open(out)
        shard = list(self._settings.shard) if self._settings.shard else None
        known = (self.before.provenance.get(SETTINGS), self.before.provenance.get(SHARD))
        if known != (self.settings, shard):
            raise StoreError(
                f"{out} holds a store already, and it was made of other things or with other settings; "
                "--overwrite replaces it"
            )
        names: set[str] = set()
        row = 0
        for account in accounts_of(self.before):
            rows: list[int | None] = []
            for told in account.told:
                if told.name is None or told.name in names:
                    rows.append(None)
                else:
                    names.add(told.name)
                    rows.append(row)
                    row += 1
            self._known[account.path] = (account, rows)

    def read(self, journal: Journal, progress: Progress) -> None:
        """Read the files that are new or have changed."""
        todo = [file for file in self.files if _key(file) not in journal and not self._unchanged(file)]
        workers = min(self._settings.workers, -(-len(todo) // BATCH))
        with progress("reading files", len(todo)) as advance:
            for place, result in run_jobs(map(self._job, range(len(todo)), todo), workers):
                if isinstance(result, Failure):
                    result = _refusal(result)
                journal.add(_key(todo[place]), result)
                advance(1)

    def _unchanged(self, file: SourceFile) -> bool:
        known = self._known.get(file.path)
        if known is None or not known[0].sha256:  # what could not be read, or took too long, is tried again
            return False
        return (known[0].size, known[0].mtime_ns) == (file.size, file.mtime_ns)

    def _job(self, place: int, file: SourceFile, known_sha256: str | None = None) -> Job:
        settings = self._settings
        if known_sha256 is None:
            known_sha256 = self._known[file.path][0].sha256 if file.path in self._known else ""
        domains = tuple(self._domains.get(structure_name(file.path), ()))
        arguments = (
            file.path,
            settings.min_length,
            settings.min_complete,
            domains,
            settings.domains,
            known_sha256,
        )
        seconds = settings.timeout + file.size / 1e6
        return Job(place, f"{_READ}:read_file", arguments, seconds, f"{_READ}:read_files", max(file.size, 0))

    def items(self, journal: Journal) -> Iterator[tuple[SourceFile, str, Iterable[Entry]]]:
        """Every file with its sha256 and what is in it, in the order of their paths."""
        taken: set[str] = set()
        for file in self.files:
            found = journal.get(_key(file), SAME)
            lacks = self._lacks(file, taken) if found == SAME else set()
            if lacks and os.path.exists(file.path):
                found = self._read_again(file)
                journal.add(_key(file), found)
            if found == SAME:
                account = self._known[file.path][0]
                taken.update(told.name for told in account.told if told.name is not None)
                yield file, account.sha256, self._kept(file, lacks)
            else:
                outcome = Outcome.decoded(found)
                taken.update(entry.chain.name for entry in outcome.entries if entry.chain is not None)
                yield file, outcome.sha256, outcome.entries

    def _lacks(self, file: SourceFile, taken: set[str]) -> set[str]:
        """Names of the file's chains that were left out for their names, which no file before it has any more."""
        account, rows = self._known[file.path]
        mine = {told.name for told, row in zip(account.told, rows, strict=True) if row is not None}
        return {told.name for told in account.told if told.name is not None} - mine - taken

    def _read_again(self, file: SourceFile) -> bytes:
        ((_, result),) = run_jobs([self._job(0, file, known_sha256="")], 1)
        return _refusal(result) if isinstance(result, Failure) else result

    def _kept(self, file: SourceFile, lacks: set[str]) -> Iterator[Entry]:
        """What the store that is added to has of a file, which may be there no more."""
        assert self.before is not None
        account, rows = self._known[file.path]
        for told, place in zip(account.told, rows, strict=True):
            if place is None:
                if told.name not in lacks:
                    yield Entry(told.problems, None, told.line, told.parent, absent=told.name)
                continue
            self.before.check(place)
            chain = replace(self.before.packed(place), split=NO_SPLIT, cluster=None, representative=False)
            yield Entry(told.problems, chain, told.line, told.parent)

    def counted(self, report: PrepareReport) -> str:
        """How many files there were."""
        return f"{report.files:,} files"


class ChainSet:
    """The lines of a chain set."""

    adds = False
    before: ChainStore | None = None

    def __init__(self, path: Path, settings: PrepareSettings) -> None:
        self.source = str(path)
        self._path = path
        self._settings = settings
        try:
            status = path.stat()
        except OSError as error:
            what = "does not exist" if not os.path.lexists(path) else f"cannot be read: {error.strerror}"
            raise SourceError(
                f"{path} {what}; give a chain set, structure files or a folder of them"
            ) from None
        self._file = SourceFile(os.path.abspath(path), status.st_size, status.st_mtime_ns)
        self.files: Sequence[SourceFile] = [self._file]
        self._table = read_cath_domains(*settings.cath_domains) if settings.cath_domains else DomainTable()
        self.list_problems: Sequence[str] = self._table.problems
        self.settings = {
            "format": FORMAT,
            "kind": "chain set",
            "min_length": settings.min_length,
            "cath_domains": [file_sha256(path) for path in settings.cath_domains],
            "domains": settings.domains,
        }
        self.identity = {**self.settings, "file": [self._file.path, self._file.size, self._file.mtime_ns]}
        self._blocks: list[str | Entry] = []
        """Keys of what was read, and lines that could not be, in their order."""

    def whole(self) -> dict[str, Any]:
        """The file."""
        return {"files": 1, "bytes": self._file.size, "sha256": file_sha256(self._path)}

    def read(self, journal: Journal, progress: Progress) -> None:
        """Read the lines, some megabytes at a time."""
        total = sum(1 for _ in read_lines(self._path))
        wanted = range(total)
        if self._settings.shard is not None:
            wanted = shard_range(total, *self._settings.shard)
        sizes: dict[int, int] = {}

        def jobs() -> Iterator[Job]:
            for first, lines in self._texts(wanted):
                if isinstance(lines, RecordProblem):
                    problem = Problem(lines.action, lines.reason, lines.detail)
                    self._blocks.append(Entry((problem,), None, first))
                    advance(1)
                    continue
                sizes[first] = len(lines)
                self._blocks.append(str(first))
                if str(first) in journal:
                    advance(len(lines))
                    continue
                arguments = (b"".join(lines), first, self._settings.min_length)
                yield Job(first, f"{_READ}:read_block", arguments, 10 * self._settings.timeout)

        with progress("reading chains", len(wanted)) as advance:
            for first, result in self._results(jobs()):
                if isinstance(result, Failure):
                    where = f"{result.detail}; {sizes[first]} lines from here on"
                    result = Outcome(
                        (Entry((Problem("dropped", result.reason, where),), None, first),)
                    ).encoded()
                journal.add(str(first), result)
                advance(sizes.pop(first))

    def _results(self, jobs: Iterator[Job]) -> Iterator[tuple[int, bytes | Failure]]:
        if self._settings.workers == 1 or self._file.size <= _IN_PROCESS_BYTES:
            for job in jobs:
                yield job.key, read_block(*job.arguments)
        else:
            yield from run_jobs(jobs, self._settings.workers)

    def _texts(self, wanted: range) -> Iterator[tuple[int, list[bytes] | RecordProblem]]:
        """Blocks of lines with the number of their first one, and lines that are problems; ``wanted`` is from 0."""
        block: list[bytes] = []
        first = size = 0
        for line, text in read_lines(self._path):
            if line - 1 not in wanted:
                continue
            problem = isinstance(text, RecordProblem)
            if block and (problem or size >= _BLOCK_BYTES):
                yield first, block
                block, first, size = [], 0, 0
            if isinstance(text, RecordProblem):
                yield line, text
                continue
            first = first or line
            block.append(text)
            size += len(text)
        if block:
            yield first, block

    def items(self, journal: Journal) -> Iterator[tuple[SourceFile, str, Iterable[Entry]]]:
        """The file with its lines."""
        yield self._file, file_sha256(self._path), self._entries(journal)
        _check_same(self._file)

    def _entries(self, journal: Journal) -> Iterator[Entry]:
        settings = self._settings
        for block in self._blocks:
            for entry in (block,) if isinstance(block, Entry) else Outcome.decoded(journal[block]).entries:
                if len(self._table):
                    yield from labelled(entry, self._table, settings.domains, settings.min_length)
                else:
                    yield entry

    def counted(self, report: PrepareReport) -> str:
        """How many lines there were."""
        return f"{len(report.problems)} records"


class SequenceTable:
    """A table of sequences without coordinates: quickly read, so nothing is journalled."""

    adds = False
    before: ChainStore | None = None

    def __init__(self, path: Path, settings: PrepareSettings) -> None:
        self.source = str(path)
        self._path = path
        self._settings = settings
        status = path.stat()
        self._file = SourceFile(os.path.abspath(path), status.st_size, status.st_mtime_ns)
        self.files: Sequence[SourceFile] = [self._file]
        self._table = read_cath_domains(*settings.cath_domains) if settings.cath_domains else DomainTable()
        self.list_problems: Sequence[str] = self._table.problems
        self.settings = {
            "format": FORMAT,
            "kind": "sequences",
            "min_length": settings.min_length,
            "cath_domains": [file_sha256(path) for path in settings.cath_domains],
        }
        self.identity = self.settings
        if settings.domains:
            raise SourceError(
                f"{path} has sequences alone; domains are cut by residue numbers of structure files"
            )

    def whole(self) -> dict[str, Any]:
        """The file."""
        return {"files": 1, "bytes": self._file.size, "sha256": file_sha256(self._path)}

    def read(self, journal: Journal, progress: Progress) -> None:
        """Nothing to do: the table is read as the store is written."""

    def items(self, journal: Journal) -> Iterator[tuple[SourceFile, str, Iterable[Entry]]]:
        """The table with its records."""
        wanted = range(sys.maxsize)
        if self._settings.shard is not None:
            wanted = shard_range(sum(1 for _ in self._entries()), *self._settings.shard)
        yield (
            self._file,
            file_sha256(self._path),
            itertools.islice(self._entries(), wanted.start, wanted.stop),
        )
        _check_same(self._file)

    def _entries(self) -> Iterator[Entry]:
        problems: list[Problem] = []
        for found in read_sequences(self._path, self._settings.min_length):
            if isinstance(found, RecordProblem):
                problem = Problem(found.action, found.reason, found.detail, found.name)
                if found.action == "dropped":
                    yield Entry((problem,), None, found.line)
                else:
                    problems.append(problem)
                line = found.line
                continue
            # A record without a word on it has no line of its own to tell.
            entry = Entry(tuple(problems), pack(found), line if problems else 0)
            problems = []
            yield from labelled(entry, self._table, False, self._settings.min_length)

    def counted(self, report: PrepareReport) -> str:
        """How many records there were."""
        return f"{len(report.problems)} records"


def _refusal(failure: Failure) -> bytes:
    """The outcome of a file whose reader gave none."""
    return Outcome((Entry((Problem("dropped", failure.reason, failure.detail),)),)).encoded()


def _check_same(file: SourceFile) -> None:
    """A large file that is still being written would give a store of parts of two.

    Raises:
        SourceError: it is not what it was when reading began.
    """
    try:
        status = os.stat(file.path)
    except OSError as error:
        raise SourceError(f"{file.path} went away while it was read: {error.strerror}") from None
    if (status.st_size, status.st_mtime_ns) != (file.size, file.mtime_ns):
        raise SourceError(
            f"{file.path} changed while it was read; no store was written; give the command again when it is whole"
        )


def _key(file: SourceFile) -> str:
    return f"{file.path}\0{file.size}\0{file.mtime_ns}"


def file_sha256(path: str | Path) -> str:
    """Of a file's bytes.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
