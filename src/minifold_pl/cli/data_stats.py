"""``minifold-pl data stats``: what is in a store."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_parser(commands: Any) -> None:
    """Add ``data stats``."""
    parser = commands.add_parser("stats", help="counts, lengths, labels, leakage between splits")
    parser.add_argument("store", metavar="D", help="a store")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(work=_work)


def _work(args: argparse.Namespace) -> int:
    from minifold_pl.data.stats import stats_table, store_stats
    from minifold_pl.data.store import ChainStore

    stats = store_stats(ChainStore.open(args.store))
    print(json.dumps(stats.as_dict(), indent=1) if args.json else stats_table(stats))
    return 0
