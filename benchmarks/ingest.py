"""How fast structure files and chain sets become stores, beside gemmi's own parsing.

Run ``python -m benchmarks.ingest``; real files are found through ``MINIFOLD_TEST_DATA`` or in ``../shared/data``.

What is compared, on the same files, in one process each:

- gemmi: ``gemmi.read_structure(path)``, its full parse, whose result is thrown away;
- ``read_structure``: the file's protein chains as arrays;
- the whole way: what a process of ``data prepare`` does from paths to the bytes of chains in a store (checksum of the
  file, chains, checks, packing), in the batches in which it is given files.

Passes over up to 200 files of a kind alternate between the three in one process, so that all see the same state of the
machine; given are medians over the rounds of a processor's time, and the rate against gemmi's. ``data prepare`` as a
command (start of processes, journal, store) is compared with as many processes of gemmi that do nothing but parse.

The target is 0.8 of gemmi's rate, on two mixes, each taken as a whole: the entries as they are found (``raw_cases``,
each file once), and chains of the set exported to both formats. The program ends with 1 where one falls short.

Entries reach it since two thirds of their lines (side chains, waters) are left out before gemmi sees them. Exported
chains hold the backbone alone: every line is parsed by gemmi, as in its own measurement, and what comes after that
is not free. Of a PDB file with 650 atoms (53 kB), in µs on one core of a shared EPYC: gemmi's parse 145, open and
read 9, sha256 30, columns of gemmi's atoms 50, residues and full sequence 110, checks and packing 45, encoding 10:
0.3 to 0.4 of gemmi's rate, where 45 µs in all beside the parse would be 0.8. To read the columns off the text with
numpy instead was measured, and is no faster (200 µs in place of the first and the fourth). As mmCIF such a file
takes gemmi four times as long, and the rate is 0.5 to 0.6. What is there per file also holds back small entries
(PDB below 150 kB: 0.5), and the command itself, which needs a second to start its processes and write a store.

Gzipped files need the extra ``fast`` (isal): Python's zlib takes two to three times as long as the one in gemmi.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import gemmi
import numpy as np

from minifold_pl.data.chain_set import MIN_LENGTH, read_chain_set
from minifold_pl.data.read_source import MIN_COMPLETE, read_files
from minifold_pl.data.records import ChainRecord
from minifold_pl.data.store import ChainStore
from minifold_pl.data.structure_file import StructureFileError, read_structure
from minifold_pl.data.worker_pool import BATCH
from minifold_pl.export.observed import ObservedChain, observed_mmcif_text, observed_pdb_text

ENTRIES = (
    "1y3v.pdb",
    "1ts9.pdb",
    "5ejw.pdb",
    "5ugo.pdb",
    "103l.pdb.gz",
    "2q2k.cif",
    "4zey.cif",
    "7w06.cif",
    "103l.cif",
)
"""Whole entries of the PDB archive, one model each."""
RAW = "raw cases"
EXPORTED = ("backbones, PDB", "backbones, mmCIF")
TARGET = 0.8
"""Of gemmi's rate."""
LARGE = 150_000
"""Bytes, unpacked."""
INGRAHAM_CHAINS = 18_024


def real_data() -> Path:
    """The folder of real chains."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MINIFOLD_TEST_DATA", beside))
    if not (folder / "chain_set.jsonl.gz").is_file():
        sys.exit("no real chains: set MINIFOLD_TEST_DATA to the folder that holds chain_set.jsonl.gz")
    return folder


def make_files(data: Path, folder: Path, chains: int, copies: int) -> dict[str, list[Path]]:
    """Folders of files by kind: copies of whole entries, and exported chains (backbone alone)."""
    raw = [path for path in sorted((data / "raw_cases").iterdir()) if _gemmi_reads(path)]
    sets: dict[str, list[Path]] = {RAW: raw}
    for name in ENTRIES:
        content = (data / "raw_cases" / name).read_bytes()
        if name.endswith(".gz"):
            content = gzip.decompress(content)
        name = name.removesuffix(".gz")
        kind = (
            "mmCIF"
            if name.endswith(".cif")
            else f"PDB {'≥' if len(content) >= LARGE else '<'} {LARGE // 1000} kB"
        )
        packed = gzip.compress(content)
        for copy in range(copies):
            for ending, text in (("", content), (".gz", packed)):
                path = folder / f"{kind}{ending}" / f"{copy:04d}-{name}{ending}"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(text)
                sets.setdefault(path.parent.name, []).append(path)
    records = (r for r in read_chain_set(data / "chain_set.jsonl.gz") if isinstance(r, ChainRecord))
    for record in islice(records, chains):
        chain = ObservedChain(name=record.name, sequence=record.sequence, coords=record.coords)
        for kind, ending, writer in (
            (EXPORTED[0], "pdb", observed_pdb_text),
            (EXPORTED[1], "cif", observed_mmcif_text),
        ):
            path = folder / kind / f"{record.name}.{ending}"
            path.parent.mkdir(exist_ok=True)
            path.write_text(writer(chain))
            sets.setdefault(kind, []).append(path)
    return sets


def _gemmi_reads(path: Path) -> bool:
    try:
        return len(gemmi.read_structure(str(path))) > 0
    except (RuntimeError, ValueError):
        return False


def parse(paths: list[str]) -> None:
    """What gemmi does by itself."""
    for path in paths:
        gemmi.read_structure(path)


def read(paths: list[str]) -> None:
    """One file after the other into its chains."""
    for path in paths:
        with contextlib.suppress(StructureFileError):  # of the raw cases some hold nothing that is read
            read_structure(path)


def ingest(paths: list[str]) -> None:
    """From paths to the bytes of their chains, as a process of ``data prepare`` does it."""
    for start in range(0, len(paths), BATCH):
        read_files([(path, MIN_LENGTH, MIN_COMPLETE, (), False, "") for path in paths[start : start + BATCH]])


def seconds(work: Callable[[list[str]], None], paths: list[str]) -> float:
    """How long a pass over some files takes a processor: whatever else runs here waits elsewhere."""
    started = time.process_time()
    work(paths)
    return time.process_time() - started


def side_by_side(paths: list[str], rounds: int) -> list[float]:
    """Seconds of a pass by gemmi, by ``read_structure``, and the whole way: medians of alternated passes."""
    ways = [parse, read, ingest]
    passes = [[seconds(way, paths) for way in ways] for _ in range(rounds)]
    return [statistics.median(way) for way in zip(*passes, strict=True)]


class PeakMemory:
    """Largest resident memory of a process and its children together, in bytes, sampled."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.peak = 0
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while Path(f"/proc/{self.pid}").exists():
            total = 0
            for pid in self._family(self.pid):
                try:
                    total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page
                except (OSError, IndexError):
                    continue
            self.peak = max(self.peak, total)
            time.sleep(0.05)

    def _family(self, pid: int) -> Iterator[int]:
        yield pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return
        for child in children:
            yield from self._family(int(child))


PARSE: Final = """
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
import gemmi

def parse(path):
    gemmi.read_structure(path)

if __name__ == "__main__":
    folder, processes = sys.argv[1:]
    with ProcessPoolExecutor(int(processes)) as pool:
        list(pool.map(parse, sorted(map(str, Path(folder).iterdir())), chunksize=32))
"""
"""A program that parses a folder and keeps nothing."""


def run_gemmi(folder: Path, processes: int) -> float:
    """Seconds of gemmi alone on as many cores as processes."""
    return run([sys.executable, "-c", PARSE, str(folder), str(processes)], processes)[0]


def run_prepare(sources: list[Path], out: Path, processes: int) -> tuple[float, int]:
    """Seconds and peak memory of ``data prepare`` on as many cores as processes."""
    command = [
        sys.executable,
        "-c",
        "from minifold_pl.cli.main import entry_point; entry_point()",
        "data",
        "prepare",
        *map(str, sources),
    ]
    command += ["--out", str(out), "--processes", str(processes), "--overwrite"]
    return run(command, processes)


def run(command: list[str], processes: int) -> tuple[float, int]:
    """Seconds and peak memory of a program on as many cores as processes."""
    cores = sorted(os.sched_getaffinity(0))[:processes]
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    memory = PeakMemory(process.pid)
    if process.wait() != 0:
        sys.exit(f"failed: {' '.join(command)}")
    return time.monotonic() - started, memory.peak


def repeated_chain_set(data: Path, path: Path, count: int) -> None:
    """A chain set of ``count`` chains: ours, again and again under new names."""
    with gzip.open(data / "chain_set.jsonl.gz", "rt") as source:
        lines = source.read().splitlines()
    with path.open("w") as out:
        for number in range(count):
            line = lines[number % len(lines)]
            if number >= len(lines):
                name = json.loads(line)["name"]
                line = line.replace(json.dumps(name), json.dumps(f"{name}_{number // len(lines)}"), 1)
            out.write(line + "\n")


def _ratios(each: list[float]) -> str:
    parsed, *others = each
    return f"{parsed:>10.3f}" + "".join(f"{wall:>13.3f} ({parsed / wall:>4.0%})" for wall in others)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chains", type=int, default=1000, help="exported chains of each format")
    parser.add_argument("--copies", type=int, default=400, help="copies of each whole entry")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--reading", action="store_true", help="reading alone, without `data prepare` as a command"
    )
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    data = real_data()
    folder = Path(tempfile.mkdtemp(prefix="minifold-ingest-"))
    try:
        reached = report(args, data, folder)
    finally:
        shutil.rmtree(folder)
    sys.exit(0 if reached else 1)


def report(args: argparse.Namespace, data: Path, folder: Path) -> bool:
    """All measurements, a line each; whether both mixes reach the target."""
    sets = make_files(data, folder, args.chains, args.copies)
    print(
        f"{'':32}{'one process, ms a file (rate against gemmi)':^50}{f'{args.processes} processes, files/s':>26}"
    )
    print(
        f"{'files':<16}{'count':>7}{'kB each':>9}{'gemmi':>10}{'read_structure':>20}{'whole way':>20}"
        f"{'gemmi':>10}{'prepare':>9}{'ratio':>7}"
    )
    mixes = {"entries as found": [0.0] * 3, "exported chains": [0.0] * 3}
    fast = importlib.util.find_spec("isal") is not None
    print(f"gzip through {'isal' if fast else 'zlib; the extra `fast` is not installed'}")
    for kind, paths in sets.items():
        size = sum(path.stat().st_size for path in paths) / len(paths) / 1e3
        some = list(map(str, paths[:: max(1, len(paths) // 200)]))
        each = [1e3 * wall / len(some) for wall in side_by_side(some, args.rounds)]
        mix = "entries as found" if kind == RAW else "exported chains" if kind in EXPORTED else None
        if mix:
            mixes[mix] = [total + wall for total, wall in zip(mixes[mix], each, strict=True)]
        line = f"{kind:<16}{len(paths):>7}{size:>9.0f}{_ratios(each)}"
        if len(paths) >= 500 and not args.reading:  # else it is all in starting processes
            walls = [
                (
                    run_gemmi(folder / kind, args.processes),
                    run_prepare([folder / kind], folder / "store", args.processes)[0],
                )
                for _ in range(3)
            ]
            alone, prepared = (len(paths) / statistics.median(wall) for wall in zip(*walls, strict=True))
            line += f"{alone:>10.0f}{prepared:>9.0f}{prepared / alone:>7.0%}"
        print(line, flush=True)
    reached = True
    for mix, (parsed, _, whole) in mixes.items():
        rate = parsed / whole
        reached &= rate >= TARGET
        told = "reached" if rate >= TARGET else "falls short"
        print(f"{mix}, the whole way: {rate:.2f} of gemmi's rate, target {TARGET:.2f}: {told}", flush=True)
    if not args.reading:
        report_chain_set(args, data, folder)
    return reached


def report_chain_set(args: argparse.Namespace, data: Path, folder: Path) -> None:
    """A chain set of the original's size: made a store, opened, read at random."""
    source = folder / "chain_set.jsonl"
    repeated_chain_set(data, source, INGRAHAM_CHAINS)
    wall, peak = run_prepare([source], folder / "store", args.processes)
    started = time.perf_counter()
    store = ChainStore.open(folder / "store")
    opened = time.perf_counter() - started
    order = np.random.default_rng(0).integers(len(store), size=10_000)
    started = time.perf_counter()
    for chain in order.tolist():
        store.coords(chain).sum()
    access = time.perf_counter() - started
    print(
        f"chain set of {len(store):,}, {source.stat().st_size / 1e6:.0f} MB: {wall:.1f} s on {args.processes} cores, "
        f"{peak / 2**30:.2f} GiB; opens in {opened * 1e3:.1f} ms; 10,000 chains at random in {access:.2f} s"
    )


if __name__ == "__main__":
    main()
