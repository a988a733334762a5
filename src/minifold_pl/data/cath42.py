"""The CATH 4.2 chains and splits of Ingraham et al. 2019, as their authors publish them.

The authors give no checksums: sizes are compared with what the server says, the content is looked at, and the
sha256 of what arrived is noted beside each file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

from minifold_pl.data.fetch import Fetched, FetchError, NotThere, Patience, Report, download, sha256_file

URL: Final = "http://people.csail.mit.edu/ingraham/graph-protein-design/data/cath/"
CHAIN_SET: Final = "chain_set.jsonl"
SPLITS: Final = "chain_set_splits.json"
_PACKED: Final = ".gz"
_GZIP_MAGIC: Final = b"\x1f\x8b"


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
            done.path.unlink()
            sha256_file(done.path).unlink(missing_ok=True)
            raise FetchError(f"{urljoin(base, name)} is no {name}: it holds something else; is --url right?")
        return done

    # The small one first: a wrong address is found out at once.
    splits = fetch(SPLITS, _is_json_object)
    packed = folder / (CHAIN_SET + _PACKED)
    if packed.exists():
        return Cath42(chain_set=fetch(packed.name, _is_gzip), splits=splits)
    try:
        return Cath42(chain_set=fetch(CHAIN_SET, _is_json_lines), splits=splits)
    except NotThere as missing:
        try:
            return Cath42(chain_set=fetch(packed.name, _is_gzip), splits=splits)
        except NotThere:
            raise missing from None


def _is_json_object(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (ValueError, RecursionError):
        return False


def _is_json_lines(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"{"


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == _GZIP_MAGIC
