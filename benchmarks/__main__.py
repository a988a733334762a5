"""Run the benchmarks: ``python -m benchmarks [--only NAME …] [--quick] [--peer NAME=PATH …]``.

Each checks agreement before it times anything, prints a table, and sets its ratios beside their targets. Goals that
cannot be measured here (no GPU, no peer named) are listed with the reason. One that fails does not keep the others from
being measured, and what was measured is written after each.

Exit code: 0 every measured goal is met, 1 a goal is missed, 2 wrong use, 3 a benchmark failed, or its figures could not
be written (whatever the goals say).

Besides these, some programs measure one thing each: ``python -m benchmarks.tm_score``, ``.store``, ``.ingest``,
``.score``, ``.checkpoint_save``, ``.resilience``.

Peers are checkouts of other projects, imported from the path that you give; the names are those of ``--list``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.frame import report
from benchmarks.frame.interface import Benchmark, Options, Result, found
from benchmarks.frame.memory import available_bytes
from benchmarks.peers.checkout import PEERS

FEWEST_ROUNDS = 7
MISSED, FAILED = 1, 3
"""Exit codes."""
FIGURES = "benchmarks.json"


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    benchmarks = found()
    if args.list:
        _list(benchmarks)
        return 0
    unknown = [name for name in args.only if name not in benchmarks]
    if unknown:
        parser.error(f"--only {' '.join(unknown)}: there is {', '.join(benchmarks)}")
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: at least 1 with --quick, else at least {FEWEST_ROUNDS}")
    if args.rounds < FEWEST_ROUNDS and not args.quick:
        parser.error(f"--rounds {args.rounds}: at least {FEWEST_ROUNDS}, or --quick")
    if args.out:
        _make(parser, args.out)
    peers = _peers(parser, args.peer)
    device = _device(parser, args.device)
    torch.set_num_threads(1)
    options = Options(
        device=device,
        rounds=args.rounds,
        quick=args.quick,
        compiled=not args.no_compile,
        memory_cap=args.memory_gb * 1e9 if args.memory_gb else available_bytes(device) / 2,
        peers=peers,
    )
    chosen = [benchmarks[name] for name in args.only or benchmarks]
    about = report.machine(options)
    print(
        f"{about.get('gpu', about['cpu'])}, torch {about['torch']}, {about['threads']} thread(s)", flush=True
    )
    results: dict[str, Result] = {}
    failed: dict[str, str] = {}

    def keep() -> None:
        if args.out:
            report.write_json(args.out / FIGURES, about, results, failed)

    _run(chosen, options, args.budget_minutes, results, failed, keep)
    goals = {name: result.goals for name, result in results.items()}
    if any(goals.values()):
        print("\n" + report.goal_table(goals))
    unwritten = bool(args.out) and not _written(args.out, about, results, failed)
    for name, error in failed.items():
        print(f"\nFAILED  {name}: {error}")
    if failed or unwritten:
        return FAILED
    return MISSED if any(goal.met is False for group in goals.values() for goal in group) else 0


def _run(
    chosen: list[Benchmark],
    options: Options,
    budget_minutes: float,
    results: dict[str, Result],
    failed: dict[str, str],
    keep: Callable[[], None],
) -> None:
    """Fill ``results`` and ``failed`` one by one, each followed by ``keep``."""
    ends = time.monotonic() + 60 * budget_minutes
    for place, benchmark in enumerate(chosen):
        left = sum(b.share for b in chosen[place:])
        until = time.monotonic() + (ends - time.monotonic()) * benchmark.share / left
        print(f"\n{benchmark.name}: {benchmark.about}", flush=True)
        started = time.monotonic()
        try:
            result = benchmark.run(Options(**vars(options) | {"until": until}))
            print(report.table(result))
            results[benchmark.name] = result
            notes = "".join(f"{note}\n" for note in result.notes)
        except Exception as error:  # whatever it is, it is this one's: the others are still to be measured
            traceback.print_exc()
            failed[benchmark.name] = f"{type(error).__name__}: {error}"
            notes = f"{benchmark.name} failed: {failed[benchmark.name]}\n"
        print(f"{notes}{time.monotonic() - started:.0f} s", flush=True)
        try:
            keep()
        except OSError as error:
            print(f"not written yet: {error}", file=sys.stderr, flush=True)


def _written(
    folder: Path, about: Mapping[str, Any], results: dict[str, Result], failed: dict[str, str]
) -> bool:
    """Write figures and plots; whether that went well."""
    try:
        report.write_json(folder / FIGURES, about, results, failed)
        plots = report.write_plots(folder, results)
    except OSError as error:
        print(f"\n--out {folder}: cannot be written: {error}", file=sys.stderr)
        return False
    print("\nwritten: " + ", ".join(map(str, [folder / FIGURES, *plots])))
    return True


def _make(parser: argparse.ArgumentParser, folder: Path) -> None:
    """The folder for the results, before hours of measuring are spent on them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        parser.error(f"--out {folder}: cannot be written to: {error.strerror or error}; name another folder")
    if (folder / FIGURES).is_dir():
        parser.error(f"--out {folder}: {FIGURES} in it is a folder; name another one")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="what there is, and which peers it knows")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="run this one; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="a few small cells instead of the grid")
    parser.add_argument(
        "--budget-minutes", type=float, default=60, help="larger cells are left out when it is spent (60)"
    )
    parser.add_argument(
        "--memory-gb", type=float, help="larger cells are left out (half of what is free at the start)"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=FEWEST_ROUNDS,
        help="rounds of each comparison (7, the fewest without --quick)",
    )
    parser.add_argument("--device", help="cpu or cuda (cuda where there is one)")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled forms out")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=PATH", help="a checkout of another project"
    )
    parser.add_argument(
        "--out", type=Path, help="folder for benchmarks.json and the plots over L; made first"
    )
    return parser


def _list(benchmarks: dict[str, Benchmark]) -> None:
    width = max(map(len, benchmarks))
    for benchmark in benchmarks.values():
        print(f"{benchmark.name:<{width}}  {benchmark.about}")
    print("\npeers: " + ", ".join(PEERS))


def _peers(parser: argparse.ArgumentParser, given: list[str]) -> dict[str, Path]:
    peers = {}
    for entry in given:
        name, equals, path = entry.partition("=")
        if not equals or name not in PEERS:
            parser.error(f"--peer {entry}: give NAME=PATH with NAME one of {', '.join(PEERS)}")
        if not Path(path).is_dir():
            parser.error(f"--peer {entry}: {path} is no folder")
        peers[name] = Path(path).resolve()
    return peers


def _device(parser: argparse.ArgumentParser, asked: str | None) -> torch.device:
    there = torch.cuda.is_available()
    if asked not in (None, "cpu", "cuda"):
        parser.error(f"--device {asked}: cpu or cuda")
    if asked == "cuda" and not there:
        parser.error("--device cuda: torch finds no CUDA device here")
    return torch.device(asked or ("cuda" if there else "cpu"))


if __name__ == "__main__":
    sys.exit(main())
