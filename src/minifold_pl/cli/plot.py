"""``minifold-pl plot``: the figures of a run, a checkpoint or an evaluation."""

from __future__ import annotations

import argparse
import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minifold_pl.cli.allocator import return_large_blocks
from minifold_pl.cli.errors import UserError
from minifold_pl.cli.generation import add_sampler_arguments, positive, told_to_the_user
from minifold_pl.cli.kinds import add_kinds
from minifold_pl.cli.output_file import check_folder, output_told

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".png", ".svg", ".pdf")
_SAMPLED_CHAINS = 32
_RUN = "a run folder"
_CKPT = (
    "a checkpoint, or a run folder, whose best one is taken; or the folder of an evaluation: its chains, samples and "
    "numbers are drawn, and no model runs"
)

_KINDS: dict[str, tuple[str, str, str]] = {
    "losses": (
        "loss curves of runs over each other, every term",
        "Every loss term of training and validation, learning rate, patience and the best epoch, of one run or of "
        "several over each other. A run may still be going on.",
        "minifold-pl plot losses runs/v13\n"
        "  minifold-pl plot losses runs/v12b runs/v13 --names v12b v13 --x step --out curves.svg",
    ),
    "gradients": (
        "gradient norms of the modules, what guards did, and whether loss terms compete",
        "Norm of each module's gradient before clipping, an epoch a point, and how often it was clipped; tripwires, "
        "batches left out and other events where they happened; with --cosines the cosine of every two loss terms.",
        "minifold-pl plot gradients runs/v13\n"
        "  minifold-pl diagnose gradients runs/v13 --json > gradients.json\n"
        "  minifold-pl plot gradients runs/v13 --cosines gradients.json",
    ),
    "xt": (
        "one-step estimates against the noise, beside floors that know no sequence",
        "TM of the structure guessed in one step from timestep t, as evaluations while training (a run), `evaluate` "
        "(its folder or summary.json) or `diagnose noise --json` measured it. Of several sources the first one's "
        "floors are drawn.",
        "minifold-pl plot xt runs/v13\n  minifold-pl plot xt runs/v12b runs/v13 --names v12b v13",
    ),
    "ramachandran": (
        "dihedrals of the truth, of samples and of one-step estimates",
        "Density of consecutive Cα dihedrals (of φ and ψ with --kind phi-psi, for models of the whole backbone), "
        "shares of helix and strand, and the Jensen–Shannon distance to the truth, beside what as many true pairs "
        "have by chance. Samples chains of the data set.",
        "minifold-pl plot ramachandran runs/v13 --chains 64 --steps 50\n"
        "  minifold-pl plot ramachandran runs/v14 --kind phi-psi",
    ),
    "contacts": (
        "contact maps, predicted beside true",
        "True and predicted contacts of named chains, or of one chain of each CATH class, with the scores of "
        "`evaluate`. Takes checkpoints of either stage.",
        "minifold-pl plot contacts runs/contact\n"
        "  minifold-pl plot contacts runs/contact --split test --names 1abc.A 2xyz.B",
    ),
    "embedding": (
        "maps of the chains' embeddings by CATH class and architecture",
        "PCA, and UMAP where umap-learn is installed, of the attention-pooled embeddings, with the silhouette of "
        "each labelling. Takes checkpoints of either stage.",
        "minifold-pl plot embedding runs/contact --split test",
    ),
    "reliability": (
        "does a model's confidence in its samples mean what it says",
        "Mean lDDT-Cα of the residues that are given each confidence, as the model says it and calibrated on other "
        "chains, with the calibration errors, from the folder of an evaluation. For models with a confidence head.",
        "minifold-pl plot reliability evaluation --out reliability.svg",
    ),
    "structure": (
        "samples superposed on their truths",
        "The newest samples of a run, or structure files of a folder, on the chains of its data set; or one structure "
        "file on another. Matched, superposed (highest TM-score) and scored as `score` does it.",
        "minifold-pl plot structure runs/v13 --names 1abc.A\n  minifold-pl plot structure model.pdb native.cif",
    ),
}


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command's parser."""
    parser = subparsers.add_parser(
        "plot",
        help="draw the figures of a run, a checkpoint or an evaluation",
        description="Draw a figure. Numbers in it are those of the run's files, or computed as evaluate computes them.",
    )
    add_kinds(parser, _KINDS, _add_arguments, run, dest="plot_command", metavar="FIGURE")
    return parser


def _add_arguments(parser: argparse.ArgumentParser, kind: str) -> None:
    _ADD[kind](parser)
    _add_output(parser, kind)


def _add_output(parser: argparse.ArgumentParser, kind: str) -> None:
    group = parser.add_argument_group("picture")
    group.add_argument(
        "--out", type=Path, action="append", metavar="FILE",
        help=f".png, .svg or .pdf; may be given several times (default {kind}.png)",
    )  # fmt: skip
    group.add_argument("--theme", choices=("light", "dark"), default="light", help="(default light)")
    group.add_argument("--dpi", type=positive, default=150, metavar="N", help="of a .png (default 150)")
    group.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the numbers that stand in the figure"
    )


def _add_losses(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help=_RUN)
    parser.add_argument(
        "--names", nargs="+", metavar="NAME", help="of the runs (default: those of their folders)"
    )
    parser.add_argument(
        "--x", choices=("epoch", "step"), default="epoch", help="along the axis (default epoch)"
    )


def _add_gradients(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", type=Path, nargs=1, help=_RUN)
    parser.add_argument(
        "--cosines", type=Path, metavar="FILE", help="what `diagnose gradients --json` printed"
    )


def _add_xt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources", metavar="SOURCE", type=Path, nargs="+",
        help="a run folder, the folder of an evaluation, or a file of numbers",
    )  # fmt: skip
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the sources (default: their folders')")
    parser.add_argument("--epoch", type=positive, metavar="N", help="evaluation of a run (default: its last)")


def _add_ramachandran(parser: argparse.ArgumentParser) -> None:
    _add_checkpoint(parser, chains=_SAMPLED_CHAINS)
    parser.add_argument(
        "--kind", choices=("pseudo", "phi-psi"), default="pseudo",
        help="Cα dihedrals (default), or φ and ψ of a model of the whole backbone",
    )  # fmt: skip
    parser.add_argument(
        "--t", type=positive, default=75, metavar="T", help="timestep of the one-step estimate (default 75)"
    )
    add_sampler_arguments(parser)


def _add_contacts(parser: argparse.ArgumentParser) -> None:
    _add_checkpoint(parser, chains=3)
    parser.add_argument("--names", nargs="+", metavar="CHAIN", help="these chains, of any split")
    parser.add_argument("--seed", type=int, default=0, help="seed of the selection (default 0)")


def _add_embedding(parser: argparse.ArgumentParser) -> None:
    _add_checkpoint(parser, chains=None)
    parser.add_argument("--seed", type=int, default=0, help="seed of selection and UMAP (default 0)")


def _add_reliability(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("evaluation", metavar="EVALUATION", type=Path, help="folder of an `evaluate`")


def _add_structure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="RUN|FOLDER|FILE", type=Path, help="samples, or one structure file")
    parser.add_argument(
        "reference", metavar="REF", type=Path, nargs="?", help="the file that a file is compared with"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="a prepared data set (default: that of the run)"
    )
    parser.add_argument("--names", nargs="+", metavar="CHAIN", help="these chains")
    parser.add_argument("--chains", type=positive, default=3, metavar="N", help="as many at most (default 3)")


def _add_checkpoint(parser: argparse.ArgumentParser, chains: int | None) -> None:
    parser.add_argument("ckpt", metavar="CHECKPOINT|RUN|EVALUATION", type=Path, help=_CKPT)
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="a prepared data set (default: that of the run)"
    )
    parser.add_argument(
        "--split", default="validation", help="train, validation, test or all (default validation)"
    )
    told = "all" if chains is None else str(chains)
    parser.add_argument(
        "--chains", type=positive, default=chains, metavar="N", help=f"a random selection (default {told})"
    )
    parser.add_argument(
        "--max-length",
        type=positive,
        metavar="L",
        help="leave longer chains out (default: what the model reads)",
    )
    parser.add_argument(
        "--weights", choices=("ema", "raw"), default="ema", help="averaged (default) or raw ones"
    )
    parser.add_argument("--device", default="auto", help="auto (default: a GPU if there is one), cpu, cuda …")
    parser.add_argument(
        "--batch-size", type=positive, default=8, metavar="N", help="chains at a time (default 8)"
    )


def run(args: argparse.Namespace) -> int:
    """Draw and write."""
    kind = args.plot_command
    paths: list[Path] = args.out or [Path(f"{kind}.png")]
    for path in paths:
        _check_picture(path)
    if args.json is not None:
        check_folder("--json", args.json)
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("plot needs matplotlib: pip install 'minifold-pl[plots]'", exit_code=2)
    try:
        figure, numbers = _DRAW[kind](args)
    except OSError as error:
        what = error.filename or "what the figure is drawn from"
        raise UserError(f"cannot read {what}: {error.strerror or error}") from error
    written = [_write(figure, path, args.dpi) for path in paths]
    if args.json is not None:
        written.append(_write_numbers(kind, numbers, args.json))
    with output_told():
        for line in written:
            print(line)
    return 0


def _check_picture(path: Path) -> None:
    if path.suffix.lower() not in PICTURES:
        raise UserError(f"--out {path}: give a name that ends in one of {', '.join(PICTURES)}", exit_code=2)
    check_folder("--out", path)


def _write(figure: Figure, path: Path, dpi: int) -> Path:
    from minifold_pl.checkpoint.atomic import HashingWriter, atomic_write
    from minifold_pl.plots.style import picture

    content = picture(figure, path.suffix[1:].lower(), dpi=dpi)  # type: ignore[arg-type]  # looked at before

    def write(file: HashingWriter) -> None:
        file.write(content)

    try:
        atomic_write(path, write)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _write_numbers(kind: str, numbers: Mapping[str, Any], path: Path) -> Path:
    from minifold_pl.checkpoint.atomic import atomic_write_text
    from minifold_pl.export.manifest import manifest_text

    try:
        atomic_write_text(path, manifest_text(f"plot {kind}", _plain(numbers)))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _plain(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _drawing(name: str) -> Any:
    """The function that draws a figure, its room loaded only now."""

    def draw(args: argparse.Namespace) -> tuple[Figure, dict[str, Any]]:
        from minifold_pl.cli import plot_checkpoint, plot_records

        # Before torch is at work: a figure of a checkpoint runs a model.
        return_large_blocks()
        found = getattr(plot_checkpoint, name, None) or getattr(plot_records, name)
        with told_to_the_user():
            drawn: tuple[Figure, dict[str, Any]] = found(args)
        return drawn

    return draw


def named(paths: Sequence[Path], names: Sequence[str] | None) -> list[str]:
    """A name for each path: those given, else the folders', with as much of the path as tells them apart.

    Raises:
        UserError: There are as many names as paths, or none.
    """
    if names is not None:
        if len(names) != len(paths):
            raise UserError(f"--names gives {len(names)} names for {len(paths)} paths", exit_code=2)
        return list(names)
    whole = [path.resolve() for path in paths]
    if len(set(whole)) < len(whole):
        raise UserError("the same path is given twice", exit_code=2)
    for parts in range(1, max(len(path.parts) for path in whole)):
        short = ["/".join(path.parts[-parts:]) for path in whole]
        if len(set(short)) == len(short):
            return short
    return [str(path) for path in whole]


_ADD = {
    "losses": _add_losses, "gradients": _add_gradients, "xt": _add_xt, "ramachandran": _add_ramachandran,
    "contacts": _add_contacts, "embedding": _add_embedding, "reliability": _add_reliability,
    "structure": _add_structure,
}  # fmt: skip
_DRAW = {kind: _drawing(f"draw_{kind}") for kind in _KINDS}
