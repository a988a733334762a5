"""``minifold-pl data prepare``: what users have into a store."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minifold_pl.cli.errors import UserError
from minifold_pl.cli.progress import progress

if TYPE_CHECKING:
    from minifold_pl.data.prepare import PrepareSettings

_PROBLEMS_SHOWN = 20
_DESCRIPTION = """\
Read structure files, a chain set or a table of sequences into a store, and say what became of each of them.

SRC is PDB and mmCIF files or folders of them (plain or gzipped, told by content), or one chain_set.jsonl[.gz], or
one table of sequences (tsv or FASTA). A run that was killed goes on when the same command is given again. Structure
files are added to a store that was made of others with the same settings; files that it has are not read again, and
chains stay in the splits that were made for them.
"""
_EPILOG = """\
examples:
  minifold-pl data prepare pdbs/ --out STORE --split-by cluster
  minifold-pl data prepare pdbs/ --out STORE --cath-domains cath-domain-list.txt --split-by topology
  minifold-pl data prepare chain_set.jsonl --out STORE --splits chain_set_splits.json
  minifold-pl data prepare cath_seq.tsv.gz --out SEQUENCES --exclude STORE    for pretraining
  minifold-pl data prepare pdbs/ --out STORE.3 --shard 3/8    then: minifold-pl data merge STORE.* --out STORE
"""


def add_parser(commands: Any) -> None:
    """Add ``data prepare``."""
    parser = commands.add_parser(
        "prepare",
        help="read structure files or a chain set into a store",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="SRC", nargs="+", help="structure files, folders, or one chain set")
    parser.add_argument("--out", required=True, metavar="D", help="store to make, or to add to")
    parser.add_argument("--overwrite", action="store_true", help="replace a store that is there")
    parser.add_argument(
        "--min-length", type=int, metavar="L", help="fewest residues, and fewest observed Cα, of a chain"
    )
    parser.add_argument(
        "--min-complete",
        type=float,
        metavar="X",
        help="least share of a structure file's residues that have N, Cα and C (default 0.95)",
    )
    splits = parser.add_argument_group("splits")
    splits.add_argument(
        "--splits",
        metavar="F",
        help="JSON of train, validation, test (default: chain_set_splits.json beside a chain set, "
        "else the records' own split)",
    )
    splits.add_argument(
        "--split-by",
        choices=("cluster", "topology"),
        help="make splits: by similar sequences or CATH topology",
    )
    splits.add_argument(
        "--fractions",
        type=float,
        nargs=3,
        metavar="X",
        help="shares of train, validation, test (default 0.8 0.1 0.1)",
    )
    splits.add_argument("--seed", type=int, help="of the splits that are made (default 0)")
    held = parser.add_argument_group("held-out chains")
    held.add_argument(
        "--exclude",
        type=Path,
        nargs="+",
        action="extend",
        metavar="STORE",
        help="leave out what is related to validation and test chains of these stores, unless it is not trained on",
    )
    held.add_argument(
        "--exclude-identity", type=float, metavar="X", help="share of identical residues (default 0.4)"
    )
    held.add_argument(
        "--exclude-topology",
        choices=("all", "unseen", "none"),
        help="all CATH topologies of these chains (default), those unseen in the stores' training, or none",
    )
    labels = parser.add_argument_group("CATH labels")
    labels.add_argument(
        "--cath-domains",
        metavar="F",
        nargs="+",
        action="extend",
        help="CATH's lists: domain list (CLF), domain boundaries (CDF), cath-b; plain or gzipped",
    )
    labels.add_argument(
        "--domains", action="store_true", help="keep the chains' domains instead of the chains"
    )
    work = parser.add_argument_group("work")
    work.add_argument(
        "--shard", metavar="K/N", help="only the K-th of N parts; `data merge` joins the stores"
    )
    work.add_argument(
        "--processes", type=int, metavar="N", help="read by N processes (default: all processors)"
    )
    work.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        help="give a file up after S seconds and one a megabyte (default 30)",
    )
    left = "no store was written; given again, the command goes on from what it has read"
    parser.set_defaults(work=_work, left=left)


def _work(args: argparse.Namespace) -> int:
    from minifold_pl.data.prepare import REPORT_FILE, prepare
    from minifold_pl.data.structure_content import plain

    settings = _settings(args)
    started = time.monotonic()
    report = prepare(args.source, args.out, settings, progress=progress)
    problems = [*report.list_problems, *(p for p in report.problems if p.action != "noted")]
    for problem in problems[:_PROBLEMS_SHOWN]:
        print(plain(str(problem)), file=sys.stderr)
    if (more := len(problems) - _PROBLEMS_SHOWN) > 0:
        print(f"… and {more:,} more, all in {args.out}/{REPORT_FILE}", file=sys.stderr)
    print(report.table())
    there = "there already, made of the same; nothing was done"
    how = there if report.already_there else f"{time.monotonic() - started:.1f} s"
    print(f"store         {args.out}, {how}")
    return 0


def _settings(args: argparse.Namespace) -> PrepareSettings:
    from minifold_pl.data.exclude import Exclusion
    from minifold_pl.data.prepare import PrepareSettings, SplitFractions, parse_shard

    names = ("splits", "split_by", "seed", "min_length", "min_complete", "processes", "timeout")
    given: dict[str, Any] = {name: value for name in names if (value := getattr(args, name)) is not None}
    try:
        if args.seed is not None and args.split_by is None:
            raise ValueError("--seed is of splits that are made here; give --split-by too")
        if args.fractions is not None:
            if args.split_by is None:
                raise ValueError("--fractions are of splits that are made here; give --split-by too")
            train, validation, test = args.fractions
            given["fractions"] = SplitFractions(train=train, validation=validation, test=test)
        if args.cath_domains:
            given["cath_domains"] = tuple(args.cath_domains)
        if args.exclude:
            named = {"topology": args.exclude_topology, "identity": args.exclude_identity}
            asked = {name: value for name, value in named.items() if value is not None}
            given["exclude"] = Exclusion(stores=tuple(args.exclude), **asked)
        elif args.exclude_identity is not None or args.exclude_topology is not None:
            raise ValueError("--exclude-identity and --exclude-topology say how; give --exclude STORE too")
        if args.shard is not None:
            given["shard"] = parse_shard(args.shard)
        return PrepareSettings(**given, domains=args.domains, overwrite=args.overwrite)
    except ValueError as error:
        raise UserError(str(error), exit_code=2) from None
