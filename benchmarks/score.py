"""How long ``minifold-pl score`` takes on a folder of real pairs.

    taskset -c 0,1 python -m benchmarks.score

Real chains, drawn with their own lengths from chain_set.jsonl.gz (``--data``, else MINIFOLD_TEST_DATA), are written as
references, backbone atoms only, and beside them as predictions: noised by 0.5 to 6 Å, every fourth renumbered (and so
aligned), every fourth gzipped mmCIF. The command runs as a user runs it, in a process of its own, start included; the
median of three runs counts.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gemmi
import numpy as np

from minifold_pl.constants import BACKBONE_ATOMS, ONE_TO_THREE

_COMMAND = "import sys; from minifold_pl.cli.main import main; sys.exit(main(sys.argv[1:]))"


def structure(sequence: str, coords: np.ndarray, first: int) -> gemmi.Structure:
    """A chain of the residues whose Cα is known, counted from ``first`` with the missing ones."""
    chain = gemmi.Chain("A")
    for place, (letter, atoms) in enumerate(zip(sequence, coords, strict=True)):
        if np.isnan(atoms[1]).any():
            continue
        residue = gemmi.Residue()
        residue.name = ONE_TO_THREE.get(letter, "UNK")
        residue.seqid = gemmi.SeqId(first + place, " ")
        for name, position in zip(BACKBONE_ATOMS, atoms.tolist(), strict=True):
            if position[0] == position[0]:
                atom = gemmi.Atom()
                atom.name, atom.element = name, gemmi.Element(name[0])
                atom.pos = gemmi.Position(*position)
                residue.add_atom(atom)
        chain.add_residue(residue)
    made = gemmi.Structure()
    model = gemmi.Model(1)
    model.add_chain(chain)
    made.add_model(model)
    made.setup_entities()
    return made


def export(source: Path, folder: Path, pairs: int, seed: int) -> list[int]:
    """Write ``pairs`` references and predictions; their lengths."""
    with gzip.open(source, "rt") as lines:
        records = [json.loads(line) for line in lines]
    rng = np.random.default_rng(seed)
    (folder / "pred").mkdir()
    (folder / "ref").mkdir()
    lengths = []
    for count, chosen in enumerate(rng.choice(len(records), pairs, replace=False)):
        record = records[chosen]
        true = np.stack([np.array(record["coords"][atom], dtype=float) for atom in BACKBONE_ATOMS], 1)
        true -= np.nanmean(true, (0, 1))
        noise = rng.normal(size=(len(true), 1, 3)) * rng.uniform(0.5, 6)
        name = record["name"]
        structure(record["seq"], true, 1).write_pdb(str(folder / "ref" / f"{name}.pdb"))
        pred = structure(record["seq"], true + noise, 101 if count % 4 == 1 else 1)
        if count % 4 == 2:
            text = pred.make_mmcif_document().as_string()
            (folder / "pred" / f"{name}.cif.gz").write_bytes(gzip.compress(text.encode(), 1))
        else:
            pred.write_pdb(str(folder / "pred" / f"{name}.pdb"))
        lengths.append(int((~np.isnan(true[:, 1]).any(-1)).sum()))
    return lengths


def seconds(folder: Path, *options: str) -> float:
    """Wall time of one run of the command."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, "score", str(folder / "pred"), str(folder / "ref"), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - started


def main() -> None:
    """Export, time, and print a line for each way of calling."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("MINIFOLD_TEST_DATA"))
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.data is None:
        raise SystemExit("give --data, or set MINIFOLD_TEST_DATA, to the folder of chain_set.jsonl.gz")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lengths = export(args.data / "chain_set.jsonl.gz", folder, args.pairs, args.seed)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        print(
            f"{args.pairs} pairs of {min(lengths)} to {max(lengths)} residues "
            f"(median {statistics.median(lengths):.0f}), {cores} cores"
        )
        for options in ((), ("--json",), ("--baselines",)):
            times = [seconds(folder, *options) for _ in range(args.runs)]
            called = " ".join(("score PRED REF", *options))
            runs = ", ".join(f"{t:.1f}" for t in times)
            print(f"{called:30s} {statistics.median(times):6.1f} s  (runs {runs})")


if __name__ == "__main__":
    main()
