"""``minifold-pl ckpt``: what a checkpoint holds, whether it is whole, what two have different, its weights alone."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minifold_pl.cli.errors import UserError
from minifold_pl.cli.generation import positive, told_to_the_user


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
    show.set_defaults(run=_run_show)
    diff = commands.add_parser(
        "diff",
        help="where two checkpoints differ: keys, shapes, values by module, optimizer, loops",
        description="Compare two checkpoints, tensor by tensor and value by value.",
    )
    diff.add_argument("first", type=Path, metavar="FIRST", help="a checkpoint")
    diff.add_argument("second", type=Path, metavar="SECOND", help="another one")
    diff.add_argument(
        "--depth",
        type=positive,
        default=1,
        metavar="N",
        help="name parts that make a module: 1 (default) for denoiser, 2 for denoiser.blocks …",
    )
    diff.add_argument("--exit-code", action="store_true", help="end with 1 where anything differs")
    diff.set_defaults(run=_run_diff)
    verify = commands.add_parser(
        "verify",
        help="whether checkpoints are whole, and which one a run would go on from",
        description=(
            "Check every byte of checkpoints against their checksums, and that they hold plain state alone; nothing "
            "in them is run. Ends with 1 if one is damaged, or carries code."
        ),
    )
    verify.add_argument(
        "path",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="checkpoints, or folders of them such as a run folder",
    )
    verify.set_defaults(run=_run_verify)
    for command in (show, diff, verify):
        command.add_argument("--json", action="store_true", help="print JSON")
    export = commands.add_parser(
        "export",
        help="the weights alone, as .safetensors or .pt",
        description="Write the weights and the model's config, without the training state.",
    )
    export.add_argument("path", type=Path, metavar="PATH", help="a checkpoint")
    export.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="ends in .safetensors, .pt or .ckpt"
    )
    export.add_argument(
        "--weights", choices=("ema", "raw"), default="ema", help="averaged weights (default) or the raw ones"
    )
    export.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    export.set_defaults(run=_run_export)
    return parser


def _run_show(args: argparse.Namespace) -> int:
    from minifold_pl.checkpoint.contents import load_unverified, summary, verify
    from minifold_pl.cli.ckpt_tables import show_summary
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
        show_summary(content)
    return 0


def _run_diff(args: argparse.Namespace) -> int:
    from minifold_pl.checkpoint.contents import load_unverified, verify
    from minifold_pl.checkpoint.differences import differences
    from minifold_pl.cli.ckpt_tables import show_differences
    from minifold_pl.export.manifest import manifest_text

    loaded = []
    for path in (args.first, args.second):
        with told_to_the_user():
            verify(path)
            loaded.append(load_unverified(path, mmap=True))
    found = differences(*loaded, depth=args.depth)
    if args.json:
        content = {"first": str(args.first), "second": str(args.second), "same": found.same, **asdict(found)}
        print(manifest_text("ckpt diff", content), end="")
    else:
        show_differences(str(args.first), str(args.second), found)
    return 1 if args.exit_code and not found.same else 0


def _run_verify(args: argparse.Namespace) -> int:
    from minifold_pl.checkpoint.newest import find_newest
    from minifold_pl.cli.ckpt_tables import show_verified
    from minifold_pl.export.manifest import manifest_text

    results: list[dict[str, Any]] = []
    newest: dict[str, str | None] = {}
    for path in args.path:
        paths = [path]
        if path.is_dir():
            paths = sorted(path.rglob("*.ckpt"))
            if not paths:
                raise UserError(f"there is no checkpoint (*.ckpt) in {path}", exit_code=2)
            for folder in dict.fromkeys(p.parent for p in paths):
                found = find_newest(folder).path
                newest[str(folder)] = None if found is None else found.name
        for checkpoint in paths:
            results.append(_verified(checkpoint))
    if args.json:
        print(manifest_text("ckpt verify", {"checkpoints": results, "newest": newest}), end="")
    else:
        show_verified(results, newest)
    return 0 if all(result["plain"] for result in results) else 1


def _verified(path: Path) -> dict[str, Any]:
    """Whether its bytes are whole, and, if so, whether they are plain state."""
    from minifold_pl.checkpoint.contents import CheckpointError, load_unverified, verify

    told: dict[str, Any] = {"path": str(path), "whole": False, "plain": False}
    try:
        told |= {"whole": True, **asdict(verify(path))}
        # Sound checksums say nothing of what the bytes are: whoever makes a file that carries code can make them too.
        load_unverified(path, mmap=True)
    except CheckpointError as error:
        return {**told, "error": str(error)}
    return {**told, "plain": True}


def _run_export(args: argparse.Namespace) -> int:
    from minifold_pl.checkpoint.contents import read_checkpoint
    from minifold_pl.checkpoint.export import SUFFIXES, export_weights

    out: Path = args.out
    if out.suffix not in SUFFIXES:
        raise UserError(f"--out {out} ends in none of {', '.join(SUFFIXES)}", exit_code=2)
    if out.exists() and (out.is_dir() or not args.overwrite):
        raise UserError(f"--out {out} is there already: give another name, or --overwrite", exit_code=2)
    # A checkpoint that is not there is told of below.
    if out.exists() and args.path.exists() and out.samefile(args.path):
        raise UserError("--out is the checkpoint itself: its training state would be lost", exit_code=2)
    try:
        with told_to_the_user():
            count = export_weights(read_checkpoint(args.path), out, args.weights)
    except OSError as error:
        raise UserError(f"cannot write --out {out}: {error.strerror or error}") from error
    print(f"{out}: {count} tensors, {out.stat().st_size:,} bytes")
    return 0
