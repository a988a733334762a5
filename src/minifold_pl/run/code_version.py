"""Which code a run is trained by."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import minifold_pl

_LIBRARIES: Final = ("torch", "lightning", "numpy")
"""Those whose versions can change a result."""
_PATIENCE = 5.0
"""Seconds for git: a network file system must not keep a start waiting."""


@dataclass(frozen=True, kw_only=True)
class CodeVersion:
    """The code, as far as it can be named."""

    package: str
    """Version of minifold-pl."""
    commit: str
    """Of the checkout that the package lies in; empty where it lies in none."""
    changed: str
    """Hexadecimal digits that stand for what was changed in the checkout since; empty where nothing was."""
    python: str
    libraries: dict[str, str]
    """Versions of torch, lightning and numpy."""

    def to_dict(self) -> dict[str, object]:
        """As plain values."""
        return asdict(self)

    def __str__(self) -> str:
        parts = [f"minifold-pl {self.package}"]
        if self.commit:
            parts.append(self.commit[:10] + (f" with changes {self.changed}" if self.changed else ""))
        parts += [f"Python {self.python}", *(f"{name} {number}" for name, number in self.libraries.items())]
        return ", ".join(parts)


def code_version(package: Path | None = None) -> CodeVersion:
    """The code of this process.

    Args:
        package: Folder of the package; where it is imported from by default.
    """
    folder = Path(minifold_pl.__file__).parent if package is None else package
    commit, changed = _checkout(folder)
    return CodeVersion(
        package=minifold_pl.__version__,
        commit=commit,
        changed=changed,
        python=platform.python_version(),
        libraries={name: _version(name) for name in _LIBRARIES},
    )


def _checkout(folder: Path) -> tuple[str, str]:
    """Commit and a digest of the changes; empty where git does not know the package's files."""
    # A package that is merely installed below some checkout is not part of it.
    if not _git(folder, "ls-files", "--", "__init__.py"):
        return "", ""
    commit = _git(folder, "rev-parse", "HEAD") or b""
    if not commit:
        return "", ""
    status = _git(folder, "status", "--porcelain", "--", ".")
    if status is None:
        return commit.decode().strip(), "unknown"
    if not status:
        return commit.decode().strip(), ""
    digest = sha256(_git(folder, "diff", "HEAD", "--", ".") or b"")
    new = _git(folder, "ls-files", "--others", "--exclude-standard", "-z", "--", ".") or b""
    for name in sorted(part for part in new.split(b"\0") if part):
        digest.update(name + b"\0" + (folder / name.decode()).read_bytes())
    return commit.decode().strip(), digest.hexdigest()[:10]


def _git(folder: Path, *arguments: str) -> bytes | None:
    """What git says, or None where there is no git, no checkout or no answer in time."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
