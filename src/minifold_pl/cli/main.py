"""``minifold-pl``: one program, its commands loaded when they are used."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

import minifold_pl
from minifold_pl.cli.allocator import return_large_blocks
from minifold_pl.cli.errors import UserError
from minifold_pl.cli.threads import wait_without_spinning
from minifold_pl.launch.ranks import leave_after_the_first
from minifold_pl.run import exit_codes
from minifold_pl.run.halt import RunEnded
from minifold_pl.run.stop import RunInterrupted, ignore, listen_for_good, listening

LIGHTNING = {
    "fit": "train a model; on the folder of a run it goes on with that run",
    "validate": "losses and metrics on the validation split",
    "test": "losses and metrics on the test split",
    "predict": "draw a structure for every chain of a split",
}
COMMANDS = (
    "submit", "status", "stop", "logs",
    "data", "sample", "evaluate", "score", "diagnose", "plot", "report", "describe", "ckpt",
)  # fmt: skip
"""Modules of this package with ``add_parser(subparsers)``; each parser's default ``run`` does the work."""

EPILOG = """\
start here:
  minifold-pl fit --config quickstart.yaml      five minutes on a CPU, no data needed
  minifold-pl fit --config contact.yaml --data.path STORE
  minifold-pl fit --config v13.yaml --data.path STORE --model.init_args.encoder_ckpt CKPT

each command has its own --help; fit --help lists every setting
"""


def build_parser() -> argparse.ArgumentParser:
    """The top parser; imports nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="minifold-pl",
        description=minifold_pl.__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"minifold-pl {minifold_pl.__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in LIGHTNING.items():
        subparsers.add_parser(name, help=text, add_help=False)
    for name in COMMANDS:
        import_module(f"minifold_pl.cli.{name}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments without the program's name; those of the process where None.

    Returns:
        0 done, 1 failed, 2 wrong use; of a run also those of :mod:`minifold_pl.run.exit_codes`.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [a for a in args if a != "--debug"]
    wait_without_spinning()
    try:
        return _dispatch(args)
    except UserError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as stop:
        # How argument parsers end after --help, and after a usage error.
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except RunInterrupted as stop:
        print(f"stopped by {stop.name}; the same command goes on with the run", file=sys.stderr)
        return exit_codes.INTERRUPTED if stop.name == "SIGINT" else exit_codes.RETRY
    except RunEnded as end:
        print(f"{end.heading}: {end.reason}", file=sys.stderr)
        return end.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough of it, as `head` does.
        sys.stderr.close()
        return 0


def _dispatch(args: list[str]) -> int:
    if args and args[0] == "fit":
        with listening():
            return _lightning(args)
    if args and args[0] in LIGHTNING:
        return _lightning(args)
    parser = build_parser()
    parsed, rest = parser.parse_known_args(args)
    if rest and not getattr(parsed, "takes_rest", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    parsed.rest = rest
    return int(parsed.run(parsed))


def _lightning(args: list[str]) -> int:
    return_large_blocks()
    return import_module("minifold_pl.cli.lightning_cli").run(args)


def entry_point() -> None:
    """The console script."""
    if sys.argv[1:2] != ["fit"]:
        sys.exit(main())
    listen_for_good()
    code = main()
    ignore()
    leave_after_the_first(code)
    sys.exit(code)
