"""``minifold-pl data stats``: what is in a store."""

from __future__ import annotations

import argparse
import json
from typing import Any

from minifold_pl.cli.errors import UserError
from minifold_pl.cli.progress import progress

_DESCRIPTION = """\
Counts, lengths, missing atoms, breaks, labels, and what one split gives away of another. Similar sequences across
splits are looked for with mmseqs2 where it is installed, else by shared words; every pair is aligned exactly.
"""


def add_parser(commands: Any) -> None:
    """Add ``data stats``."""
    parser = commands.add_parser(
        "stats",
        help="counts, lengths, labels, leakage between splits",
        description=_DESCRIPTION,
        allow_abbrev=False,
    )
    parser.add_argument("store", metavar="D", help="a store")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--leakage", choices=("auto", "yes", "no"), default="auto",
        help="look for similar sequences across splits (auto: where that takes a few minutes at most)",
    )  # fmt: skip
    parser.add_argument(
        "--identity",
        type=float,
        default=0.4,
        metavar="X",
        help="share of identical residues to look for (0.4)",
    )
    parser.add_argument(
        "--max-length", type=int, action="append", default=[], metavar="L",
        help="count what crops of L residues leave out",
    )  # fmt: skip
    parser.add_argument("--check", action="store_true", help="compare the checksums of all files first")
    parser.set_defaults(work=_work)


def _work(args: argparse.Namespace) -> int:
    from minifold_pl.data.crops import crop_losses
    from minifold_pl.data.leakage import QUICK, search_size, similar_pairs
    from minifold_pl.data.stats import stats_table, store_stats
    from minifold_pl.data.store import ChainStore
    from minifold_pl.data.structure_content import plain

    if not 0.0 < args.identity <= 1.0:
        raise UserError(f"--identity {args.identity}: give a share above 0, at most 1", exit_code=2)
    if short := [length for length in args.max_length if length < 1]:
        raise UserError(f"--max-length {short[0]}: give at least 1 residue", exit_code=2)
    store = ChainStore.open(args.store)
    if args.check:
        store.verify()
    if not len(store):
        raise ValueError(
            f"store {args.store} has no chain; a part that `data merge` puts together with others"
        )
    similar = None
    if args.leakage == "yes" or (args.leakage == "auto" and search_size(store) <= QUICK):
        similar = similar_pairs(store, identity=args.identity, progress=progress)
    crops = [crop_losses(store, length) for length in args.max_length]
    stats = store_stats(store, similar=similar, crops=crops)
    if args.json:
        print(json.dumps(stats.as_dict(), indent=1))
    else:
        print("\n".join(map(plain, stats_table(stats).split("\n"))))
    return 0
