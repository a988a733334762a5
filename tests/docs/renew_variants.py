"""Fill in what docs/variants.md says in numbers: parameters of each version, and its settings beside the last one's.

Words are written in the page by hand; what stands between ``<!-- parameters -->`` or ``<!-- settings A B -->`` and
``<!-- end -->`` is written here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

from minifold_pl.cli.configs import shipped_configs
from minifold_pl.cli.costs import parameter_counts
from minifold_pl.cli.lightning_cli import instantiate_model, resolve_config
from minifold_pl.run.settings import MISSING, changes

PAGE = Path(__file__).parents[2] / "docs" / "variants.md"
_BLOCK = re.compile(r"(<!-- (parameters|settings)(?: (\S+) (\S+))? -->\n).*?(<!-- end -->)", re.DOTALL)
_LEFT_OUT = ("table.", "model.init_args.init_from.ckpt")
"""What is shown, and what is the user's."""


def versions() -> list[str]:
    """The shipped versions at full width, in order."""
    names = [name.removesuffix(".yaml") for name in shipped_configs()]
    return sorted(
        (n for n in names if re.fullmatch(r"v\d+[a-z]?", n)), key=lambda n: (int(re.sub(r"\D", "", n)), n)
    )


def rendered(text: str) -> str:
    """The page with its numbers as the configs have them now."""

    def fill(block: re.Match[str]) -> str:
        lines = _parameters() if block[2] == "parameters" else _settings(block[3], block[4])
        return "\n".join([block[1].rstrip(), *lines, block[5]])

    return _BLOCK.sub(fill, text)


@cache
def _parameters() -> tuple[str, ...]:
    return tuple(_counted())


def _counted() -> Iterator[str]:
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for name in versions():
        with torch.device("meta"):
            counts[name] = parameter_counts(instantiate_model(name))
    parts = list(dict.fromkeys(part for modules in counts.values() for part in modules))
    yield _row("", *(f"`{part}`" for part in parts), "all", "trained")
    yield _row("---", *["---:"] * (len(parts) + 2))
    for name, modules in counts.items():
        sums = [sum(part[kind] for part in modules.values()) for kind in ("total", "trainable")]
        yield _row(
            name,
            *(_million(modules[p]["total"]) if p in modules else "–" for p in parts),
            *map(_million, sums),
        )


@cache
def _resolved(name: str) -> dict[str, Any]:
    return resolve_config(name)


def _settings(before: str, after: str) -> Iterator[str]:
    yield _row("setting", before, after)
    yield _row("---", "---", "---")
    found = [
        (change.name, change.before, change.after)
        for change in changes(_resolved(before), _resolved(after))
        if not change.name.startswith(_LEFT_OUT)
    ]
    swapped = [name.removesuffix(".class_path") for name, *_ in found if name.endswith(".class_path")]
    names = {name for name, *_ in found}
    told: dict[str, tuple[str, str]] = {}
    for name, old, new in found:
        whole = next((part for part in swapped if name == part or name.startswith(f"{part}.")), None)
        if whole is not None:
            told[whole] = (_part(_resolved(before), whole), _part(_resolved(after), whole))
        elif not any(other.startswith(f"{name}.") for other in names) and not (_absent(old) and _absent(new)):
            told[name] = (_value(old), _value(new))
    for name, (old, new) in told.items():
        yield _row(f"`{name.removeprefix('model.init_args.').replace('.init_args', '')}`", old, new)


def _part(config: dict[str, Any], name: str) -> str:
    """A part that is chosen by its class: the class and what was set."""
    value: Any = config
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, dict):
        return _value(MISSING if value is None else value)
    given = (
        f"{k} {_value(v)}" for k, v in value.get("init_args", {}).items() if not isinstance(v, dict | None)
    )
    return f"{value['class_path'].rsplit('.', 1)[-1]}: {', '.join(given)}"


def _absent(value: Any) -> bool:
    return value is None or value == MISSING


def _value(value: Any) -> str:
    if value == MISSING:
        return "–"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value)


def _million(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 1e6 else f"{count / 1e6:.3f} M"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Renew the page."""
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
