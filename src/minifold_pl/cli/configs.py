"""Shipped configs, found by bare name from any folder and from an installed wheel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

import yaml

from minifold_pl.cli.errors import UserError

BASE_KEY = "base"
"""A config that holds ``base: NAME`` is read on top of that config: it states its differences only."""


def config_folder() -> Path:
    """The folder of the shipped configs: inside the installed package, or at the root of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parents[1] / "configs"


def shipped_configs() -> list[str]:
    """Names of the shipped configs, in alphabetical order."""
    return sorted(path.name for path in config_folder().glob("*.yaml"))


def find_config(name: str) -> Path:
    """The file that ``name`` means: a path, or the name of a shipped config with or without ``.yaml``.

    Raises:
        UserError: Neither exists; names the shipped ones.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.parent == Path():
        for candidate in (config_folder() / path, config_folder() / f"{name}.yaml"):
            if candidate.is_file():
                return candidate
    close = get_close_matches(path.name, shipped_configs(), n=1)
    hint = f" Did you mean {close[0]}?" if close else f" Shipped: {', '.join(shipped_configs())}."
    raise UserError(f"no config {name!r}: neither a file nor a shipped config.{hint}", exit_code=2)


def config_chain(name: str) -> list[str]:
    """``name`` and the configs it is based on, as YAML texts from the base up.

    Raises:
        UserError: A file is missing, is no YAML mapping, or the chain is circular.
    """
    return [text for _, text in reversed(list(_walk(name)))]


def _walk(name: str) -> Iterator[tuple[Path, str]]:
    seen: list[Path] = []
    beside: Path | None = None
    while True:
        if beside is not None and (beside / name).is_file():
            path = (beside / name).resolve()
        else:
            path = find_config(name).resolve()
        if path in seen:
            chain = " -> ".join(p.name for p in [*seen, path])
            raise UserError(f"config {seen[0]} is based on itself: {chain}", exit_code=2)
        seen.append(path)
        content = _read(path)
        base = content.pop(BASE_KEY, None)
        yield path, yaml.safe_dump(content, sort_keys=False)
        if base is None:
            return
        if not isinstance(base, str):
            raise UserError(f"config {path}: `{BASE_KEY}` must name a config, not {base!r}", exit_code=2)
        name, beside = base, path.parent


def _read(path: Path) -> dict[str, object]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = " ".join(str(error).split())
        raise UserError(f"config {path} is no YAML: {first}", exit_code=2) from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise UserError(
            f"config {path} must be a mapping of settings, not {type(content).__name__}", exit_code=2
        )
    return content


def expand_config_arguments(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Replace each ``--config NAME`` by the YAML texts of its chain.

    Returns:
        The new arguments, and the configs' names in order.
    """
    expanded: list[str] = []
    names: list[str] = []
    rest = iter(args)
    for arg in rest:
        if arg in ("--config", "-c"):
            value = next(rest, None)
            if value is None:
                raise UserError(f"{arg} needs the path or name of a config", exit_code=2)
        elif arg.startswith("--config="):
            value = arg.removeprefix("--config=")
        else:
            expanded.append(arg)
            continue
        names.append(Path(value).stem)
        for text in config_chain(value):
            expanded += ["--config", text]
    return expanded, names
