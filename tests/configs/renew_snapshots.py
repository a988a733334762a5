"""Write the resolved form of every shipped config beside the tests that compare it."""

from __future__ import annotations

from pathlib import Path

import yaml

from minifold_pl.cli.configs import shipped_configs
from minifold_pl.cli.lightning_cli import STANDARD_CALLBACKS, resolve_config

SECTIONS = ("model", "data", *STANDARD_CALLBACKS)
"""Ours. Lightning's own section changes with Lightning."""


def main() -> None:
    """Renew all of them."""
    folder = Path(__file__).parent / "snapshots"
    folder.mkdir(exist_ok=True)
    for name in shipped_configs():
        resolved = resolve_config(name)
        (folder / name).write_text(
            yaml.safe_dump({k: resolved[k] for k in SECTIONS if k in resolved}, sort_keys=False)
        )


if __name__ == "__main__":
    main()
