"""``minifold-pl data fetch``: published data sets, downloaded whole and prepared."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minifold_pl.cli.errors import UserError
from minifold_pl.cli.progress import LINES

_DESCRIPTION = """\
Download the CATH 4.2 chains and splits of Ingraham et al. 2019 (18,024 chains, about 500 MB) into the folder D, and
prepare them into the store D/store. Cut off at any point, the same command goes on where it was. The authors publish
no checksums: give your own by --sha256, or compare what is noted in D/*.sha256.
"""
_STORE = "store"


def add_parser(commands: Any) -> None:
    """Add ``data fetch``."""
    parser = commands.add_parser(
        "fetch",
        help="download a published data set and prepare it",
        description=_DESCRIPTION,
        allow_abbrev=False,
    )
    parser.add_argument("name", choices=("cath42",), help="the data set")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="D", help="folder of the files and the store"
    )
    parser.add_argument("--url", metavar="URL", help="folder of a mirror that has the same files")
    parser.add_argument(
        "--sha256",
        action="append",
        default=[],
        metavar="FILE=HEX",
        help="what a file must have; may be repeated",
    )
    parser.add_argument(
        "--tries", type=int, default=8, metavar="N", help="give up after N failures without progress"
    )
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="seconds without data (default 60)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a store that was made of something else"
    )
    parser.add_argument("--download-only", action="store_true", help="make no store")
    parser.set_defaults(work=_work)


def _work(args: argparse.Namespace) -> int:
    from minifold_pl.data.cath42 import URL, fetch_cath42
    from minifold_pl.data.fetch import FetchError, Patience

    checksums = {}
    for text in args.sha256:
        name, equals, digest = text.partition("=")
        if not equals:
            raise UserError(f"--sha256 {text!r}: give FILE=HEX", exit_code=2)
        checksums[name] = digest
    try:
        patience = Patience(tries=args.tries, timeout=args.timeout)
    except ValueError as error:
        raise UserError(str(error), exit_code=2) from None
    try:
        with _bars() as report:
            done = fetch_cath42(
                args.out, url=args.url or URL, sha256=checksums, patience=patience, report=report, log=_say
            )
    except FetchError as error:
        hint = "" if args.url else "; a mirror's address can be given by --url"
        raise UserError(f"{error}{hint}") from error
    for fetched in (done.splits, done.chain_set):
        what = f"{fetched.bytes:,} bytes" if fetched.downloaded else "there already"
        print(f"{fetched.path}  {what}, sha256 {fetched.sha256}")
    if args.download_only:
        return 0
    from minifold_pl.cli.main import main

    prepare = ["data", "prepare", str(done.chain_set.path), "--splits", str(done.splits.path)]
    return main([*prepare, "--out", str(args.out / _STORE), *["--overwrite"][: args.overwrite]])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _bars() -> Iterator[Callable[[str], Callable[[int, int | None], None]]]:
    """Makes a progress display for a file: a bar on a terminal, sparse lines otherwise."""
    if not sys.stderr.isatty():
        yield _lines
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def bar(name: str) -> Callable[[int, int | None], None]:
            task = bars.add_task(name, total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield bar


def _lines(name: str) -> Callable[[int, int | None], None]:
    started, shown = time.monotonic(), -1

    def report(done: int, total: int | None) -> None:
        nonlocal shown
        step = done * LINES // total if total else done // (50 * 2**20)
        if step != shown:
            shown = step
            whole = f" of {total / 2**20:,.1f}" if total else ""
            seconds = time.monotonic() - started
            _say(f"{name}: {done / 2**20:,.1f}{whole} MiB, {seconds:.0f} s")

    return report
