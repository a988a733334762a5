"""Run the benchmarks: ``python -m benchmarks [--only NAME …] [--quick] [--peer NAME=PATH …]``.

Each checks agreement before it times anything, prints a table, and sets its ratios beside their targets. The exit code
is 1 where a measured goal is missed, 2 for wrong use. Goals that cannot be measured here (no GPU, no peer named) are
listed with the reason. Besides these, some programs measure one thing each: ``python -m benchmarks.tm_score``,
``.store``, ``.ingest``, ``.score``, ``.checkpoint_save``, ``.resilience``.

Peers are checkouts of other projects, imported from the path that you give; the names are those of ``--list``.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from benchmarks.frame import report
from benchmarks.frame.interface import Benchmark, Options, Result, found
from benchmarks.frame.memory import available_bytes
from benchmarks.peers.checkout import PEERS

FEWEST_ROUNDS = 7


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
    if args.rounds < FEWEST_ROUNDS and not args.quick:
        parser.error(f"--rounds {args.rounds}: at least {FEWEST_ROUNDS}, or --quick")
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
    results = _run(chosen, options, args.budget_minutes)
    goals = {name: result.goals for name, result in results.items()}
    if any(goals.values()):
        print("\n" + report.goal_table(goals))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        report.write_json(args.out / "benchmarks.json", about, results)
        plots = report.write_plots(args.out, results)
        print("\nwritten: " + ", ".join(map(str, [args.out / "benchmarks.json", *plots])))
    return int(any(goal.met is False for group in goals.values() for goal in group))


def _run(chosen: list[Benchmark], options: Options, budget_minutes: float) -> dict[str, Result]:
    ends = time.monotonic() + 60 * budget_minutes
    results = {}
    for place, benchmark in enumerate(chosen):
        left = sum(b.share for b in chosen[place:])
        until = time.monotonic() + (ends - time.monotonic()) * benchmark.share / left
        print(f"\n{benchmark.name}: {benchmark.about}", flush=True)
        started = time.monotonic()
        results[benchmark.name] = result = benchmark.run(Options(**vars(options) | {"until": until}))
        print(report.table(result))
        print(
            "".join(f"{note}\n" for note in result.notes) + f"{time.monotonic() - started:.0f} s", flush=True
        )
    return results


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
        "--rounds", type=int, default=FEWEST_ROUNDS, help="rounds of each comparison (7, the fewest)"
    )
    parser.add_argument("--device", help="cpu or cuda (cuda where there is one)")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled forms out")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=PATH", help="a checkout of another project"
    )
    parser.add_argument("--out", type=Path, help="folder for benchmarks.json and the plots over L")
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
