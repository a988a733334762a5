"""From what users have, structure files or a chain set, to a store, with an account of all that was not sound.

Work is done in pieces, a file or some lines of a chain set each, by processes that may die on one of them. What
came of a piece is written into a journal beside the store, so that a run that was killed goes on where it was; the
store itself is written at the end, in the order of the sources, and appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from minifold_pl.data.chain_set import MIN_LENGTH, SourceError
from minifold_pl.data.exclude import Candidate, relatives
from minifold_pl.data.folder_lock import FolderLock
from minifold_pl.data.journal import Journal
from minifold_pl.data.outcome import Problem
from minifold_pl.data.packed_chain import PackedChain
from minifold_pl.data.prepare_report import (
    OWN_KEY,
    REPORT_FILE,
    SOURCES_FILE,
    PrepareReport,
    SourceAccount,
    Told,
    accounts_of,
)
from minifold_pl.data.prepare_settings import PrepareSettings
from minifold_pl.data.records import NO_SPLIT, TRAIN
from minifold_pl.data.sequences import is_sequence_table
from minifold_pl.data.shards import MAKE_SPLITS, SETTINGS, SHARD, SHARD_OF, SPLITS_GIVEN, parse_shard
from minifold_pl.data.source_files import SourceFile, are_structures
from minifold_pl.data.source_work import (
    FORMAT,
    ChainSet,
    Progress,
    SequenceTable,
    StructureFiles,
    Work,
    file_sha256,
)
from minifold_pl.data.split import SplitFractions, assign_splits
from minifold_pl.data.splits_file import SPLITS_FILE, SplitTable, read_splits
from minifold_pl.data.store import ChainStore, StoreError
from minifold_pl.data.store_format import is_store, read_header
from minifold_pl.data.store_writer import StoreWriter, clean_up

EXCLUDED = "excluded"
"""Key of the provenance: what was left out of the source for being related to held-out chains."""

__all__ = [
    "MIN_LENGTH",
    "REPORT_FILE",
    "PrepareReport",
    "PrepareSettings",
    "SplitFractions",
    "parse_shard",
    "prepare",
    "read_splits",
]


def prepare(
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    settings: PrepareSettings | None = None,
    *,
    progress: Progress | None = None,
) -> PrepareReport:
    """Read structure files, folders of them, a chain set or a table of sequences into a store at ``out``.

    Every sound chain is kept, missing residues stay as masks. Structure files are added to a store that was made of
    structure files with the same settings: what it has of a file that did not change is kept without reading it,
    and a chain stays in the split that was made for it. A run that was killed goes on when it is started again; a
    store that is there already, made of the same source, is left as it is, and the report says so.

    Raises:
        SourceError: the source or the splits file cannot be read at all, or holds no sound chain.
        StoreError: something is in the way at ``out``.
        FolderBusyError: another run works on ``out``.
        OSError: the store cannot be written; the journal stays, and the same call goes on.
    """
    settings = settings or PrepareSettings()
    paths = [source] if isinstance(source, str | Path) else list(source)
    out = Path(os.path.abspath(out))
    part = "-{}-of-{}".format(*settings.shard) if settings.shard else ""
    # Before anything of a store that is there is read: what another run adds in between would be undone.
    with FolderLock(out.parent / f".{out.name}.prepare{part}") as lock:
        clean_up(out)
        return _prepare(paths, out, settings, lock, progress or _silent)


def _prepare(
    paths: Sequence[str | Path], out: Path, settings: PrepareSettings, lock: FolderLock, progress: Progress
) -> PrepareReport:
    if are_structures(paths):
        settings = _with_splits_of_store(paths, out, settings)
    splits = _find_splits(paths, settings)
    if are_structures(paths):
        work: Work = StructureFiles(paths, out, settings, splits.table)
    elif is_sequence_table(paths[0]):
        work = SequenceTable(Path(paths[0]), settings)
    else:
        work = ChainSet(Path(paths[0]), settings)
    provenance = _provenance(work, settings, splits)
    made = _made(out, work, provenance, settings)
    if made is not None:  # the one before was killed between its last two steps
        report = PrepareReport.of_store(made)
        lock.remove()
        return replace(report, already_there=True)
    # refuses what is in the way
    writer = StoreWriter(
        out, overwrite=settings.overwrite or work.adds, may_be_empty=settings.shard is not None
    )
    writer.provenance = provenance
    with _journal(lock, work.identity) as journal:
        work.read(journal, progress)
        return _assemble(work, journal, writer, settings, splits, progress)


def _provenance(work: Work, settings: PrepareSettings, splits: _Splits) -> dict[str, Any]:
    """What a store tells of how it was made."""
    provenance: dict[str, Any] = {"source": os.path.basename(work.source), SETTINGS: work.settings}
    if settings.shard is not None:
        provenance[SHARD] = list(settings.shard)
        provenance[SHARD_OF] = work.whole()
    if settings.split_by is not None:
        provenance[MAKE_SPLITS] = {
            "method": settings.split_by,
            "seed": settings.seed,
            "fractions": asdict(settings.fractions),
        }
    if settings.exclude is not None:
        provenance[EXCLUDED] = settings.exclude.as_dict()
    if splits.table.split_of:
        content = [
            sorted(splits.table.split_of.items()),
            sorted(splits.table.cath_nodes.items()),
            splits.strict,
        ]
        provenance[SPLITS_GIVEN] = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return provenance


def _made(out: Path, work: Work, provenance: dict[str, Any], settings: PrepareSettings) -> ChainStore | None:
    """The store at ``out`` where it is the one that would be made: of the same files, in the same way.

    Raises:
        StoreError: it is damaged.
    """
    if settings.overwrite or not is_store(out) or read_header(out)[0]["provenance"] != provenance:
        return None
    store = ChainStore.open(out)
    accounts = accounts_of(store)
    if work.adds and not all(account.sha256 for account in accounts):
        return None  # what could not be read is tried again
    made_of = [SourceFile(account.path, account.size, account.mtime_ns) for account in accounts]
    if made_of == list(work.files):
        return store
    if work.adds or len(accounts) != 1:
        return None  # files that were touched are looked at one by one
    (account,), (file,) = accounts, work.files  # one large file, perhaps copied or fetched anew
    same = account.size == file.size and account.sha256 == file_sha256(file.path)
    return store if same else None


def _with_splits_of_store(
    paths: Sequence[str | Path], out: Path, settings: PrepareSettings
) -> PrepareSettings:
    """Where nothing is said of splits, those that are added to a store are made as the store's were.

    Raises:
        StoreError: the store's are those of a file that is not given.
    """
    asked = settings.split_by is not None or settings.splits is not None
    if asked or settings.overwrite or not is_store(out):
        return settings
    provenance = read_header(out)[0]["provenance"]
    if made := provenance.get(MAKE_SPLITS):
        fractions = SplitFractions(**made["fractions"])
        return replace(settings, split_by=made["method"], seed=made["seed"], fractions=fractions)
    if provenance.get(SPLITS_GIVEN) and not _find_splits(paths, settings).table.split_of:
        raise StoreError(
            f"{out} was made with a splits file; give it, or the one that is to be used from now on, by --splits"
        )
    return settings


@contextlib.contextmanager
def _journal(lock: FolderLock, identity: dict[str, Any]) -> Iterator[Journal]:
    journal = Journal(lock, {"format": FORMAT, **identity})
    try:
        yield journal
    except ValueError:  # going on would end in the same way
        journal.remove()
        raise
    except BaseException:
        journal.close()
        raise
    journal.remove()


def _assemble(
    work: Work,
    journal: Journal,
    writer: StoreWriter,
    settings: PrepareSettings,
    splits: _Splits,
    progress: Progress,
) -> PrepareReport:
    """Write the store from what was read."""
    left_out, notes = _left_out(work, journal, settings, splits, progress)
    report = PrepareReport(
        source=work.source,
        splits_from=splits.told,
        named_by_splits=len(splits.table.split_of),
        strict_splits=splits.strict,
        list_problems=[*work.list_problems, *splits.table.problems],
    )
    accounts: list[str] = []
    named: list[Candidate] = []
    report.split_notes = notes
    chains = itertools.count()
    with writer:
        for file, digest, entries in work.items(journal):
            report.begin(file.path)
            all_told = []
            for entry in entries:
                chain = entry.chain
                name = None if chain is None else chain.name
                in_table = {name, entry.parent} & splits.table.split_of.keys()
                told = Told(name or entry.absent, entry.line, entry.parent, bool(in_table), entry.problems)
                if chain is not None and (problem := left_out.get(next(chains))) is not None:
                    told, chain = Told(None, entry.line, entry.parent, False, (problem,)), None
                if told.name is not None or told.problems:
                    all_told.append(told)
                if not report.take(told) or chain is None:
                    continue
                chain = splits.placed(chain, entry.parent)
                writer.add_packed(chain)
                if settings.split_by is None:
                    report.split_sizes[chain.split] += 1
                elif settings.shard is None:
                    named.append(Candidate(chain.name, chain.sequence, chain.cath))
            report.end()
            account = SourceAccount(file.path, file.size, file.mtime_ns, digest, tuple(all_told))
            accounts.append(account.as_line() + "\n")
        if not report.kept and settings.shard is None:
            first = f"; first: {report.problems[0]}" if report.problems else ""
            raise SourceError(f"{work.source} holds no sound chain of {work.counted(report)}{first}")
        if settings.split_by is not None:
            if settings.shard is None:
                before = work.before
                same = before is not None and _made_alike(before.provenance, writer.provenance)
                assignment = assign_splits(
                    named,
                    settings.split_by,
                    settings.fractions,
                    settings.seed,
                    threads=settings.workers,
                    fixed=dict(zip(before.names, before.splits, strict=True)) if before and same else None,
                )
                writer.assign(assignment)
                report.split_notes = [*notes, *assignment.notes]
                for split in assignment.split_of.values():
                    report.split_sizes[split] += 1
            else:
                report.split_sizes[NO_SPLIT] = report.kept
        if splits.table.split_of and not (splits.strict or report.found):
            report.splits_from = OWN_KEY  # the file beside the source is about other chains
        writer.attach(REPORT_FILE, report.text())
        writer.attach(SOURCES_FILE, "".join(accounts))
    return report


def _made_alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether splits were made, in the same way."""
    return MAKE_SPLITS in one and one[MAKE_SPLITS] == other.get(MAKE_SPLITS)


def _left_out(
    work: Work, journal: Journal, settings: PrepareSettings, splits: _Splits, progress: Progress
) -> tuple[dict[int, Problem], list[str]]:
    """Chains that are related to held-out ones, by their number among all that were read, and what is told of it.

    Only what may be trained on: a chain of a split that is not has to be known to be measured.
    """
    if settings.exclude is None:
        return {}, []
    numbers: list[int] = []
    candidates: list[Candidate] = []
    chains = itertools.count()
    for _, _, entries in work.items(journal):
        for entry in entries:
            if entry.chain is None:
                continue
            number, chain = next(chains), splits.placed(entry.chain, entry.parent)
            if settings.split_by is not None or chain.split in (TRAIN, NO_SPLIT):
                numbers.append(number)
                candidates.append(Candidate(chain.name, chain.sequence, chain.cath))
    found, notes = relatives(candidates, settings.exclude, threads=settings.workers, progress=progress)
    return {numbers[place]: problem for place, problem in found.items()}, notes


@dataclass(frozen=True)
class _Splits:
    """Where a chain's split comes from."""

    table: SplitTable
    told: str
    """What the report says of it."""
    strict: bool
    """The table was asked for: a chain that it does not name is in no split."""

    def placed(self, chain: PackedChain, parent: str | None) -> PackedChain:
        """The chain with its split and, where it has none, CATH codes. A domain has its chain's split."""
        table = self.table
        split = table.split_of.get(chain.name) or table.split_of.get(parent or "")
        if split is None:
            split = NO_SPLIT if self.strict else chain.split
        cath = chain.cath or table.cath_nodes.get(chain.name, ())
        return replace(chain, split=split, cath=cath)


def _find_splits(paths: Sequence[str | Path], settings: PrepareSettings) -> _Splits:
    if settings.split_by is not None:
        return _Splits(SplitTable(), f"made here, by {settings.split_by}, seed {settings.seed}", False)
    if settings.splits is not None:
        return _Splits(read_splits(settings.splits), str(settings.splits), True)
    beside = Path(paths[0]).parent / SPLITS_FILE
    if len(paths) == 1 and not os.path.isdir(paths[0]) and beside.is_file():
        return _Splits(read_splits(beside), f"{beside}, else {OWN_KEY}", False)
    return _Splits(SplitTable(), OWN_KEY, False)


@contextlib.contextmanager
def _silent(description: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda count: None
