"""``minifold-pl report``: one HTML file that shows a run, to look at and to mail."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from minifold_pl.cli.allocator import return_large_blocks
from minifold_pl.cli.errors import UserError
from minifold_pl.cli.generation import positive
from minifold_pl.cli.output_file import check_folder

REPORT = "report.html"


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command's parser."""
    parser = subparsers.add_parser(
        "report",
        help="one HTML file that shows a run: scores, structures in 3-D, figures, tables",
        description="Write one HTML file that needs nothing else: scores beside baselines, samples superposed on "
        "the truth in 3-D, figures, tables and how the run went. Reads a run folder, of a running run too, or a "
        "checkpoint, with the run around it. Evaluations that lie in the run folder are found by themselves.",
    )
    parser.add_argument("given", type=Path, metavar="RUN|CKPT", help="a run folder or a checkpoint")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"default: {REPORT} in the run folder")
    parser.add_argument(
        "--evaluation", type=Path, action="append", default=[], metavar="DIR",
        help="what evaluate wrote; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--samples", type=Path, action="append", default=[], metavar="DIR",
        help="PDB files of sample or predict, besides the run's own; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="the data set with the truths (default: the run's)"
    )
    parser.add_argument(
        "--max-samples", type=positive, default=200, metavar="N", help="structures at most (default 200)"
    )
    parser.add_argument(
        "--without-model", action="store_true",
        help="leave out the figures that the checkpoint has to be run for: contact maps, embeddings",
    )  # fmt: skip
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Gather, write, and say where."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
        import plotly  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"the report needs {error.name}, which is not installed: pip install 'minifold-pl[report]'"
        ) from error
    return_large_blocks()
    from minifold_pl.checkpoint.atomic import atomic_write_text
    from minifold_pl.cli.report_figures import more_pictures
    from minifold_pl.report.gather import NothingToReport, gather
    from minifold_pl.report.page import page

    out = args.out or (args.given / REPORT if args.given.is_dir() else Path(f"{args.given.stem}-{REPORT}"))
    check_folder("--out", out)
    for folder in args.samples:
        if not folder.is_dir():
            raise UserError(f"--samples {folder} is no folder", exit_code=2)
    try:
        report = gather(
            args.given,
            evaluations=args.evaluation,
            samples=args.samples,
            data=args.data,
            limit=args.max_samples,
        )
    except NothingToReport as error:
        raise UserError(str(error), exit_code=2) from error
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    pictures, told = more_pictures(report, with_model=not args.without_model)
    report = replace(report, figures=[*report.figures, *pictures], notes=[*report.notes, *told])
    text = page(report)
    try:
        atomic_write_text(out, text)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    for note in report.notes:
        print(note)
    print(f"{out}  ({len(text.encode()) / 1e6:.1f} MB)")
    return 0
