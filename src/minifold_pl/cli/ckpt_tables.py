"""How ``minifold-pl ckpt`` tells on a terminal what it found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from minifold_pl.checkpoint.differences import Differences, TensorGroup

_MANY = 20
"""Lines of a kind that are shown; ``--json`` has all."""


def show_summary(content: Mapping[str, Any]) -> None:
    """Print what a checkpoint holds."""
    file = content["file"]
    table = Table(show_header=False, title=escape(content["path"]))
    table.add_row("file", f"{file['size']:,} bytes, sha256 {file['sha256'][:16]}…")
    table.add_row(
        "verified",
        "size and checksum are those of its manifest"
        if file["manifest"]
        else "no manifest beside it: only the archive's own checksums were checked",
    )
    ours = content["stage"] is not None
    table.add_row("stage", content["stage"] if ours else "not a minifold-pl checkpoint")
    table.add_row(
        "written by", f"minifold-pl {content['version'] or '?'}, Lightning {content['lightning'] or '?'}"
    )
    table.add_row("step, epoch", f"{content['step']:,}, {content['epoch']}")
    if content["place"]:
        table.add_row("training goes on", content["place"])
    table.add_row("model", content["model"] or "–")
    table.add_row("weights", "averaged (EMA), raw ones beside them" if content["ema"] else "raw, no EMA")
    for line in _origin_lines(content["initialised"]):
        table.add_row(*map(escape, line))
    if content["encoder_origin"]:
        table.add_row("encoder from", escape(content["encoder_origin"]))
    table.add_row("elements", f"{content['total']:,}")
    for name, count in content["parameters"].items():
        table.add_row(f"  {escape(name)}", f"{count:,}")
    table.add_row("optimizer states", str(content["optimizers"]))
    for name, value in content["metrics"].items():
        table.add_row(escape(name), f"{value:.5g}")
    for name in content["callbacks"]:
        table.add_row("callback", escape(name))
    Console().print(table)


def _origin_lines(origin: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Where the weights came from, what came over, and where those had come from."""
    if not origin:
        return
    yield "initialised from", _source(origin)
    words = {"shape": "of another shape", "fresh": "left fresh"}
    modules = origin.get("modules")
    for module, fates in modules.items() if isinstance(modules, Mapping) else ():
        if isinstance(fates, Mapping):
            told = [
                f"{tally.get('tensors')} {words.get(fate, fate)}"
                for fate, tally in fates.items()
                if isinstance(tally, Mapping)
            ]
            yield f"  {module}", ", ".join(told)
    before = origin.get("before")
    for earlier in before if isinstance(before, list) else ():
        if isinstance(earlier, Mapping):
            yield "  and that from", _source(earlier)


def _source(origin: Mapping[str, Any]) -> str:
    weights = {"ema": "averaged weights", "raw": "raw weights", "only": "weights, no EMA"}
    how = weights.get(str(origin.get("weights")), "weights")
    return (
        f"{origin.get('ckpt')} ({how}, step {origin.get('step')}, sha256 {str(origin.get('sha256'))[:16]}…)"
    )


def show_differences(first: str, second: str, found: Differences) -> None:
    """Print where two checkpoints differ."""
    console = Console()
    console.print(f"first   {escape(first)}\nsecond  {escape(second)}", highlight=False, soft_wrap=True)
    if found.same:
        console.print("both hold the same, bit for bit")
        return
    table = Table()
    for column in ("", "part", "tensors", "different", "largest difference", "largest value", "else"):
        table.add_column(column, justify="left" if column in ("", "part", "else") else "right")
    section = ""
    for group in found.groups:
        table.add_row(
            "" if group.section == section else group.section,
            escape(group.name),
            str(group.tensors),
            str(group.different) if group.different else "–",
            f"{group.max_abs:.3g}" if group.different else "–",
            f"{group.largest:.3g}",
            _otherwise(group),
        )
        section = group.section
    console.print(table)
    for group in found.groups:
        for words, names in (
            ("another shape or type", group.unlike),
            ("only in the first", group.only_first),
            ("only in the second", group.only_second),
        ):
            for name in names[:_MANY]:
                console.print(f"{words}: {escape(name)}", highlight=False, soft_wrap=True)
            if len(names) > _MANY:
                console.print(f"{words}: {len(names) - _MANY} more", highlight=False)
    for value in found.values[:_MANY]:
        left = "absent" if value.first is None else value.first
        right = "absent" if value.second is None else value.second
        console.print(
            escape(f"{value.path}: {_short(left)} → {_short(right)}"), highlight=False, soft_wrap=True
        )
    if len(found.values) > _MANY:
        console.print(
            f"{len(found.values) - _MANY} more values differ; --json has all of them", highlight=False
        )


def show_verified(results: Sequence[Mapping[str, Any]], newest: Mapping[str, str | None]) -> None:
    """Print which checkpoints are whole, and which of those hold something that is not loaded."""
    console = Console()
    for result in results:
        if result["plain"]:
            step = "" if result["step"] is None else f", step {result['step']:,}"
            how = "" if result["manifest"] else ", no manifest beside it: by the archive's own checksums"
            line = f"whole    {result['path']} ({result['size']:,} bytes{step}{how})"
        else:
            what = "REFUSED" if result["whole"] else "DAMAGED"
            line = f"{what}  {result['path']}: {result['error']}"
        console.print(escape(line), highlight=False, soft_wrap=True)
    for folder, name in newest.items():
        told = "no checkpoint here is whole" if name is None else f"a run here goes on from {name}"
        console.print(escape(f"{Path(folder)}: {told}"), highlight=False, soft_wrap=True)


def _otherwise(group: TensorGroup) -> str:
    parts = (
        (len(group.unlike), "of another shape or type"),
        (len(group.only_first), "only in the first"),
        (len(group.only_second), "only in the second"),
    )
    return ", ".join(f"{count} {words}" for count, words in parts if count)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "…"
