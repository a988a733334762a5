"""Write the resolved form of every shipped config beside the tests that compare it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from minifold_pl.cli.configs import config_chain, shipped_configs
from minifold_pl.cli.lightning_cli import STANDARD_CALLBACKS, resolve_config

SECTIONS = ("seed_everything", "model", "data", *STANDARD_CALLBACKS)
"""Ours, whole. Of Lightning's own section, which changes with Lightning, what the configs set."""


def snapshot(name: str) -> dict[str, Any]:
    """All that a shipped config decides, with the defaults of this project filled in."""
    resolved = resolve_config(name)
    chosen = {k for text in config_chain(name) for k in yaml.safe_load(text).get("trainer", {})}
    return {
        **{section: resolved[section] for section in SECTIONS if section in resolved},
        "trainer": {k: resolved["trainer"][k] for k in sorted(chosen)},
    }


def main() -> None:
    """Renew all of them."""
    folder = Path(__file__).parent / "snapshots"
    folder.mkdir(exist_ok=True)
    for name in shipped_configs():
        (folder / name).write_text(yaml.safe_dump(snapshot(name), sort_keys=False))


if __name__ == "__main__":
    main()
