"""``minifold-pl status``: where runs stand."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minifold_pl.cli.errors import UserError

if TYPE_CHECKING:
    from minifold_pl.launch.status import Report

_NARROW = 160
"""Columns of output that goes to no terminal."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "status",
        help="where runs stand: state, jobs, restarts and why, step, time left, best score",
        description=(
            "Where runs stand. The folder, the owner's heartbeat and the scheduler are asked; nothing is written. "
            "Without RUN: all runs below --root that are not over."
        ),
    )
    parser.add_argument("run_folders", type=Path, nargs="*", metavar="RUN", help="run folders")
    parser.add_argument("--all", action="store_true", help="all runs below --root, also those that are over")
    parser.add_argument(
        "--root", type=Path, default=Path("runs"), metavar="DIR", help="where runs lie (default: runs)"
    )
    parser.add_argument(
        "--events",
        type=_count,
        default=8,
        metavar="N",
        help="last events that are shown of one run (default 8)",
    )
    parser.add_argument(
        "--watch",
        type=_seconds,
        nargs="?",
        const=10.0,
        metavar="SECONDS",
        help="again and again, every 10 s or so many, until all runs are over",
    )
    parser.add_argument("--json", action="store_true", help="print JSON; with --watch one line each time")
    parser.set_defaults(run=_run)
    return parser


def _run(args: argparse.Namespace) -> int:
    from minifold_pl.launch.status import OVER, State, find_runs, reports

    if args.run_folders and args.all:
        raise UserError("give run folders or --all, not both", exit_code=2)

    def look() -> list[Report]:
        paths = chosen_runs(args.run_folders)
        if args.run_folders:
            return list(reports(paths, last_events=args.events))
        if not args.root.is_dir():
            raise UserError(
                f"--root {args.root} is no folder: name the run folder, or where runs lie", exit_code=2
            )
        found = list(reports(find_runs(args.root), last_events=args.events if args.json else 0))
        return found if args.all else [one for one in found if one.state not in (State.DONE, State.STOPPED)]

    if args.watch is not None:
        return _watch(args, look, OVER)
    _show(args, look())
    return 0


def chosen_runs(paths: list[Path]) -> list[Path]:
    """Folders of runs as they were typed.

    Raises:
        UserError: One of them is none.
    """
    from minifold_pl.launch.status import is_run

    for path in paths:
        if not path.is_dir():
            raise UserError(f"there is no folder {path}", exit_code=2)
        if not is_run(path):
            raise UserError(
                f"{path} is no run folder: no training was started or submitted there", exit_code=2
            )
    return paths


def _show(args: argparse.Namespace, found: list[Report]) -> None:
    from rich.console import Console

    if args.json:
        print(_json(found, indent=True), end="")
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_NARROW)
    console.print(_picture(args, found))


def _picture(args: argparse.Namespace, found: list[Report]) -> Any:
    from rich.console import Group
    from rich.text import Text

    from minifold_pl.cli.status_tables import one_run, several_runs

    if len(found) == 1 and args.run_folders:
        return one_run(found[0])
    if found:
        return several_runs(found)
    what = "no run" if args.all else "no run that is not over (--all shows the others)"
    return Group(Text(f"{what} below {args.root}"))


def _watch(args: argparse.Namespace, look: Any, over: Any) -> int:
    from contextlib import nullcontext
    from time import sleep

    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    live = console.is_terminal and not args.json
    with Live(console=console, auto_refresh=False) if live else nullcontext() as screen:
        while True:
            found = look()
            if screen is not None:
                screen.update(_picture(args, found), refresh=True)
            elif args.json:
                print(_json(found, indent=False), end="", flush=True)
            else:
                _show(args, found)
            if all(one.state in over for one in found):
                return 0
            sleep(args.watch)


def _json(found: list[Report], *, indent: bool) -> str:
    import json

    from minifold_pl.export.manifest import manifest_text

    content = {"runs": [as_plain(one) for one in found]}
    text = manifest_text("status", content)
    return text if indent else json.dumps(json.loads(text), ensure_ascii=False) + "\n"


def as_plain(report: Report) -> dict[str, Any]:
    """A report as JSON knows it."""
    content = asdict(report)
    told = report.progress
    content |= {
        "path": str(report.path),
        "restarts": report.restarts,
        "progress": {**content["progress"], "seconds_left": told.seconds_left},
    }
    for job in content["jobs"]:
        job |= {name: None if job[name] is None else job[name].isoformat() for name in ("start", "end")}
    return content


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0.2 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not at least 0.2 s")
    return number
