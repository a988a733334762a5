"""Reads stores of the earlier format, so that they can be converted.

There the arrays of all chains lay in one file each (``coords.f32``, ``tokens.u8``), and the index was JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minifold_pl.constants import BACKBONE_ATOMS
from minifold_pl.data.records import ChainRecord
from minifold_pl.data.store_format import OLD_FORMAT_VERSION, StoreError, check_file, check_sizes, read_header
from minifold_pl.data.tokenizer import decode

_INDEX = "index.json"
_NO_REPORT = (_INDEX, "coords.f32", "tokens.u8", "bonded.u8")


def is_old_store(path: str | Path) -> bool:
    """Whether a folder holds a store of the earlier format."""
    return int(read_header(Path(path))[0]["version"]) == OLD_FORMAT_VERSION


def read_old_store(path: str | Path) -> tuple[dict[str, Any], dict[str, str], Iterator[ChainRecord]]:
    """Provenance, attached texts by name, and every chain of a store of the earlier format.

    Raises:
        StoreError: it is of another format, or damaged: all checksums are compared first.
    """
    path = Path(path)
    header, _ = read_header(path)
    if header["version"] != OLD_FORMAT_VERSION:
        raise StoreError(f"store {path} is of version {header['version']}, not {OLD_FORMAT_VERSION}")
    check_sizes(path, header)
    for name in header["files"]:
        check_file(path, name, header)
    attached = {name: (path / name).read_text() for name in header["files"] if name not in _NO_REPORT}
    return header["provenance"], attached, _records(path)


def _records(path: Path) -> Iterator[ChainRecord]:
    index = json.loads((path / _INDEX).read_bytes())
    ends = np.cumsum(index["lengths"])
    residues = int(ends[-1])
    coords = np.memmap(path / "coords.f32", np.float32, "r", shape=(residues, len(BACKBONE_ATOMS), 3))
    tokens = np.memmap(path / "tokens.u8", np.uint8, "r", shape=(residues,))
    for chain, (name, length, end) in enumerate(zip(index["names"], index["lengths"], ends, strict=True)):
        rows = slice(int(end) - length, int(end))
        yield ChainRecord(
            name=name,
            sequence=decode(np.asarray(tokens[rows])),
            coords=np.array(coords[rows]),
            breaks=tuple(index["breaks"][chain]),
            cath=tuple(index["cath"][chain]),
            split=index["splits"][chain],
            cluster=index["clusters"][chain],
            representative=index["representative"][chain],
        )
