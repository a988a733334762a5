"""What lies beside every set of results: how exactly it was made."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import minifold_pl

MANIFEST_FORMAT: Final = 1
_PACKAGES: Final = ("torch", "lightning", "numpy", "gemmi", "jsonargparse")


def versions() -> dict[str, str]:
    """Versions of Python, of this program and of what its numbers depend on."""
    found = {"python": platform.python_version(), "minifold-pl": minifold_pl.__version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def manifest_text(command: str, content: Mapping[str, Any]) -> str:
    """``content`` as strict JSON under a header that says which command of which version wrote it.

    NaN and infinity become null: they are no JSON.
    """
    document = {"format": MANIFEST_FORMAT, "command": command, "versions": versions(), **content}
    return json.dumps(_strict(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return None
    return value
