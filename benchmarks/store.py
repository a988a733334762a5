"""How a store behaves at size: build, open, memory, random access.

``python -m benchmarks.store [--chains 200000] [--reads 10000] [--out FOLDER] [--json]``

Chains are synthetic, with lengths as in CATH (log-normal, median 200). Each figure of reading is taken in a process
of its own; "cold" after the store's pages were dropped from the page cache (Linux), median of three.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minifold_pl.constants import AMINO_ACIDS
from minifold_pl.data.records import ChainRecord
from minifold_pl.data.store import ChainStore, write_store

MEDIAN_LENGTH, SPREAD, LONGEST = 200, 0.5, 1500
REPEATS = 3


def chains(count: int, seed: int = 0) -> Iterator[ChainRecord]:
    """Synthetic chains; pieces of one long random walk, so that making them costs little."""
    rng = np.random.default_rng(seed)
    pool = np.cumsum(rng.normal(0, 2.2, (200_000, 4, 3)), axis=0).astype(np.float32)
    letters = "".join(AMINO_ACIDS[i] for i in rng.integers(20, size=200_000))
    lengths = np.clip(rng.lognormal(np.log(MEDIAN_LENGTH), SPREAD, count), 20, LONGEST).astype(int)
    starts = rng.integers(0, 200_000 - LONGEST, count)
    for i, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        piece = slice(start, start + length)
        yield ChainRecord(
            name=f"{i:07d}.A",
            sequence=letters[piece],
            coords=pool[piece],
            cath=(f"{1 + i % 4}.{10 * (1 + i % 9)}.{i % 1200}",),
            split=("train", "train", "train", "validation", "test")[i % 5],
            cluster=f"c{i // 3}",
            representative=i % 3 == 0,
        )


def read(path: Path, reads: int, cold: bool) -> dict[str, float]:
    """Open a store and read chains in random order."""
    if cold:
        for file in path.iterdir():
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
    before = resident()
    started = time.perf_counter()
    store = ChainStore.open(path)
    opened = time.perf_counter()
    after_open = resident()
    order = np.random.default_rng(1).permutation(len(store))[:reads].tolist()
    begun = time.perf_counter()
    total = 0.0
    for chain in order:
        total += float(store.coords(chain)[-1, 1, 0]) + int(store.tokens(chain)[0]) + len(store.name(chain))
        np.array(store.coords(chain))
    finished = time.perf_counter()
    for chain in order:
        store.check(chain)
    checked = time.perf_counter()
    store.indices("train")
    store.architectures  # noqa: B018 - the work is in asking
    labelled = time.perf_counter()
    return {
        "open_s": opened - started,
        "open_MB": after_open - before,
        "read_s": finished - begun,
        "check_s": checked - finished,
        "labels_s": labelled - checked,
        "read_MB": resident() - after_open,
    }


def resident() -> float:
    """Resident memory of this process, MB; mapped pages of the store count."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Build one store, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chains", type=int, default=200_000)
    parser.add_argument("--reads", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="keep the store here, or use the one that is there")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--read", choices=("cold", "warm"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        print(json.dumps(read(args.out, args.reads, args.read == "cold")))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = args.out or Path(folder) / "store"
        figures: dict[str, float] = {"chains": args.chains, "reads": args.reads}
        if not path.exists():
            started = time.perf_counter()
            write_store(path, chains(args.chains))
            figures["build_s"] = time.perf_counter() - started
            figures["build_peak_MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        figures["store_MB"] = sum(file.stat().st_size for file in path.iterdir()) / 1e6
        for state in ("cold", "warm"):
            command = [sys.executable, "-m", "benchmarks.store", "--read", state, "--out", str(path)]
            command += ["--reads", str(args.reads)]
            runs = [
                json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
                for _ in range(REPEATS)
            ]
            figures |= {f"{state}_{key}": statistics.median(run[key] for run in runs) for key in runs[0]}
    print(
        json.dumps(figures, indent=1)
        if args.json
        else "\n".join(f"{k:<16}{v:>14,.3f}" for k, v in figures.items())
    )


if __name__ == "__main__":
    main()
