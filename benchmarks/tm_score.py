"""How long a TM-score takes, side by side with tmtools (TM-align's C++ code), pair by pair on the same machine.

Run it as ``python -m benchmarks.tm_score``; ``--chains FILE`` reads a chain set, else chains are made up. Both use
one thread. tmtools is given the alignment, so that it only searches for the superposition (its faster mode). Rounds
of both alternate; shown are medians over rounds.

What a pair costs depends on the batch (``--batch``), tmtools has none. Faster than tmtools are, on one core, batches of
256 and more from 16 residues on, of 64 from 32, of 16 from 64; below that tmtools is.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from minifold_pl.metrics.tm_search import searched_scores, tm_score

LENGTHS = (16, 32, 64, 96, 128, 256)


def main() -> None:
    """Print a table: rows are lengths and kinds of prediction."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--chains", type=Path, help="chain set (.jsonl or .jsonl.gz) to take real chains from"
    )
    parser.add_argument("--batch", type=int, default=256, help="pairs in a batch (default 256)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tmtools = _tmtools()
    traces = _read(args.chains) if args.chains else _walks()
    print(f"one thread, batches of {args.batch}, {'real' if args.chains else 'made-up'} chains; ms a pair")
    print(
        f"{'residues':>8}  {'prediction':<12}{'tm_score':>9}{'+ GDT':>9}{'tmtools':>9}{'ratio':>8}{'lowest':>9}"
    )
    for length in LENGTHS:
        windows = [c[i : i + length] for c in traces for i in range(0, len(c) - length + 1, length)]
        true = torch.stack((windows * (1 + args.batch // len(windows)))[: args.batch])
        mask = torch.ones(true.shape[:2], dtype=torch.bool)
        noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(0))
        for kind, pred in (
            ("other chain", true.roll(1, 0)),
            ("noise 1 Å", true + noise),
            ("noise 4 Å", true + 4 * noise),
        ):
            one, both, other, lowest = _compare(tmtools, pred, true, mask, args.rounds)
            print(
                f"{length:>8}  {kind:<12}{one:>9.3f}{both:>9.3f}{other:>9.3f}{other / one:>7.1f}×"
                f"{lowest:>9.4f}",
                flush=True,
            )
    print("ratio: tmtools over tm_score; lowest: the least that tm_score is above tmtools' value")


def _compare(
    tm_align: Callable[..., object], pred: Tensor, true: Tensor, mask: Tensor, rounds: int
) -> tuple[float, float, float, float]:
    """Milliseconds a pair of ``tm_score``, ``searched_scores`` and tmtools; the least difference of the scores."""
    # tmtools has no batches, so fewer pairs give the same time a pair.
    few = min(len(true), max(16, 4096 // true.shape[1]))
    ours, gdt, theirs = [], [], []
    for _ in range(rounds):
        ours.append(_seconds(lambda: tm_score(pred, true, mask)) / len(true))
        gdt.append(_seconds(lambda: searched_scores(pred, true, mask)) / len(true))
        theirs.append(_seconds(lambda: _score_each(tm_align, pred[:few], true[:few])) / few)
    one, both, other = (1e3 * statistics.median(times) for times in (ours, gdt, theirs))
    difference = tm_score(pred[:few], true[:few], mask[:few]) - _score_each(tm_align, pred[:few], true[:few])
    return one, both, other, difference.min().item()


def _tmtools() -> Callable[..., object]:
    try:
        from tmtools import tm_align
    except ImportError:
        raise SystemExit("tmtools is not installed; pip install 'minifold-pl[test]'") from None
    return tm_align


def _score_each(tm_align: Callable[..., object], pred: Tensor, true: Tensor) -> Tensor:
    sequence = "A" * true.shape[1]
    scores = [
        tm_align(p, t, sequence, sequence, [sequence, sequence]).tm_norm_chain2  # type: ignore[attr-defined]
        for p, t in zip(pred.double().numpy(), true.double().numpy(), strict=True)
    ]
    return torch.tensor(scores)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _read(path: Path) -> list[Tensor]:
    traces = []
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        for line in file:
            ca = torch.tensor(json.loads(line)["coords"]["CA"])
            if ca.isfinite().all() and len(traces) < 600:
                traces.append(ca)
    return traces


def _walks() -> list[Tensor]:
    bonds = torch.randn(256, 256, 3, generator=torch.Generator().manual_seed(1))
    return list((3.8 * bonds / bonds.norm(dim=-1, keepdim=True)).cumsum(1))


if __name__ == "__main__":
    main()
