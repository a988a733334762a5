"""``minifold-pl evaluate``: how good a checkpoint is, beside what trivial predictions score."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minifold_pl.cli.errors import UserError
from minifold_pl.cli.evaluate_table import show
from minifold_pl.cli.generation import (
    add_model_arguments,
    add_sampler_arguments,
    load_model,
    positive,
    refuse_overwriting,
    sampler_settings,
    told_to_the_user,
)
from minifold_pl.cli.output_file import output_told
from minifold_pl.cli.progress import progress

if TYPE_CHECKING:
    from minifold_pl.checkpoint.atomic import HashingWriter
    from minifold_pl.data.dataset import ChainDataset
    from minifold_pl.data.store import ChainStore
    from minifold_pl.metrics.bootstrap import Interval
    from minifold_pl.metrics.calibration import CalibrationMap
    from minifold_pl.modules.sampling import SamplerConfig

SUMMARY = "summary.json"
PER_CHAIN = "per_chain.csv"
OTHER_ROWS = "per_chain_other_rows.csv"
FIGURES = "figures.npz"
_NOTES = {
    "diffusion": "tm_score and gdt_ts are maximised over superpositions: unrelated chains score about 0.17 TM, 0.5 "
    "means the same fold. tm_kabsch is TM in the pose of least RMSD: unrelated chains score about 0.10. lDDT "
    "knows no handedness. Helix and strand content is judged by the Cα trace (P-SEA); compare it with the truth's.",
    "contact": "Precision of the L, L/2, L/5 most probable pairs; long range |i-j| >= 24, medium 12-23. "
    "Recall is over all pairs: nearly half of all contacts are neighbours along the chain.",
}


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command's parser."""
    parser = subparsers.add_parser(
        "evaluate",
        help="score a checkpoint beside baselines",
        description="Score a checkpoint on a data set, beside what trivial predictions score, with 95 % "
        "bootstrap intervals. Works on checkpoints of either stage.",
    )
    add_model_arguments(parser)
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="a prepared data set")
    parser.add_argument("--split", default="test", help="train, validation, test (default) or all")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the results")
    parser.add_argument("--limit", type=positive, metavar="N", help="a random selection of this many chains")
    parser.add_argument(
        "--max-length", type=positive, metavar="L",
        help="leave longer chains out (default: those longer than the model reads)",
    )  # fmt: skip
    parser.add_argument(
        "--num-samples", type=positive, default=1, metavar="N", help="structures a chain (default 1)"
    )
    parser.add_argument(
        "--structures", type=_count, metavar="N",
        help="write the samples of this many chains, spread over the lengths, as PDB files superposed on their truths "
        "(default 24; 0: none)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace results in --out")
    add_sampler_arguments(parser)
    parser.set_defaults(run=run)
    return parser


def _count(text: str) -> int:
    """The type of an option that counts and may be 0."""
    return 0 if text.strip() == "0" else positive(text)


def run(args: argparse.Namespace) -> int:
    """Score, write and show."""
    store = _open(args.data)
    refuse_overwriting(
        args.out, [SUMMARY, PER_CHAIN, OTHER_ROWS, FIGURES, "calibration.json"], overwrite=args.overwrite
    )
    from minifold_pl.cli.evaluate_figures import encoder_results

    module, checkpoint = load_model(args)
    module.use_store(store.path)
    settings: dict[str, Any] = {"seed": args.seed, "batch_size": args.batch_size}
    more: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    calibration: CalibrationMap | None = None
    with told_to_the_user(exit_code=2):
        dataset = _dataset(store, args.split, module, args, limit=args.limit)
    if module.stage == "diffusion":
        from minifold_pl.cli.evaluate_backbones import BackboneScores
        from minifold_pl.cli.evaluate_confidence import ConfidenceOfSamples
        from minifold_pl.cli.evaluate_figures import DihedralsOfSamples
        from minifold_pl.cli.evaluate_files import DEFAULT, StructureFiles
        from minifold_pl.cli.evaluate_structures import SEES_ANSWER, score_structures
        from minifold_pl.data.dataset import ChainDataset

        sampler = sampler_settings(module, args)
        settings |= {**sampler.told(), "compile": sampler.compile, "num_samples": args.num_samples}
        sees_answer: Sequence[str] = SEES_ANSWER
        backbones = BackboneScores() if module.needs == "backbone" else None
        confidence = ConfidenceOfSamples() if module.confidence_head is not None else None
        dihedrals = DihedralsOfSamples(
            module.noise_schedule.timesteps, sampler.title, drawn_as(sampler, args.seed)
        )
        files = StructureFiles(
            args.out, dataset, DEFAULT if args.structures is None else args.structures,
            f"Made by minifold-pl evaluate from checkpoint sha256 {checkpoint['sha256'][:16]}, seed {args.seed}.",
        )  # fmt: skip
        pool = ChainDataset(store, args.split)
        with module.sharing_trunks(), progress("sampling", len(dataset) * args.num_samples) as advance:
            chains, scores = score_structures(
                module, dataset, pool, sampler, seed=args.seed, num_samples=args.num_samples,
                batch_size=args.batch_size, advance=advance, backbones=backbones, dihedrals=dihedrals, files=files,
                confidence=confidence,
            )  # fmt: skip
        more, arrays = dihedrals.results()
        more |= files.results()
        if backbones is not None:
            more["ramachandran"] = backbones.summary()
        if confidence is not None:
            found, calibration = confidence.results(args.seed)
            more |= found
    else:
        from minifold_pl.cli.evaluate_contacts import score_contacts

        if args.structures:
            raise UserError(
                f"--structures: {args.ckpt} is of the first stage, which samples none", exit_code=2
            )
        sees_answer = ()
        with told_to_the_user():
            train = _dataset(store, "train", module, args)
        settings["baselines_from"] = f"{len(train)} chains of the train split"
        with progress("scoring", len(dataset)) as advance:
            chains, scores = score_contacts(
                module, dataset, train, batch_size=args.batch_size, advance=advance
            )

    of_encoder, more_arrays = encoder_results(module, dataset, batch_size=args.batch_size, seed=args.seed)
    more |= of_encoder
    arrays |= more_arrays
    intervals = _intervals(scores, args.seed)
    content = {
        "checkpoint": checkpoint,
        "data": {
            "path": str(args.data),
            "provenance": dict(store.provenance),
            "split": args.split,
            "chains": len(chains),
            "longer_chains_left_out": _left_out(store, args.split, module, args),
            "limit": args.limit,
            "max_length": _longest(module, args),
        },
        "settings": settings,
        "given_to_the_model": "sequence and chain breaks",
        "interval": "95 % percentile bootstrap over chains, 2000 resamples",
        "note": _NOTES[module.stage],
        "sees_answer": list(sees_answer),
        "rows": {
            row: {score: interval._asdict() for score, interval in by_score.items()}
            for row, by_score in intervals.items()
        },
        **more,
    }
    _write(args.out, chains, scores, content, arrays, calibration)
    with output_told():
        show(intervals, module.stage, sees_answer, content)
    return 0


def drawn_as(sampler: SamplerConfig, seed: int) -> str:
    """How samples were drawn, as figures say it."""
    return f"{sampler.in_words()}, seed {seed}"


def _open(path: Path) -> ChainStore:
    from minifold_pl.data.store import ChainStore

    with told_to_the_user(exit_code=2):
        return ChainStore.open(path)


def _longest(module: Any, args: argparse.Namespace) -> int | None:
    limits = [n for n in (module.max_residues, args.max_length) if n is not None]
    return min(limits) if limits else None


def _dataset(
    store: ChainStore, split: str, module: Any, args: argparse.Namespace, limit: int | None = None
) -> ChainDataset:
    from minifold_pl.data.dataset import ChainDataset

    return ChainDataset(
        store,
        split,
        max_length=_longest(module, args),
        long_chains="drop",
        seed=args.seed,
        limit=limit,
        needs=module.needs,
        # Indices mean what they meant in training, whatever this data set's own labels are.
        architectures=tuple(module.architecture_labels) or None,
    )


def _left_out(store: ChainStore, split: str, module: Any, args: argparse.Namespace) -> int:
    longest = _longest(module, args)
    return 0 if longest is None else int((store.lengths[store.indices(split)] > longest).sum())


def _intervals(
    scores: Mapping[str, Mapping[str, Sequence[float]]], seed: int
) -> dict[str, dict[str, Interval]]:
    from minifold_pl.metrics.bootstrap import bootstrap_interval

    return {
        row: {score: bootstrap_interval(values, seed=seed) for score, values in by_score.items()}
        for row, by_score in scores.items()
    }


def _write(
    out: Path,
    chains: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Mapping[str, Sequence[float]]],
    content: Mapping[str, Any],
    arrays: Mapping[str, Any],
    calibration: CalibrationMap | None,
) -> None:
    from minifold_pl.checkpoint.atomic import atomic_write, atomic_write_text
    from minifold_pl.export.manifest import manifest_text
    from minifold_pl.results.calibration import CALIBRATION, calibration_content
    from minifold_pl.results.figure_data import arrays_bytes

    model, *others = scores
    per_chain = [{**chain, **_at(scores[model], i)} for i, chain in enumerate(chains)]
    other_rows = [
        {"name": chain["name"], "length": chain["length"], "row": row, **_at(scores[row], i)}
        for row in others
        for i, chain in enumerate(chains)
    ]
    try:
        atomic_write_text(out / PER_CHAIN, _csv(per_chain))
        atomic_write_text(out / OTHER_ROWS, _csv(other_rows))
        packed = arrays_bytes(arrays)
        atomic_write(out / FIGURES, partial(_put, packed))
        if calibration is None:
            # That of an earlier evaluation would be taken for this one's.
            (out / CALIBRATION).unlink(missing_ok=True)
        else:
            parts = {name: content[name] for name in ("checkpoint", "data", "settings")}
            counts = {name: content["confidence"][name] for name in ("chains", "residues")}
            text = manifest_text("evaluate", calibration_content(calibration, **parts, **counts))
            atomic_write_text(out / CALIBRATION, text)
        # Last: who finds a summary finds everything.
        atomic_write_text(out / SUMMARY, manifest_text("evaluate", content))
    except OSError as error:
        raise UserError(f"cannot write results to {out}: {error.strerror}") from error


def _put(content: bytes, file: HashingWriter) -> None:
    file.write(content)


def _at(by_score: Mapping[str, Sequence[float]], chain: int) -> dict[str, float]:
    return {score: values[chain] for score, values in by_score.items()}


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        # Six digits: what float32 scores carry. An undefined score is an empty cell.
        writer.writerow({k: _cell(v) for k, v in row.items()})
    return text.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return "" if value != value else f"{value:.6g}"
