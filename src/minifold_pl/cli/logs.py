"""``minifold-pl logs``: what a run prints, over all its jobs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any, Final

from minifold_pl.cli.errors import UserError
from minifold_pl.cli.status import chosen_runs

if TYPE_CHECKING:
    from minifold_pl.launch.output import Output

_LOOK: Final = 1.0


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "logs",
        help="what a run prints, followed from job to job",
        description="The end of what a run printed last; with -f also what comes, from job to job.",
    )
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on with what comes, until the run is over"
    )
    parser.add_argument(
        "-n", "--lines", type=int, default=20, metavar="N", help="lines of the end (default 20)"
    )
    parser.add_argument("--job", metavar="JOB", help="what this job printed, instead of the last one")
    parser.add_argument("--list", action="store_true", help="the files and their jobs")
    parser.set_defaults(run=_run)
    return parser


def _run(args: argparse.Namespace) -> int:
    from minifold_pl.launch.output import follow, last_lines, outputs
    from minifold_pl.launch.status import OVER, reports
    from minifold_pl.run.folder import RunFolder

    if args.lines < 0:
        raise UserError(f"--lines {args.lines} is negative", exit_code=2)
    (path,) = chosen_runs([args.run_folder])
    folder = RunFolder(path)
    found = outputs(folder)
    if not found and args.follow:
        found = _await_output(path)
    if not found:
        raise UserError(
            f"no output of {path} is kept: it was started by hand, on a terminal, or has not begun; "
            f"`minifold-pl status {path}` says where it stands"
        )
    if args.list:
        for one in found:
            print(f"{one.path}  {_whose(one)}".rstrip())
        return 0
    output = found[-1]
    if args.job is not None:
        fitting = [one for one in found if one.job == args.job]
        if not fitting:
            known = ", ".join(one.job for one in found if one.job)
            raise UserError(
                f"--job {args.job}: no output of it is kept; there is that of {known}", exit_code=2
            )
        output = fitting[-1]
    _head(output)
    text, place = last_lines(output.path, args.lines)
    _write(text)
    if not args.follow:
        return 0

    def over() -> bool:
        (report,) = reports([path], last_events=0)
        return report.state in OVER

    for piece in follow(folder, output, place, over=over):
        if isinstance(piece, bytes):
            _write(piece)
        else:
            _head(piece)
    return 0


def _await_output(path: Path) -> list[Output]:
    """The outputs of a run that waits for its first job, as soon as there is one; none where nothing will come."""
    from minifold_pl.launch.output import outputs
    from minifold_pl.launch.status import ACTIVE, reports
    from minifold_pl.run.folder import RunFolder

    told = False
    while True:
        (report,) = reports([path], last_events=0)
        found = outputs(RunFolder(path))
        if found or report.state not in ACTIVE:
            return found
        if not told:
            print(f"{path} is {report.state}: waiting for its first line", file=sys.stderr, flush=True)
            told = True
        sleep(_LOOK)


def _head(output: Output) -> None:
    """On the other stream: what is piped on is the output alone."""
    whose = _whose(output)
    print(f"==> {output.path}{f' ({whose})' if whose else ''} <==", file=sys.stderr, flush=True)


def _whose(output: Output) -> str:
    job = output.job if output.job.startswith("job ") or not output.job else f"job {output.job}"
    return f"{job} on {output.host}" if job and output.host else job


def _write(text: bytes) -> None:
    sys.stdout.write(text.decode(errors="replace"))
    sys.stdout.flush()
