"""Groups of chains with similar sequences.

Two chains are similar when at least 40 % of the shorter one's residues are identical in their exact alignment
(:mod:`minifold_pl.data.alignment`); a group is everything that is linked by such pairs, so that no pair of the
required identity lies in two groups, as far as it was found. Which pairs are aligned at all is a matter of the
search: MMseqs2 (Steinegger & Söding 2017) where its program ``mmseqs`` is installed, else
:mod:`minifold_pl.data.kmer_search`, which says what it misses.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from jaxtyping import Int

from minifold_pl.data.alignment import align
from minifold_pl.data.kmer_search import KmerSearch

Search = Literal["auto", "mmseqs2", "kmer"]

IDENTITY: Final = 0.4
"""Share of identical residues from which two chains are relatives that no score may profit from."""
MMSEQS: Final = "mmseqs"
_SENSITIVITY: Final = "7.5"
_E_VALUE: Final = "10"
"""Generous: the exact alignment decides."""
_HITS: Final = "5000"
"""A query's most; families larger than this are still linked through their other members."""
_ERROR_TAIL: Final = 300


class SearchError(ValueError):
    """The search for similar sequences cannot be run."""


@dataclass(frozen=True, kw_only=True)
class Clustering:
    """The groups of :func:`cluster_sequences`."""

    ids: Int[np.ndarray, " c"]
    """Group of each sequence, numbered in the order of their first members."""
    notes: list[str]
    """How it was made, and what it may miss."""


def cluster_sequences(
    sequences: Sequence[str], *, identity: float = IDENTITY, search: Search = "auto", threads: int = 1
) -> Clustering:
    """Single-linkage groups of sequences with pairs of at least ``identity``.

    Raises:
        SearchError: mmseqs2 is asked for and absent, or it failed.
        ValueError: ``identity`` outside 0…1.
    """
    if not 0.0 < identity <= 1.0:
        raise ValueError(f"identity is {identity}; give a share above 0 and at most 1")
    distinct = list(dict.fromkeys(sequences))  # many chains of one entry are the same
    groups = _Groups(len(distinct))
    found, note = candidate_pairs(distinct, search=search, threads=threads)
    for one, other in found:
        if (
            groups.root(one) != groups.root(other)
            and align(distinct[one], distinct[other]).identity >= identity
        ):
            groups.join(one, other)
    place = {sequence: i for i, sequence in enumerate(distinct)}
    roots = [groups.root(place[sequence]) for sequence in sequences]
    return Clustering(ids=_numbered(roots), notes=[f"linked at {identity:.0%} identity; {note}"])


def connected(count: int, links: Iterable[tuple[int, int]]) -> Int[np.ndarray, " c"]:
    """Group of each of ``count`` things that ``links`` join, numbered in the order of their first members."""
    groups = _Groups(count)
    for one, other in links:
        groups.join(one, other)
    return _numbered([groups.root(i) for i in range(count)])


def candidate_pairs(
    sequences: Sequence[str],
    queries: Sequence[int] | None = None,
    *,
    search: Search = "auto",
    threads: int = 1,
    advance: Callable[[int], None] | None = None,
) -> tuple[Iterator[tuple[int, int]], str]:
    """Pairs of places in ``sequences`` that may be similar, larger place first, and how they are found.

    Args:
        sequences: One letter a residue.
        queries: Only pairs with one of these; None for all. A pair may come twice then.
        search: ``mmseqs2``, ``kmer``, or ``auto``: the first where it is installed.
        threads: Of mmseqs2.
        advance: Called with the number of queries that are done; by the own search only.

    Raises:
        SearchError: mmseqs2 is asked for and absent, or it failed.
    """
    program = shutil.which(MMSEQS)
    if search == "mmseqs2" and program is None:
        raise SearchError(
            "mmseqs2 is not installed (no program `mmseqs` on the path); choose kmer, or install it"
        )
    if search not in ("auto", "mmseqs2", "kmer"):
        raise SearchError(f"search {search!r} is none of auto, mmseqs2, kmer")
    if program is not None and search != "kmer":
        pairs = _mmseqs_pairs(program, sequences, queries, threads)
        return pairs, f"pairs found by mmseqs2 {_mmseqs_version(program)}, aligned exactly"
    note = (
        "pairs found by shared words and aligned exactly: about 5 % of the pairs of 40–50 % identity are missed "
        "(mmseqs2 is not installed)"
        if program is None
        else "pairs found by shared words and aligned exactly: "
        "about 5 % of the pairs of 40–50 % identity are missed"
    )
    return _kmer_pairs(sequences, queries, advance), note


def _kmer_pairs(
    sequences: Sequence[str], queries: Sequence[int] | None, advance: Callable[[int], None] | None
) -> Iterator[tuple[int, int]]:
    index = KmerSearch(sequences)
    for query in range(len(sequences)) if queries is None else queries:
        # Of two, the later one asks; with chosen queries any of them may be the earlier one.
        before = query if queries is None else None
        for other in index.candidates(sequences[query], before).tolist():
            if other != query:
                yield max(query, other), min(query, other)
        if advance:
            advance(1)


def _mmseqs_pairs(
    program: str, sequences: Sequence[str], queries: Sequence[int] | None, threads: int
) -> Iterator[tuple[int, int]]:
    with tempfile.TemporaryDirectory(prefix="minifold-mmseqs-") as name:
        folder = Path(name)
        _write_fasta(folder / "target.fasta", sequences, range(len(sequences)))
        _write_fasta(folder / "query.fasta", sequences, range(len(sequences)) if queries is None else queries)
        options = [
            "-s",
            _SENSITIVITY,
            "-e",
            _E_VALUE,
            "--max-seqs",
            _HITS,
            "--threads",
            str(threads),
            "-v",
            "1",
        ]
        files = [str(folder / part) for part in ("query.fasta", "target.fasta", "hits.tsv", "tmp")]
        command = [program, "easy-search", *files, "--format-output", "query,target", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[-_ERROR_TAIL:]
            raise SearchError(f"mmseqs2 failed with exit code {done.returncode}: {said}; choose kmer instead")
        with (folder / "hits.tsv").open() as lines:
            for line in lines:
                one, other = map(int, line.split())
                if one != other:
                    yield max(one, other), min(one, other)


def _write_fasta(path: Path, sequences: Sequence[str], places: Iterable[int]) -> None:
    path.write_text("".join(f">{place}\n{sequences[place]}\n" for place in places))


def _mmseqs_version(program: str) -> str:
    done = subprocess.run([program, "version"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "of unknown version"


class _Groups:
    """Things that are joined step by step (union-find)."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def root(self, thing: int) -> int:
        """The smallest member of its group."""
        parent = self._parent
        while parent[thing] != thing:
            parent[thing] = parent[parent[thing]]
            thing = parent[thing]
        return thing

    def join(self, one: int, other: int) -> None:
        """Make two groups one."""
        low, high = sorted((self.root(one), self.root(other)))
        self._parent[high] = low


def _numbered(roots: Sequence[int]) -> Int[np.ndarray, " c"]:
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(root, len(numbers)) for root in roots], dtype=np.int64)
