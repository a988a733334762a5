"""``minifold-pl stop``: end a run for good, cleanly."""

from __future__ import annotations

import argparse
import getpass
import socket
import sys
from pathlib import Path
from typing import Any

from minifold_pl.cli.errors import UserError
from minifold_pl.cli.status import chosen_runs


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "stop",
        help="end a run for good: it saves and leaves, queued jobs are cancelled",
        description=(
            "End runs for good, wherever they are: queued jobs are cancelled, what trains saves at its next step and "
            "leaves, nothing starts them again. Twice does no more than once. Ends with 1 where a run is still there "
            "after --wait; the order stands all the same."
        ),
    )
    parser.add_argument("run_folders", type=Path, nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--reason", default="", metavar="TEXT", help="is kept in the run folder")
    parser.add_argument(
        "--wait",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="for the end (default 120); 0: not at all",
    )
    parser.add_argument(
        "--kill", action="store_true", help="what is there after --wait: steps since its last save are lost"
    )
    parser.set_defaults(run=_run)
    return parser


def _run(args: argparse.Namespace) -> int:
    from minifold_pl.launch.ending import Ending, Outcome, end_run
    from minifold_pl.run.folder import RunFolder
    from minifold_pl.run.marker import read_marker
    from minifold_pl.run.stop_order import told_stopped

    if args.wait < 0:
        raise UserError(f"--wait {args.wait} is negative", exit_code=2)
    code = 0
    for path in chosen_runs(args.run_folders):
        folder = RunFolder(path)
        try:
            ending: Ending = end_run(
                folder,
                by=f"{_user()}@{socket.gethostname()}",
                reason=args.reason,
                wait=args.wait,
                kill=args.kill,
                told=lambda line: print(line, file=sys.stderr, flush=True),
            )
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
        marker = read_marker(folder.marker)
        for job in ending.cancelled:
            print(f"job {job} taken out of the queue")
        for one in ending.killed:
            print(f"{one} killed")
        if ending.scheduler:
            print(
                f"the scheduler does not answer ({ending.scheduler}): jobs that start later leave by themselves"
            )
        match ending.outcome:
            case Outcome.DONE | Outcome.HALTED:
                assert marker is not None
                print(f"{path} is {marker.state}: {marker.reason} (step {marker.step}); nothing to stop")
            case Outcome.ORDERED:
                print(
                    f"{path} is told to stop, and still there: {ending.left or 'a new start'}; it saves and leaves"
                )
                code = 1 if args.wait else code
            case Outcome.STOPPED | Outcome.ALREADY:
                assert ending.order is not None
                where = "" if marker is None else f" at step {marker.step}"
                first, _, rest = told_stopped(folder, ending.order).partition("\n")
                already = "already " if ending.outcome is Outcome.ALREADY else ""
                print(f"{first.replace(' was ', f' was {already}', 1)}{where}\n{rest}")
    return code


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # In containers a user may have no name.
        return "somebody"
