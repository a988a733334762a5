"""``minifold-pl ckpt``: what a checkpoint holds."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minifold_pl.cli.generation import told_to_the_user


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command's parser."""
    parser = subparsers.add_parser(
        "ckpt",
        help="what a checkpoint holds",
        description="Look into checkpoints without running anything in them.",
    )
    commands = parser.add_subparsers(dest="ckpt_command", metavar="COMMAND", required=True)
    show = commands.add_parser(
        "show",
        help="stage, step, parameters, metrics, and whether the file is whole",
        description="Verify a checkpoint and tell what it holds.",
    )
    show.add_argument("path", type=Path, metavar="PATH", help="a checkpoint")
    show.add_argument("--json", action="store_true", help="print JSON, with the model's whole config")
    show.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Verify, read and print."""
    from minifold_pl.checkpoint.contents import load_unverified, summary, verify
    from minifold_pl.export.manifest import manifest_text

    with told_to_the_user():
        verified = verify(args.path)
        told = summary(load_unverified(args.path, mmap=True))
    content = {
        "path": str(args.path),
        "file": asdict(verified),
        **asdict(told),
    }
    if args.json:
        print(manifest_text("ckpt show", content), end="")
    else:
        _show(content)
    return 0


def _show(content: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

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
    table.add_row("model", content["model"] or "–")
    table.add_row("weights", "averaged (EMA), raw ones beside them" if content["ema"] else "raw, no EMA")
    table.add_row("elements", f"{content['total']:,}")
    for name, count in content["parameters"].items():
        table.add_row(f"  {escape(name)}", f"{count:,}")
    table.add_row("optimizer states", str(content["optimizers"]))
    for name, value in content["metrics"].items():
        table.add_row(escape(name), f"{value:.5g}")
    for name in content["callbacks"]:
        table.add_row("callback", escape(name))
    Console().print(table)
