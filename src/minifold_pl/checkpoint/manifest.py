"""The small file beside every checkpoint that says what its bytes have to be.

``epoch=3.ckpt`` has ``epoch=3.ckpt.json``. It is written *before* the checkpoint takes its name and lists
both the new content and the one it replaces: whenever a kill comes, the file at the final name is one of
the two.

The manifest guards itself too: it has a checksum of its own, and its text has exactly one form, so that no
changed byte of it goes unnoticed.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from hashlib import sha256 as _sha256
from pathlib import Path
from typing import Any

from minifold_pl.checkpoint.atomic import atomic_write_text, sha256

MANIFEST_FORMAT = 2
_UNGUARDED_FORMAT = 1
"""Still read: the same without a checksum of its own."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """What one version of a checkpoint file holds."""

    sha256: str
    """Hexadecimal SHA-256 of the file."""
    size: int
    """Bytes."""
    step: int
    """Optimizer steps taken."""
    epoch: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content a checkpoint file must have, and the one it had before."""

    content: Content
    replaces: Content | None = None

    def matching(self, path: Path) -> Content | None:
        """The listed content that ``path`` really has, or None: the file is damaged."""
        size = path.stat().st_size
        candidates = [c for c in (self.content, self.replaces) if c is not None and c.size == size]
        if not candidates:
            return None
        digest = sha256(path)
        return next((c for c in candidates if c.sha256 == digest), None)


def manifest_path(checkpoint: str | os.PathLike[str]) -> Path:
    """Where the manifest of a checkpoint lies; that of a link lies beside what it points to."""
    checkpoint = Path(checkpoint)
    if checkpoint.is_symlink():
        checkpoint = checkpoint.resolve()
    return checkpoint.with_name(checkpoint.name + ".json")


def write_manifest(checkpoint: str | os.PathLike[str], manifest: Manifest) -> None:
    """Write the manifest of ``checkpoint``, atomically."""
    atomic_write_text(manifest_path(checkpoint), _text(manifest, MANIFEST_FORMAT))


def read_manifest(checkpoint: str | os.PathLike[str]) -> Manifest | None:
    """The manifest of ``checkpoint``, or None where there is none.

    Raises:
        ValueError: There is one and it cannot be read, or a byte of it was changed.
    """
    path = manifest_path(checkpoint)
    try:
        text = path.read_bytes()
        raw = json.loads(text)
        version = raw["format"]
        if version not in (MANIFEST_FORMAT, _UNGUARDED_FORMAT):
            raise ValueError(f"format {version!r}, this program reads up to {MANIFEST_FORMAT}")
        replaces = raw["replaces"]
        manifest = Manifest(
            content=_content(raw["content"]), replaces=None if replaces is None else _content(replaces)
        )
        if text != _text(manifest, version).encode():
            raise ValueError("it was changed since it was written")
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"unreadable checkpoint manifest {path}: {error}") from error
    return manifest


def _text(manifest: Manifest, version: int) -> str:
    fields: dict[str, Any] = {"format": version, **asdict(manifest)}
    if version != _UNGUARDED_FORMAT:
        fields["check"] = _sha256(json.dumps(fields).encode()).hexdigest()
    return json.dumps(fields, indent=2) + "\n"


def _content(raw: dict[str, Any]) -> Content:
    return Content(
        sha256=str(raw["sha256"]), size=int(raw["size"]), step=int(raw["step"]), epoch=int(raw["epoch"])
    )
