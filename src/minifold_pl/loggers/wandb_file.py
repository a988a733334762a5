"""What of a W&B run lies on this disk.

W&B's service keeps what it is given in memory, some 30 kB at a time: a run that is killed loses it. So what counts is
what its files hold. A ``.wandb`` file is a log in LevelDB's format (blocks of 32 KiB; checksum, length and kind before
each piece) of protocol-buffer records; the definitions of these come with the ``wandb`` package.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

_MAGIC: Final = b":W&B"
_FILE_HEADER: Final = 7
_BLOCK: Final = 32768
_PIECE: Final = struct.Struct("<IHB")
_FULL, _FIRST, _LAST = 1, 2, 4


def steps_on_disk(folder: Path, run_id: str) -> set[int]:
    """The steps in all files of a run below W&B's folder, offline ones and local copies of online ones."""
    return {step for path in sorted(folder.glob(f"*run-*/run-{run_id}.wandb")) for step in file_steps(path)}


def file_steps(path: Path) -> set[int]:
    """The steps in one file; what was cut off at its end does not count."""
    return {step for step, _ in file_rows(path)}


def file_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Step and values of each row of one file in the order of writing, wandb's own values (``_step`` …) left out."""
    # Neither has type stubs that say what is in it.
    definitions = import_module("wandb.proto.wandb_internal_pb2")
    errors = import_module("google.protobuf.message")
    for data in _records(path.read_bytes()):
        record = definitions.Record()
        try:
            record.ParseFromString(data)
        except errors.DecodeError:
            continue
        if record.WhichOneof("record_type") == "history":
            named = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            values = {name: json.loads(text) for name, text in named.items() if not name.startswith("_")}
            yield int(record.history.step.num), values


def _records(content: bytes) -> Iterator[bytes]:
    if content[: len(_MAGIC)] != _MAGIC:
        return
    place, record = _FILE_HEADER, b""
    while place + _PIECE.size <= len(content):
        rest = _BLOCK - place % _BLOCK
        _, length, kind = _PIECE.unpack_from(content, place)
        if rest < _PIECE.size or kind == 0:
            # The end of a block that is too small for another piece, or was never filled.
            place += rest
            continue
        piece = content[place + _PIECE.size : place + _PIECE.size + length]
        if len(piece) < length:
            return
        place += _PIECE.size + length
        record = piece if kind in (_FULL, _FIRST) else record + piece
        if kind in (_FULL, _LAST):
            yield record
