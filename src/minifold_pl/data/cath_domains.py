"""CATH's own lists of domains: labels for chains, and chains cut into their domains.

Three formats, plain or gzipped, told apart by their lines:

- the domain list, CLF 2.0 (``cath-domain-list.txt``): domain, class, architecture, topology, superfamily, …;
- the domain boundaries, CDF 2.0 (``cath-domain-boundaries.txt``): the residue ranges of a chain's domains;
- CATH-B (``cath-b-newest-all``): domain, status, superfamily and ranges such as ``1-87,146-243:A``.

A domain is named by PDB code, chain and number, ``1cnsA02``; number 00 is a whole chain. Ranges are of author
residue numbers, both ends included, with an insertion code where there is one: ``-5-12``, ``1H-14A``,
``36(A)-120``.

Source: CATH List File (CLF) Format 2.0, CATH Domall File (CDF) Format 2.0 and the README of the daily release,
http://download.cathdb.info/cath/releases.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from minifold_pl.data.cath import is_cath_code
from minifold_pl.data.records import ChainRecord, split_residue_id

MIN_DOMAIN_LENGTH: Final = 4
"""Fewest residues of a domain that is cut out: what a chain needs to have a handedness."""

_DOMAIN: Final = re.compile(r"[0-9][0-9a-zA-Z]{3}[!-~][0-9]{2}")
_CHAIN: Final = re.compile(r"[0-9][0-9a-zA-Z]{3}[!-~]")
_COUNT: Final = re.compile(r"D(?!00?$)[0-9]{1,2}")
_NUMBER: Final = re.compile(r"[0-9]+")
_CODE: Final = re.compile(r"[0-9]+(\.[0-9]+){3}")
_TOLD: Final = 100
"""Bad lines of a file that are told one by one."""
_BOM: Final = b"\xef\xbb\xbf"
_RESIDUE: Final = r"(-?[0-9]{1,9})(?:\(([A-Za-z])\)|([A-Za-z]))?"
_RANGE: Final = re.compile(rf"{_RESIDUE}-{_RESIDUE}(?::(\S+))?")
_RECORD_NAME: Final = re.compile(r"([0-9][0-9a-zA-Z]{3})[._:\-]?([A-Za-z0-9]*)")
_BLANK_CHAIN: Final = "0"
"""What CATH calls a chain without an identifier."""


class CathFileError(ValueError):
    """A list of domains that cannot be read."""


class _OtherChain(ValueError):
    """A domain's residues are of another chain than its name."""


class Segment(NamedTuple):
    """A run of residues, both ends included, as author residue numbers."""

    first: str
    last: str

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


@dataclass(frozen=True, kw_only=True)
class Domain:
    """One CATH domain."""

    name: str
    """``1cnsA02``."""
    code: str | None = None
    """``3.20.20.80``; None where only boundaries are known."""
    segments: tuple[Segment, ...] | None = None
    """Its residues; None where only the label is known."""

    @property
    def whole_chain(self) -> bool:
        """The domain is the whole chain."""
        return self.name.endswith("00")


@dataclass
class DomainTable:
    """Domains by chain; ask with :meth:`of_chain`."""

    domains: dict[str, Domain] = field(default_factory=dict)
    """By name, in the order of the files."""
    problems: list[str] = field(default_factory=list)
    """Lines that are of no known form or contradict an earlier one; they are left out."""
    _by_chain: dict[str, list[str]] = field(default_factory=dict, repr=False)

    def add(self, domain: Domain) -> str:
        """Add a domain, or what another line knows of one that is there.

        Returns what is left out since an earlier line says otherwise; empty where nothing is.
        """
        old = self.domains.get(domain.name)
        if old is None:
            self.domains[domain.name] = domain
            self._by_chain.setdefault(domain.name[:5], []).append(domain.name)
            return ""
        code, segments = old.code or domain.code, old.segments or domain.segments
        self.domains[domain.name] = Domain(name=domain.name, code=code, segments=segments)
        left_out = []
        if domain.code not in (None, code):
            left_out.append(f"code {domain.code}, {code} was there before and is kept")
        if domain.segments not in (None, segments):
            given, kept = (",".join(map(str, s or ())) for s in (domain.segments, segments))
            left_out.append(f"residues {given}, {kept} were there before and are kept")
        return f"{domain.name}: {'; '.join(left_out)}" if left_out else ""

    def of_chain(self, name: str) -> tuple[Domain, ...]:
        """Domains of a chain called ``1abc.A`` (or ``1ABC_A``, ``1abcA``), in the order of their numbers.

        A domain's own name, ``1abcA01``, gives that domain.
        """
        if name in self.domains:
            return (self.domains[name],)
        key = chain_key(name)
        return tuple(self.domains[d] for d in sorted(self._by_chain.get(key or "", ())))

    def __len__(self) -> int:
        return len(self.domains)


def chain_key(name: str) -> str | None:
    """CATH's five letters of a chain, ``1abcA``; None when ``name`` names no PDB chain.

    The PDB code is lower-cased, the chain is not: ``A`` and ``a`` are two chains. Chains of two letters have no
    CATH name.
    """
    match = _RECORD_NAME.fullmatch(name)
    if match is None or len(match[2]) > 1:
        return None
    return match[1].lower() + (match[2] or _BLANK_CHAIN)


def read_cath_domains(*paths: str | Path) -> DomainTable:
    """All domains of one or more files; what they say of the same domain is put together.

    Raises:
        CathFileError: a file is missing or damaged, or holds no domain of a known form.
    """
    table = DomainTable()
    for path in map(Path, paths):
        _read_file(path, table)
    return table


def _read_file(path: Path, table: DomainTable) -> None:
    known = count = 0
    bad: list[str] = []
    try:
        for number, line in enumerate(_lines(path), 1):
            text = line.decode("utf-8", "replace")
            words = text.split()
            if not words or words[0].startswith("#"):
                continue
            try:
                domains = parse_line(words)
                known += 1
                reasons = [reason for domain in domains if (reason := table.add(domain))]
            except ValueError as error:
                reasons = [f"{text.strip()[:60]!r} {error}"]
            count += len(reasons)
            bad += [f"{path.name} line {number}: {reason}" for reason in reasons if len(bad) < _TOLD]
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CathFileError(f"list of CATH domains {path}: {reason}") from None
    if not known:
        first = f"; first: {bad[0]}" if bad else ""
        raise CathFileError(
            f"{path} holds no CATH domain; give a cath-domain-list (CLF 2.0), cath-domain-boundaries (CDF 2.0) "
            f"or cath-b file, plain or gzipped{first}"
        )
    if count > len(bad):
        bad.append(f"{path.name}: {count - len(bad):,} more lines like these")
    table.problems += bad


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        lines = iter(gzip.GzipFile(fileobj=file) if compressed else file)
        yield next(lines, b"").removeprefix(_BOM)
        yield from lines


def parse_line(words: list[str]) -> list[Domain]:
    """The domains that a line of any of the formats tells of.

    Raises:
        ValueError: it is of none of them; the message follows the line.
    """
    if len(words) >= 5 and _DOMAIN.fullmatch(words[0]) and all(map(_NUMBER.fullmatch, words[1:5])):
        return [Domain(name=_normalised(words[0]), code=_code(".".join(words[1:5])))]
    if len(words) == 4 and _DOMAIN.fullmatch(words[0]) and _CODE.fullmatch(words[2]):
        segments = parse_chopping(words[3], words[0][4])
        return [Domain(name=_normalised(words[0]), code=_code(words[2]), segments=segments)]
    if len(words) >= 3 and _CHAIN.fullmatch(words[0]) and _COUNT.fullmatch(words[1]):
        return _boundaries(words)
    raise ValueError("is no CATH domain")


def _code(text: str) -> str:
    if not is_cath_code(text):
        raise ValueError(f"has no CATH code, {text[:60]!r}")
    return text


def parse_chopping(text: str, chain: str) -> tuple[Segment, ...]:
    """Segments of ``1-87,146-243:A``, which are of ``chain``.

    Raises:
        ValueError: it is of another form, or of another chain.
    """
    segments = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise ValueError(f"has no ranges of residues, {text[:60]!r}")
        if match[7] not in (None, chain):
            raise ValueError(f"has ranges of chain {match[7][:20]!r}")
        segments.append(
            Segment(match[1] + (match[2] or match[3] or ""), match[4] + (match[5] or match[6] or ""))
        )
    return tuple(segments)


def _boundaries(words: list[str]) -> list[Domain]:
    """``1cnsA D02 F00  2 A 1 - A 87 - A 146 - A 243 -  1 A 88 - A 145 -``; fragments at the end are left out."""
    chain, rest = words[0], iter(words[3:])
    count = int(words[1][1:])
    domains = []
    try:
        for number in range(1, count + 1):
            segments = []
            for _ in range(int(next(rest))):
                first, last = ((next(rest), next(rest), next(rest)) for _ in range(2))
                if {first[0], last[0]} != {chain[4]}:
                    other = first[0] if first[0] != chain[4] else last[0]
                    raise _OtherChain(f"has ranges of chain {other[:20]!r}")
                segments.append(Segment(_joined(first), _joined(last)))
            label = 0 if count == 1 and words[2] == "F00" else number
            domains.append(Domain(name=_normalised(f"{chain}{label:02d}"), segments=tuple(segments)))
    except _OtherChain:
        raise
    except (RuntimeError, StopIteration, ValueError):
        raise ValueError("has no ranges of residues") from None
    return domains


def _joined(words: tuple[str, str, str]) -> str:
    _, number, insertion = words
    residue_id = number + ("" if insertion == "-" else insertion)
    split_residue_id(residue_id)
    return residue_id


def _normalised(domain: str) -> str:
    return domain[:4].lower() + domain[4:]


def label_chain(record: ChainRecord, table: DomainTable) -> ChainRecord:
    """The record with the CATH codes of all its chain's domains, each once; unchanged where there is none."""
    codes = tuple(dict.fromkeys(d.code for d in table.of_chain(record.name) if d.code is not None))
    return replace(record, cath=codes) if codes else record


def cut_domains(
    record: ChainRecord, table: DomainTable, min_length: int = MIN_DOMAIN_LENGTH
) -> tuple[list[ChainRecord], list[str]]:
    """A chain's domains as records of their own, and why some of them could not be cut.

    A domain is named ``1cnsA02`` and has one CATH code; where two of its segments meet there is a chain break,
    unless the residues were neighbours in the chain. An end of a segment that was not observed is taken at the
    nearest observed residue inside the segment. Split and cluster are the chain's. A chain without domains in
    the table gives nothing.
    """
    cut: list[ChainRecord] = []
    problems: list[str] = []
    for domain in table.of_chain(record.name):
        if domain.whole_chain:
            cath = (domain.code,) if domain.code else record.cath
            cut.append(replace(record, name=domain.name, cath=cath))
            continue
        if domain.segments is None:
            problems.append(
                f"{domain.name}: no boundaries known; give a cath-b or cath-domain-boundaries file too"
            )
            continue
        if not record.residue_ids:
            problems.append(f"{domain.name}: {record.name} has no residue numbers to find its boundaries by")
            continue
        places = _places(record.residue_ids, domain.segments)
        if len(places) < min_length:
            ranges = ",".join(map(str, domain.segments))
            problems.append(f"{domain.name}: {len(places)} residues of {ranges} are in {record.name}")
            continue
        cut.append(_piece(record, places, domain))
    return cut, problems


def _places(residue_ids: tuple[str, ...], segments: Iterable[Segment]) -> list[int]:
    """Places of the segments' residues in the chain, in its order, each once."""
    where = {residue_id: i for i, residue_id in reversed(list(enumerate(residue_ids)))}
    numbers = [split_residue_id(residue_id) for residue_id in residue_ids]
    chosen: set[int] = set()
    for segment in segments:
        low, high = split_residue_id(segment.first), split_residue_id(segment.last)
        start, end = where.get(segment.first), where.get(segment.last)
        # Insertion codes may run backwards, so the order in the chain counts, and numbers only for an end that
        # is not there.
        inside = [
            i
            for i, number in enumerate(numbers)
            if (i >= start if start is not None else number >= low)
            and (i <= end if end is not None else number <= high)
        ]
        chosen.update(inside)
    return sorted(chosen)


def _piece(record: ChainRecord, places: list[int], domain: Domain) -> ChainRecord:
    joints = set(record.breaks)
    breaks = tuple(k for k, (i, j) in enumerate(pairwise(places)) if j != i + 1 or i in joints)
    return replace(
        record,
        name=domain.name,
        sequence="".join(record.sequence[i] for i in places),
        coords=np.ascontiguousarray(record.coords[places]),
        breaks=breaks,
        cath=(domain.code,) if domain.code else record.cath,
        residue_ids=tuple(record.residue_ids[i] for i in places),
        representative=False,
    )
