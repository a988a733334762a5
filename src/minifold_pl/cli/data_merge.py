"""``minifold-pl data merge``: stores made in parts to one."""

from __future__ import annotations

import argparse
import time
from typing import Any

_DESCRIPTION = """\
Put the stores of `data prepare --shard K/N`, for K = 1…N, together: the result is the store that one run without
--shard makes, byte for byte. Shards of files that were not the same for all of them are refused. Other stores are
put together as they are given; their chains' names must differ.
One store of the earlier format is converted.
"""


def add_parser(commands: Any) -> None:
    """Add ``data merge``."""
    parser = commands.add_parser(
        "merge", help="put stores made in parts together", description=_DESCRIPTION, allow_abbrev=False
    )
    parser.add_argument("stores", metavar="D", nargs="+", help="stores to put together")
    parser.add_argument("--out", required=True, metavar="D", help="store to make")
    parser.add_argument("--overwrite", action="store_true", help="replace a store that is there")
    parser.set_defaults(work=_work)


def _work(args: argparse.Namespace) -> int:
    from minifold_pl.data.prepare_report import join_shards
    from minifold_pl.data.shards import merge_stores

    started = time.monotonic()
    done = merge_stores(args.out, args.stores, overwrite=args.overwrite, join=join_shards)
    for note in done.notes:
        print(note)
    if done.duplicates:
        print(f"{len(done.duplicates):,} chains left out whose names earlier shards have")
    print(
        f"{done.chains:,} chains of {len(args.stores)} stores in {args.out}, {time.monotonic() - started:.1f} s"
    )
    return 0
