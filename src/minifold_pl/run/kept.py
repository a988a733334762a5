"""What a run folder keeps of the last start's settings, whatever of it is lost or damaged.

``config.yaml`` holds the settings, ``identity.json`` their fingerprint and the digest of the data; the last
``settings`` event has both once more. A config that cannot be read, or is not the one of the fingerprint, is not
believed: then the fingerprint alone says whether the settings are the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from minifold_pl.run.code_version import CodeVersion
from minifold_pl.run.events import read_events
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.settings import fingerprint


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The last start's settings, as far as the folder tells."""

    config: Mapping[str, Any] | None
    """None where ``config.yaml`` is missing or damaged."""
    trouble: str
    """What is wrong with ``config.yaml``, for the user; empty where nothing is."""
    fingerprint: str
    """Of the settings that are part of the run; empty where nobody knows."""
    data: str
    """Digest of the store's header; empty where nobody knows."""


def read_kept(folder: RunFolder, code: CodeVersion | None = None) -> Kept:
    """What is known of the settings of the run's last start.

    Args:
        folder: The run folder.
        code: The code of this process. A fingerprint that other code made may leave out other settings: it is no
            reason to doubt a config that can be read.
    """
    identity = read_identity(folder)
    if not identity.get("fingerprint"):
        identity = _last_settings(folder)
    known = str(identity.get("fingerprint", ""))
    config, trouble = _read_config(folder)
    comparable = code is None or _same_code(identity.get("code"), code)
    if config is not None and known and comparable and _fingerprint(config) != known:
        config, trouble = (
            None,
            f"{folder.config} is damaged, or was changed by hand: it is not what the run was with",
        )
    return Kept(config=config, trouble=trouble, fingerprint=known, data=str(identity.get("data", "")))


def read_identity(folder: RunFolder) -> dict[str, Any]:
    """The content of ``identity.json``; empty where there is none or it is damaged."""
    try:
        content = json.loads(folder.identity.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_config(folder: RunFolder) -> tuple[Mapping[str, Any] | None, str]:
    try:
        content = yaml.safe_load(folder.config.read_bytes())
    except FileNotFoundError:
        return None, f"{folder.config} is missing"
    except OSError as error:
        return None, f"{folder.config} cannot be read ({error.strerror or error})"
    except (ValueError, yaml.YAMLError) as error:
        return None, f"{folder.config} is damaged ({str(error).splitlines()[0]})"
    if not isinstance(content, Mapping):
        return None, f"{folder.config} is damaged (it holds no settings)"
    return content, ""


def _same_code(before: Any, now: CodeVersion) -> bool:
    names = ("package", "commit", "changed")
    return isinstance(before, Mapping) and all(before.get(name) == getattr(now, name) for name in names)


def _fingerprint(config: Mapping[str, Any]) -> str:
    try:
        return fingerprint(config)
    except (TypeError, ValueError):
        # Nothing that was written from settings.
        return ""


def _last_settings(folder: RunFolder) -> dict[str, Any]:
    last: dict[str, Any] = {}
    try:
        for event in read_events(folder.events):
            if event["event"] == "settings":
                last = event
    except OSError:
        # As far as it could be read.
        pass
    return last
