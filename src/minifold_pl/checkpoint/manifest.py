"""The small file beside every checkpoint that says what its bytes have to be.

``epoch=3.ckpt`` has ``epoch=3.ckpt.json``. It is written *before* the checkpoint takes its name and lists
both the new content and the one it replaces: whenever a kill comes, the file at the final name is one of
the two.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minifold_pl.checkpoint.atomic import atomic_write_text, sha256

MANIFEST_FORMAT = 1


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
    text = json.dumps({"format": MANIFEST_FORMAT, **asdict(manifest)}, indent=2)
    atomic_write_text(manifest_path(checkpoint), text + "\n")


def read_manifest(checkpoint: str | os.PathLike[str]) -> Manifest | None:
    """The manifest of ``checkpoint``, or None where there is none.

    Raises:
        ValueError: There is one and it cannot be read.
    """
    path = manifest_path(checkpoint)
    try:
        raw = json.loads(path.read_bytes())
        if raw["format"] != MANIFEST_FORMAT:
            raise ValueError(f"format {raw['format']!r}, this program reads {MANIFEST_FORMAT}")
        replaces = raw["replaces"]
        return Manifest(
            content=_content(raw["content"]), replaces=None if replaces is None else _content(replaces)
        )
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"unreadable checkpoint manifest {path}: {error}") from error


def _content(raw: dict[str, Any]) -> Content:
    return Content(
        sha256=str(raw["sha256"]), size=int(raw["size"]), step=int(raw["step"]), epoch=int(raw["epoch"])
    )
