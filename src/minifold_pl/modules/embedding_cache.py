"""What a language model made of sequences, kept in a folder: one file a sequence, checked when it is read."""

from __future__ import annotations

import io
from hashlib import blake2b
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float16, UInt8
from lightning.pytorch.utilities import rank_zero_warn

from minifold_pl.checkpoint.atomic import HashingWriter, atomic_write

Tokens = UInt8[np.ndarray, " n"]
"""A sequence with CLS and EOS."""
Embedding = Float16[np.ndarray, "l w"]
"""One row a residue."""

_DIGEST: Final = 16


def key_of(sequence: Tokens) -> str:
    """Name of a sequence among all."""
    return blake2b(np.asarray(sequence, np.uint8).tobytes(), digest_size=_DIGEST).hexdigest()


class EmbeddingCache:
    """Embeddings in ``folder``; any number of processes may read and write it at once.

    A file is numpy's ``.npy`` followed by 16 bytes of BLAKE2b of the sequence's name and all before: one that is cut,
    changed or in a wrong place is none, and is made again. It appears whole or not at all.

    Args:
        folder: Of one language model.
        width: Channels of its embeddings.
    """

    def __init__(self, folder: Path, width: int) -> None:
        self.folder = folder
        self.width = width
        self.damaged = 0
        """Files that were found damaged."""
        self._writes = True

    def path(self, sequence: Tokens) -> Path:
        """Where the embedding of a sequence lies."""
        key = key_of(sequence)
        return self.folder / key[:2] / f"{key}.npy"

    def read(self, sequence: Tokens) -> Embedding | None:
        """The embedding; None where there is none, or none that can be trusted."""
        path = self.path(sequence)
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._tell_damaged(path, str(error))
            return None
        found = self._checked(path.stem, content, len(sequence) - 2)
        if found is None:
            self._tell_damaged(path, "its checksum or size is wrong")
        return found

    def write(self, sequence: Tokens, embedding: Embedding) -> None:
        """Keep an embedding.

        Raises:
            OSError: the folder cannot be written.
        """
        path = self.path(sequence)
        stream = io.BytesIO()
        np.save(stream, np.ascontiguousarray(embedding, dtype=np.float16))
        content = stream.getvalue()

        def put(file: HashingWriter) -> None:
            file.write(content + _digest(path.stem, content))

        atomic_write(path, put)

    def keep(self, sequence: Tokens, embedding: Embedding) -> None:
        """Keep an embedding where that is possible: a full or read-only disk is told once, and ends no training."""
        if not self._writes:
            return
        try:
            self.write(sequence, embedding)
        except OSError as error:
            self._writes = False
            rank_zero_warn(f"embeddings are not kept from here on: {self.folder}: {error.strerror or error}")

    def _checked(self, key: str, content: bytes, length: int) -> Embedding | None:
        body, digest = content[:-_DIGEST], content[-_DIGEST:]
        if digest != _digest(key, body):
            return None
        found: np.ndarray = np.load(io.BytesIO(body), allow_pickle=False)
        sound = found.dtype == np.float16 and found.shape == (length, self.width)
        return found if sound else None

    def _tell_damaged(self, path: Path, why: str) -> None:
        self.damaged += 1
        if self.damaged == 1:
            rank_zero_warn(f"{path} is damaged ({why}): this embedding, and others like it, are made again")


def _digest(key: str, body: bytes) -> bytes:
    digest = blake2b(key.encode(), digest_size=_DIGEST)
    digest.update(body)
    return digest.digest()
