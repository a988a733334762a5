"""``minifold-pl score``: how near structure files are to reference structures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minifold_pl.cli.errors import UserError
from minifold_pl.cli.generation import positive
from minifold_pl.cli.output_file import check_folder, output_told
from minifold_pl.cli.progress import progress

if TYPE_CHECKING:
    from minifold_pl.cli.score_chains import Choice, MatchedPair
    from minifold_pl.cli.score_files import FoundPairs
    from minifold_pl.cli.score_metrics import Scores

_WAYS: Final = ("auto", "number", "alignment")
_PROGRESS_FROM: Final = 20
"""Pairs: fewer are done before a bar is read."""
_PROBLEMS_SHOWN: Final = 20
_NAMES_SHOWN: Final = 10


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command's parser."""
    parser = subparsers.add_parser(
        "score",
        help="score structure files against references",
        description="TM-score, RMSD, GDT, lDDT and more of PDB or mmCIF files (.gz, too): of two files, of two "
        "folders matched by file names, or of a folder of models of one reference. Residues are matched by number, "
        "or by sequence alignment where the numbers mislead; each row says how.",
        epilog="exit code: 0 done, 1 some pair failed or has no partner, 2 wrong use",
    )
    parser.add_argument("pred", type=Path, metavar="PRED", help="a structure file, or a folder of them")
    parser.add_argument("ref", type=Path, metavar="REF", help="the reference, or a folder of them")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="write one line a pair and row; its folder must exist"
    )
    parser.add_argument(
        "--baselines",
        action=argparse.BooleanOptionalAction,
        help="also score a point, a helix, the mirrored reference and, where there are several references, another "
        "one: what chance gives (default: for two files; for folders it takes three times as long)",
    )
    parser.add_argument(
        "--match", choices=_WAYS, default="auto", help="how residues are matched (default auto)"
    )
    parser.add_argument("--chain", metavar="ID", help="chain of both (default: the two that match best)")
    parser.add_argument("--pred-chain", metavar="ID", help="chain of the prediction")
    parser.add_argument("--ref-chain", metavar="ID", help="chain of the reference")
    parser.add_argument(
        "--model", type=_model, metavar="N", help="model of the prediction, or all (default: the first)"
    )
    parser.add_argument("--ref-model", type=positive, metavar="N", help="model of the reference (default 1)")
    parser.add_argument(
        "--suffix", default="", metavar="TEXT", help="what the predictions' names end in, such as _best"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Read, match, score and show; 1 where a pair failed or a file has no partner."""
    from minifold_pl.cli.score_chains import Choice
    from minifold_pl.cli.score_files import find_pairs
    from minifold_pl.cli.score_report import csv_text, json_text, show

    if args.csv is not None:
        check_folder("--csv", args.csv)
    found = find_pairs(args.pred, args.ref, args.suffix)
    if args.baselines is None:
        args.baselines = not found.several
    choice = Choice(
        pred_chain=args.pred_chain or args.chain,
        ref_chain=args.ref_chain or args.chain,
        pred_model=args.model,
        ref_model=args.ref_model,
        way=args.match,
    )
    pairs, failed = _read(found, choice)
    scores = _score(pairs, args.baselines)
    _tell(found, pairs, failed)
    if args.csv is not None:
        _write(args.csv, csv_text(pairs, scores))
    with output_told():
        if args.json:
            print(json_text(vars(args), found, pairs, scores, failed), end="")
        elif pairs:
            show(found, pairs, scores)
    return 1 if failed or found.lonely_preds or found.lonely_refs else 0


def _model(text: str) -> int | str:
    return text if text == "all" else positive(text)


def _read(found: FoundPairs, choice: Choice) -> tuple[list[MatchedPair], dict[str, str]]:
    """The pairs that can be scored, and why the others cannot."""
    from minifold_pl.cli.score_chains import PairError, read_pair

    pairs: list[MatchedPair] = []
    failed: dict[str, str] = {}
    for files in found.pairs:
        try:
            pairs.extend(read_pair(files, choice))
        except PairError as error:
            failed[files.name] = str(error)
    return pairs, failed


def _score(pairs: Sequence[MatchedPair], with_baselines: bool) -> list[Scores]:
    if not pairs:
        return []
    from minifold_pl.cli.score_metrics import count_candidates, score_pairs

    if len(pairs) < _PROGRESS_FROM:
        return score_pairs(pairs, with_baselines=with_baselines)
    with progress("scoring", count_candidates(pairs, with_baselines=with_baselines)) as advance:
        return score_pairs(pairs, with_baselines=with_baselines, advance=advance)


def _tell(found: FoundPairs, pairs: Sequence[MatchedPair], failed: Mapping[str, str]) -> None:
    """What went wrong, and what was decided for the user, a line each on standard error."""
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    notes = [f"{pair.name}: {note}" if found.several else note for pair in pairs for note in pair.notes]
    _list("note: ", list(dict.fromkeys(notes)))
    _list("error: ", [f"{name}: {reason}" if found.several else reason for name, reason in failed.items()])
    for whose, lonely in (("prediction", found.lonely_preds), ("reference", found.lonely_refs)):
        if lonely:
            other = "reference" if whose == "prediction" else "prediction"
            names = ", ".join(lonely[:_NAMES_SHOWN]) + (", …" if len(lonely) > _NAMES_SHOWN else "")
            plural = "s" * (len(lonely) > 1)
            print(f"error: {len(lonely)} {whose}{plural} without a {other}: {names}", file=sys.stderr)


def _list(before: str, lines: Sequence[str]) -> None:
    for line in lines[:_PROBLEMS_SHOWN]:
        print(f"{before}{line}", file=sys.stderr)
    if (more := len(lines) - _PROBLEMS_SHOWN) > 0:
        print(f"{before}… and {more} more", file=sys.stderr)


def _write(path: Path, text: str) -> None:
    from minifold_pl.checkpoint.atomic import atomic_write_text

    try:
        atomic_write_text(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
