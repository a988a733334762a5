"""``minifold-pl data``: make stores of chains, and look into them."""

from __future__ import annotations

import argparse
import time
from typing import Any

from minifold_pl.cli import data_embed, data_fetch, data_merge, data_prepare, data_show, data_stats
from minifold_pl.cli.errors import UserError


def add_parser(subparsers: Any) -> None:
    """Add ``data synth | fetch | prepare | merge | embed | stats | show``."""
    parser = subparsers.add_parser("data", help="make or inspect a store of protein chains")
    commands = parser.add_subparsers(dest="data_command", metavar="COMMAND", required=True)

    synth = commands.add_parser(
        "synth",
        help="make the synthetic set",
        description="Make synthetic, physically sound chains whose sequence determines their fold.",
    )
    synth.add_argument("--out", required=True, metavar="D", help="store to make")
    synth.add_argument("--n", type=int, help="number of chains")
    synth.add_argument("--seed", type=int, help="the same seed makes the same chains")
    synth.add_argument("--folds", type=int, help="number of folds")
    synth.add_argument("--min-length", type=int, help="shortest chain, residues")
    synth.add_argument("--max-length", type=int, help="longest chain, residues")
    synth.add_argument("--overwrite", action="store_true", help="replace a store that is there")

    synth.set_defaults(work=_synth)
    for module in (data_fetch, data_prepare, data_merge, data_embed, data_stats, data_show):
        module.add_parser(commands)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the chosen command; 0 when done.

    Raises:
        UserError: the source, the store or an option is at fault.
    """
    try:
        return int(args.work(args))
    except ValueError as error:
        raise UserError(str(error)) from error
    except BrokenPipeError:  # whoever reads what is printed has seen enough
        raise
    except OSError as error:
        out = getattr(args, "out", None)  # the commands that write have it
        left = "; " + getattr(args, "left", "nothing was left behind") if out else ""
        raise UserError(f"{error.filename or out or args.store}: {error.strerror or error}{left}") from error


def _synth(args: argparse.Namespace) -> int:
    from minifold_pl.data.datamodule import write_synthetic
    from minifold_pl.data.synthetic import SyntheticConfig

    names = ("n", "seed", "folds", "min_length", "max_length")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    started = time.monotonic()
    count = write_synthetic(args.out, SyntheticConfig(**given), overwrite=args.overwrite)
    print(f"{count:,} synthetic chains in {args.out}, {time.monotonic() - started:.1f} s")
    return 0
