"""``minifold-pl sample``: structures from sequences."""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minifold_pl.cli.errors import UserError
from minifold_pl.cli.generation import (
    add_model_arguments,
    add_sampler_arguments,
    draw,
    like_lengths,
    load_model,
    positive,
    refuse_overwriting,
    sampler_settings,
    sequence_batch,
    told_to_the_user,
)
from minifold_pl.cli.progress import progress
from minifold_pl.cli.sample_confidence import BFactors, confidences

if TYPE_CHECKING:
    import numpy as np

    from minifold_pl.export.fasta import SequenceRecord
    from minifold_pl.modules.structures import SampledChain

SHORTEST = 3
"""Residues: a Cα frame needs two neighbours."""
_MANIFEST = "manifest.json"
_MANIFEST_SECONDS = 10.0
"""Between two writes of the manifest: thousands of chains would write it thousands of times."""
_SHOWN = 20
_EXTENSIONS = {"pdb": ("pdb",), "mmcif": ("cif",), "both": ("pdb", "cif")}


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command's parser."""
    parser = subparsers.add_parser(
        "sample",
        help="draw structures for sequences",
        description="Draw structures for one sequence or a FASTA file, Cα traces or, from a model that predicts them, "
        "backbones, and write them as PDB or mmCIF, with a manifest of every setting.",
    )
    add_model_arguments(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--sequence", metavar="LETTERS", help="one sequence, in one-letter codes")
    source.add_argument("--fasta", type=Path, metavar="FILE", help="a FASTA file")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the results")
    parser.add_argument(
        "--num-samples", type=positive, default=1, metavar="N",
        help="structures a sequence; with 2 or more they are ranked by how far they agree (default 1)",
    )  # fmt: skip
    parser.add_argument(
        "--rank-by", choices=("agreement", "confidence"), default="agreement",
        help="which of several samples is the best: that which the others agree with most (default), or that which a "
        "model with a confidence head is most confident of",
    )  # fmt: skip
    parser.add_argument(
        "--calibration", type=Path, metavar="EVALUATION",
        help="of a model with a confidence head: folder of an evaluation of the same checkpoint (or its "
        "calibration.json); pLDDT, in the B-factor column, is then what the confidence turned out to mean there",
    )  # fmt: skip
    parser.add_argument("--format", choices=tuple(_EXTENSIONS), default="pdb", help="default pdb")
    parser.add_argument(
        "--backbone",
        action="store_true",
        help="add N, C and O, reconstructed from the Cα trace and labelled so; a model that predicts them always "
        "writes its own",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results of the same names in --out")
    add_sampler_arguments(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Sample, rank and write; 1 where a chain could not be written."""
    records = _records(args)
    files = _file_names(records, args)
    module, checkpoint = load_model(args, "diffusion")
    sampler = sampler_settings(module, args)
    b_factors = BFactors.of(module, args, checkpoint, sampler)
    _refuse_lengths(records, module.max_residues)
    for record in records:
        _warn_of_unknown(record)
    planned = [name for per_record in files for names in per_record for name in names]
    refuse_overwriting(args.out, [*planned, _MANIFEST], overwrite=args.overwrite)

    manifest = _Manifest(
        path=args.out / _MANIFEST,
        header={
            "checkpoint": checkpoint,
            "settings": {
                **sampler.told(),
                "compile": sampler.compile,
                "seed": args.seed,
                "num_samples": args.num_samples,
                "rank_by": args.rank_by,
                "format": args.format,
                "backbone": args.backbone,
                "batch_size": args.batch_size,
                "device": str(next(module.parameters()).device),
            },
            "source": str(args.fasta) if args.fasta else "--sequence",
            "atoms": _ATOMS[
                "predicted" if module.needs == "backbone" else "reconstructed" if args.backbone else "ca"
            ],
            "b_factor": b_factors.told,
            **b_factors.manifest(),
        },
    )
    manifest.write()
    chains: dict[int, dict[int, SampledChain]] = defaultdict(dict)
    with module.sharing_trunks(), progress("sampling", len(records) * args.num_samples) as advance:
        for work in _batches([len(r.sequence) for r in records], args.num_samples, args.batch_size):
            batch = sequence_batch([records[i].name for i, _ in work], [records[i].sequence for i, _ in work])
            # The noise belongs to the sequence: neither its name nor the rest of the file changes it.
            keys = [f"{records[i].sequence}/{k}" for i, k in work]
            drawn = draw(module, batch, sampler, seed=args.seed, keys=keys)
            for (i, k), chain in zip(work, drawn, strict=True):
                chains[i][k] = chain
                if len(chains[i]) == args.num_samples:
                    samples = [chains[i][n] for n in range(args.num_samples)]
                    entry = _write(records[i], samples, files[i], args, checkpoint["sha256"], b_factors)
                    manifest.add(i, entry)
                    del chains[i]
            advance(len(work))
    manifest.finish()
    return _report(manifest.chains(), args)


_ATOMS = {
    "predicted": "N, CA, C, O, predicted; closed to the nearest chain of ideal bond lengths, angles and planar "
    "peptides, which moved CA by ca_moved Å",
    "reconstructed": "N, CA, C, O; N, C and O reconstructed from the CA trace, not predicted",
    "ca": "CA only",
}


def _records(args: argparse.Namespace) -> list[SequenceRecord]:
    from minifold_pl.export.fasta import parse_sequence, read_fasta

    with told_to_the_user(exit_code=2):
        return read_fasta(args.fasta) if args.fasta is not None else [parse_sequence(args.sequence)]


def _refuse_lengths(records: Sequence[SequenceRecord], longest: int | None) -> None:
    for record in records:
        length = len(record.sequence)
        if length < SHORTEST:
            raise UserError(
                f"record {record.name!r} has {length} residues; at least {SHORTEST} are needed", exit_code=2
            )
        if longest is not None and length > longest:
            raise UserError(
                f"record {record.name!r} has {length} residues; this checkpoint reads up to {longest}",
                exit_code=2,
            )


def _warn_of_unknown(record: SequenceRecord) -> None:
    if not record.unknown:
        return
    shown = ", ".join(f"{letter}{place}" for place, letter in record.unknown[:5])
    more = ", …" if len(record.unknown) > 5 else ""
    print(
        f"warning: record {record.name!r}: {len(record.unknown)} residues read as unknown ({shown}{more})",
        file=sys.stderr,
    )


def _file_names(records: Sequence[SequenceRecord], args: argparse.Namespace) -> list[list[tuple[str, ...]]]:
    """For each record and rank, its files; a rank is what follows the last ``_``, so that none clash."""
    from minifold_pl.export.names import safe_file_name

    taken: set[str] = set()
    names = []
    for record in records:
        stem = safe_file_name(record.name, taken)
        stems = [stem]
        if args.num_samples > 1:
            stems = [f"{stem}_best", *(f"{stem}_{rank}" for rank in range(2, args.num_samples + 1))]
        names.append([tuple(f"{s}.{extension}" for extension in _EXTENSIONS[args.format]) for s in stems])
    return names


def _batches(lengths: Sequence[int], num_samples: int, batch_size: int) -> list[list[tuple[int, int]]]:
    """(record, sample) pairs in batches of like lengths; the samples of a record follow one another."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    work = [(i, k) for i in order for k in range(num_samples)]
    cuts = like_lengths([lengths[i] for i, _ in work], batch_size)
    return [work[start:end] for start, end in pairwise(cuts)]


def _write(
    record: SequenceRecord,
    samples: Sequence[SampledChain],
    files: Sequence[Sequence[str]],
    args: argparse.Namespace,
    sha256: str,
    b_factors: BFactors,
) -> dict[str, Any]:
    """Rank the samples of one record and write their files; returns its entry of the manifest."""
    import torch

    from minifold_pl.checkpoint.atomic import atomic_write_text
    from minifold_pl.export.agreement import sample_agreement
    from minifold_pl.export.structure import mmcif_text, pdb_text

    entry: dict[str, Any] = {
        "name": record.name,
        "sequence": record.sequence,
        "length": len(record.sequence),
        "unknown_residues": [{"position": place, "letter": letter} for place, letter in record.unknown],
    }
    agreement = sample_agreement(torch.stack([sample.ca for sample in samples]))
    mean = agreement.mean(-1).tolist()
    best = confidences(samples) if args.rank_by == "confidence" else mean
    # A stable sort: equal samples keep the order in which they were drawn.
    ranking = sorted(range(len(samples)), key=lambda k: -best[k])
    factors, told = zip(
        *(b_factors.of_sample(sample, agreement[k]) for k, sample in enumerate(samples)), strict=True
    )
    try:
        texts: list[tuple[str, str]] = []
        for rank, k in enumerate(ranking, start=1):
            chain = _chain(record, samples[k], factors[k], rank, args, sha256, b_factors.told)
            for name in files[rank - 1]:
                texts.append((name, pdb_text(chain) if name.endswith(".pdb") else mmcif_text(chain)))
    except ValueError as error:
        return {**entry, "failed": str(error)}
    for name, text in texts:
        atomic_write_text(args.out / name, text)
    scored = len(samples) > 1
    entry["samples"] = [
        {
            "rank": rank,
            "sample": k,
            "agreement": round(mean[k], 4) if scored else None,
            **told[k],
            **({} if (moved := samples[k].ca_moved) is None else {"ca_moved": round(moved, 3)}),
            "files": list(files[rank - 1]),
        }
        for rank, k in enumerate(ranking, start=1)
    ]
    entry["best"] = files[0][0]
    return entry


def _chain(
    record: SequenceRecord,
    sample: SampledChain,
    factors: np.ndarray,
    rank: int,
    args: argparse.Namespace,
    sha256: str,
    told: str,
) -> Any:
    from minifold_pl.export.plddt import b_factor_remark
    from minifold_pl.export.structure import PredictedChain, closed_remark
    from minifold_pl.geometry.backbone import backbone_from_ca

    reconstructed = args.backbone and sample.ca_moved is None
    coords = backbone_from_ca(sample.ca) if reconstructed else sample.coords
    what = "predicted CA trace" if sample.ca_moved is None else "predicted backbone"
    what = "backbone reconstructed from a predicted CA trace" if reconstructed else what
    which = "best" if rank == 1 else f"rank {rank}"
    ranked = f", {which} of {args.num_samples} samples" if args.num_samples > 1 else ""
    remarks = [f"Made by minifold-pl sample from checkpoint sha256 {sha256[:16]}, seed {args.seed}."]
    if reconstructed:
        remarks.append("N, C and O were RECONSTRUCTED from the CA trace; the model predicts CA only.")
    if sample.ca_moved is not None:
        remarks.append(closed_remark(sample.ca_moved))
    remarks.append(b_factor_remark(told))
    return PredictedChain(
        name=record.name,
        sequence=record.sequence,
        coords=coords.numpy(),
        confidence=factors,
        title=f"{record.name}: {what}{ranked}",
        remarks=remarks,
    )


@dataclass
class _Manifest:
    """The growing list of what was written; on the disk it lists finished chains only."""

    path: Path
    header: dict[str, Any]

    def __post_init__(self) -> None:
        self._entries: dict[int, dict[str, Any]] = {}
        self._written = 0.0

    def chains(self) -> list[dict[str, Any]]:
        """Entries in the order of the input."""
        return [self._entries[i] for i in sorted(self._entries)]

    def add(self, record: int, entry: dict[str, Any]) -> None:
        """Add the entry of a finished record."""
        self._entries[record] = entry
        if time.monotonic() - self._written > _MANIFEST_SECONDS:
            self.write()

    def finish(self) -> None:
        """Write it a last time, as complete."""
        self.write(complete=True)

    def write(self, *, complete: bool = False) -> None:
        """Write what there is."""
        from minifold_pl.checkpoint.atomic import atomic_write_text
        from minifold_pl.export.manifest import manifest_text

        content = {"complete": complete, **self.header, "chains": self.chains()}
        atomic_write_text(self.path, manifest_text("sample", content))
        self._written = time.monotonic()


def _report(chains: Sequence[dict[str, Any]], args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    sure = any("plddt" in sample for chain in chains for sample in chain.get("samples", ()))
    table = Table("sequence", "residues", "agreement", *(("pLDDT",) if sure else ()), "file")
    for chain in chains[:_SHOWN]:
        if "failed" in chain:
            table.add_row(
                escape(chain["name"]), str(chain["length"]), "", *([""] if sure else []),
                f"failed: {escape(chain['failed'])}",
            )  # fmt: skip
            continue
        first = chain["samples"][0]
        best = first["agreement"]
        table.add_row(
            escape(chain["name"]), str(chain["length"]), "–" if best is None else f"{best:.2f}",
            *([f"{first['plddt']:.1f}"] if sure else []), chain["best"],
        )  # fmt: skip
    console = Console()
    console.print(table)
    if len(chains) > _SHOWN:
        console.print(f"… and {len(chains) - _SHOWN} more")
    failed = sum("failed" in chain for chain in chains)
    console.print(f"{len(chains) - failed} of {len(chains)} sequences in {args.out}, settings in {_MANIFEST}")
    if failed:
        print(
            f"error: {failed} sequences have no structure; reasons in {args.out / _MANIFEST}", file=sys.stderr
        )
    return 1 if failed else 0
