"""The layout of a store on disk, shared by its reader and its writer.

A store is a folder:

| file | holds |
|---|---|
| ``store.json`` | format, counts, size and sha256 of every other file, the shards, where the chains came from |
| ``index.bin`` | one column after the other, one entry a chain: :data:`COLUMNS` |
| ``strings.bin`` | names, CATH codes and clusters, each as a 32-bit count of bytes and UTF-8 |
| ``chains-00000.bin`` … | the chains themselves, in their order; a new shard begins after 256 MiB |
| ``embeddings/`` | what can be made again: what language models make of the sequences |

A chain's own bytes, all of it little-endian:

| part | bytes | there when |
|---|---|---|
| coordinates, float32 ``l 4 3``, Å, NaN where missing | 48 l | any atom is known |
| author residue numbers, int32 | 4 l | they are known |
| breaks of the source, uint32 | 4 each | |
| residue tokens | l | |
| 1 where a residue is joined to the next | l | |
| insertion codes, 0 for none | l | residue numbers are known |
| padding to a multiple of 4 | | |
"""

from __future__ import annotations

import hashlib
import json
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from minifold_pl.constants import BACKBONE_ATOMS

FORMAT: Final = "minifold-pl chain store"
FORMAT_VERSION: Final = 2
OLD_FORMAT_VERSION: Final = 1
"""What :mod:`minifold_pl.data.old_store` reads."""

HEADER: Final = "store.json"
INDEX: Final = "index.bin"
STRINGS: Final = "strings.bin"
EMBEDDINGS: Final = "embeddings"
"""Folder beside the store's files for what language models make of its sequences. It is no part of the store: it may
be removed, and is neither needed nor checked when the store is opened."""
SHARD_BYTES: Final = 256 * 2**20
"""A new shard begins when one has this many bytes: files that copy and hash in seconds, 50 of them for a
million chains."""

COLUMNS: Final[dict[str, np.dtype[Any]]] = {
    "offset": np.dtype("<u8"),  # of the chain's bytes in its shard
    "name": np.dtype("<u8"),  # offsets in the strings
    "cath": np.dtype("<u8"),
    "cluster": np.dtype("<u8"),  # NO_STRING where unknown
    "shard": np.dtype("<u4"),
    "length": np.dtype("<u4"),  # residues
    "breaks": np.dtype("<u4"),  # how many the source names
    "crc": np.dtype("<u4"),  # CRC-32 of the chain's bytes
    "split": np.dtype("u1"),  # place in SPLITS
    "representative": np.dtype("u1"),
    "parts": np.dtype("u1"),  # HAS_COORDS | HAS_RESIDUE_IDS | HAS_BACKBONE
}
"""Wide ones first, so that every column is aligned."""
NO_STRING: Final = 2**64 - 1
HAS_COORDS: Final = 1
HAS_RESIDUE_IDS: Final = 2
HAS_BACKBONE: Final = 4
"""Any atom but Cα is known."""

_COORD_BYTES: Final = len(BACKBONE_ATOMS) * 3 * 4


class StoreError(ValueError):
    """A store that is absent, damaged, or in the way."""


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"chains-{number:05d}.bin"


class ChainLayout(NamedTuple):
    """Where the parts of a chain begin, in bytes from its first one."""

    numbers: int
    breaks: int
    tokens: int
    bonded: int
    insertions: int
    end: int
    """Its whole size, padding included."""


def chain_layout(length: int, breaks: int, parts: int) -> ChainLayout:
    """Layout of a chain of ``length`` residues."""
    ids = length if parts & HAS_RESIDUE_IDS else 0
    sizes = (_COORD_BYTES * length * (parts & HAS_COORDS), 4 * ids, 4 * breaks, length, length, ids)
    numbers, break_places, tokens, bonded, insertions, end = accumulate(sizes)
    return ChainLayout(numbers, break_places, tokens, bonded, insertions, -(-end // 4) * 4)


def column_offsets(chains: int) -> dict[str, int]:
    """Where each column of the index begins; ``end`` is the index's size."""
    starts = accumulate((dtype.itemsize * chains for dtype in COLUMNS.values()), initial=0)
    return dict(zip([*COLUMNS, "end"], starts, strict=True))


def is_store(path: str | Path) -> bool:
    """Whether a folder holds a store's header, sound or not."""
    return (Path(path) / HEADER).is_file()


def read_header(path: Path) -> tuple[dict[str, Any], str]:
    """A store's header and the sha256 of its bytes; any version.

    Raises:
        StoreError: there is none, it cannot be read, or it is of an unknown version.
    """
    if not is_store(path):
        raise StoreError(_no_store(path))
    try:
        content = (path / HEADER).read_bytes()
        header = json.loads(content)
        version = (header["format"], header["version"])
    except (ValueError, TypeError, KeyError):
        raise StoreError(f"store {path} is damaged: {HEADER} cannot be read; make the store again") from None
    if version not in ((FORMAT, FORMAT_VERSION), (FORMAT, OLD_FORMAT_VERSION)):
        raise StoreError(
            f"store {path} has format {header['format']!r} version {header['version']!r}, this program reads "
            f"{FORMAT!r} version {FORMAT_VERSION}; make the store again"
        )
    if sys.byteorder != "little":
        raise StoreError(f"store {path} is little-endian, this machine is not")
    return header, hashlib.sha256(content).hexdigest()


def check_sizes(path: Path, header: dict[str, Any]) -> None:
    """Compare the sizes of all files with the header's.

    Raises:
        StoreError: a file is missing, longer or shorter; names it.
    """
    for name, entry in header["files"].items():
        size = (path / name).stat().st_size if (path / name).is_file() else None
        if size != entry["bytes"]:
            found = "missing" if size is None else f"{size} bytes"
            raise StoreError(
                f"store {path} is damaged: {name} is {found}, {entry['bytes']} bytes were written; "
                "make the store again"
            )


def check_file(path: Path, name: str, header: dict[str, Any]) -> None:
    """Compare a file's sha256 with the header's.

    Raises:
        StoreError: it has changed since it was written.
    """
    with (path / name).open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != header["files"][name]["sha256"]:
        raise StoreError(f"store {path} is damaged: {name} has changed; make the store again")


def read_checked(path: Path, name: str, header: dict[str, Any]) -> bytes:
    """A file's content, after its sha256 was compared with the header's.

    Raises:
        StoreError: it is none of the store's files, cannot be read, or has changed since it was written.
    """
    entry = header["files"].get(name)
    try:
        content = (path / name).read_bytes() if entry is not None else None
    except OSError as error:
        raise StoreError(
            f"store {path} is damaged: {name} cannot be read: {error.strerror}; make the store again"
        ) from None
    if entry is None or content is None:
        raise StoreError(f"store {path} has no {name}; make the store again")
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise StoreError(f"store {path} is damaged: {name} has changed; make the store again")
    return content


def replaced_prefix(out: Path) -> str:
    """How the names begin under which a replaced store waits for its removal."""
    return f".{out.name}.replaced-"


def _no_store(path: Path) -> str:
    aside = sorted(path.parent.glob(f"{replaced_prefix(path)}*")) if path.parent.is_dir() else []
    if aside and not path.exists():
        return f"{path} does not exist; a write that was cut short left the earlier store at {aside[-1]}: rename it"
    if path.exists():
        how = f"`minifold-pl data prepare {path} --out STORE`"
        return f"{path} is no store; if there are chains in it, make one of them: {how}"
    return (
        f"{path} does not exist; make one with `minifold-pl data prepare SRC --out {path}` "
        f"or `minifold-pl data synth --out {path}`"
    )
