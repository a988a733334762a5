"""The CATH 4.2 chains and splits of Ingraham et al. 2019, as their authors publish them.

The authors give no checksums: sizes are compared with what the server says, the content is looked at, and the
sha256 of what arrived is noted beside each file.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

from minifold_pl.data.fetch import (
    Fetched,
    FetchError,
    NotThere,
    Patience,
    Report,
    check_address,
    download,
    sha256_file,
)
from minifold_pl.data.records import TEST, TRAIN, VALIDATION

URL: Final = "http://people.csail.mit.edu/ingraham/graph-protein-design/data/cath/"
CHAIN_SET: Final = "chain_set.jsonl"
SPLITS: Final = "chain_set_splits.json"
_PACKED: Final = ".gz"
_GZIP_MAGIC: Final = b"\x1f\x8b"
_LINES: Final = 10
"""Lines that a chain set is known by."""
_LONGEST_LINE: Final = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Cath42:
    """Both files, whole."""

    chain_set: Fetched
    splits: Fetched


def fetch_cath42(
    folder: str | Path,
    *,
    url: str = URL,
    sha256: Mapping[str, str] | None = None,
    patience: Patience | None = None,
    report: Callable[[str], Report] | None = None,
    log: Callable[[str], None] | None = None,
) -> Cath42:
    """Download both files into ``folder``; goes on where an earlier call was cut off.

    A mirror may hold ``chain_set.jsonl.gz`` in place of ``chain_set.jsonl``.

    Args:
        folder: Where to put them; made when missing.
        url: Folder on a server that has them.
        sha256: What a file must have, by file name.
        patience: When to give up.
        report: Makes the function that is told of a file's progress from the file's name.
        log: Told of each failed try.

    Raises:
        FetchError: see :func:`minifold_pl.data.fetch.download`; or what arrived is another kind of file.
    """
    folder, expected = Path(folder), dict(sha256 or {})
    check_address(url)
    base = url if url.endswith("/") else f"{url}/"
    unknown = expected.keys() - {CHAIN_SET, CHAIN_SET + _PACKED, SPLITS}
    if unknown:
        raise FetchError(f"sha256 of {min(unknown)!r}: the files are {CHAIN_SET}[{_PACKED}] and {SPLITS}")

    def fetch(name: str, looks_right: Callable[[Path], bool]) -> Fetched:
        done = download(
            urljoin(base, name),
            folder / name,
            sha256=expected.get(name),
            patience=patience,
            report=report(name) if report else None,
            log=log,
        )
        if not looks_right(done.path):
            if not done.downloaded:
                raise FetchError(f"{done.path} holds something else; move it away to download it again")
            done.path.unlink()
            sha256_file(done.path).unlink(missing_ok=True)
            raise FetchError(f"{urljoin(base, name)} is no {name}: it holds something else; is --url right?")
        return done

    # The small one first: a wrong address is found out at once.
    splits = fetch(SPLITS, _has_splits)
    packed = folder / (CHAIN_SET + _PACKED)
    if packed.exists():
        return Cath42(chain_set=fetch(packed.name, _has_chains), splits=splits)
    try:
        return Cath42(chain_set=fetch(CHAIN_SET, _has_chains), splits=splits)
    except NotThere as missing:
        try:
            return Cath42(chain_set=fetch(packed.name, _has_chains), splits=splits)
        except NotThere:
            raise missing from None


def _has_splits(path: Path) -> bool:
    """Whether it is a splits file, and not a server's word on why there is none."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and any(
        isinstance(content.get(split), list) for split in (TRAIN, VALIDATION, TEST)
    )


def _has_chains(path: Path) -> bool:
    """Whether one of the first lines is a chain's; whether it is a sound one is the reader's business."""
    with path.open("rb") as raw:
        packed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        file = gzip.GzipFile(fileobj=raw) if packed else raw
        try:
            return any(_is_chain(file.readline(_LONGEST_LINE)) for _ in range(_LINES))
        except (OSError, EOFError, zlib.error):
            return False


def _is_chain(line: bytes) -> bool:
    try:
        fields = json.loads(line.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and {"name", "seq", "coords"} <= fields.keys()
