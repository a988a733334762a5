"""``minifold-pl diagnose``: what is wrong with a model, without a training run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minifold_pl.cli import ladder
from minifold_pl.cli.allocator import return_large_blocks
from minifold_pl.cli.checkpoint_chains import chains_of, load_checkpoint
from minifold_pl.cli.errors import UserError
from minifold_pl.cli.generation import (
    choose_device,
    out_of_memory_told,
    positive,
    told_to_the_user,
)
from minifold_pl.cli.kinds import add_kinds
from minifold_pl.cli.output_file import output_told
from minifold_pl.cli.progress import progress

NOISE_TIMES = (25, 75, 225, 475, 725, 975)
GRADIENT_TIMES = (125, 375, 625, 875)
"""The middles of four equal bands of T = 1000."""
SEQUENCE_TIMES = (725, 850, 975)

_KINDS: dict[str, tuple[str, str, str]] = {
    "noise": (
        "one-step estimates at every noise level, beside a floor that knows no sequence",
        "Noise chains to each timestep, let the model guess them back in one step, and compare with the best "
        "linear guess for a Gaussian chain (a Wiener smoother), which knows neither sequences nor proteins.",
        "minifold-pl diagnose noise runs/v13/checkpoints/best.ckpt --data STORE\n"
        "  minifold-pl diagnose noise runs/v13 --times 25,225,725 --chains 200 --json",
    ),
    "sequence": (
        "does the model read the sequence?",
        "The same noised chains with the real sequence, with its residues shuffled, with MASK in place of every "
        "residue and with another chain's sequence, where the noise leaves little to go by. A model that does as "
        "well with a wrong sequence does not read it.",
        "minifold-pl diagnose sequence runs/v13/checkpoints/best.ckpt --data STORE\n"
        "  minifold-pl diagnose sequence runs/v13 --times 725,975 --chains 200",
    ),
    "overfit": (
        "can the model learn a few chains by heart, and do its samples become them?",
        "Train on one batch alone for a minute or so and measure losses and samples on the way. A sound model's "
        "loss falls and its samples reach the truth. Nothing is saved.",
        "minifold-pl diagnose overfit runs/v13/checkpoints/best.ckpt --data STORE --seconds 120\n"
        "  minifold-pl diagnose overfit --config v13_small.yaml --data STORE --chains 2 --lr 0.001",
    ),
    "gradients": (
        "do the loss terms pull the weights in the same direction?",
        "Cosine similarity of the gradients of every pair of loss terms, by module, over the parameters that both "
        "terms reach; and the norm of each term's gradient. Takes checkpoints of either stage, trains nothing.",
        "minifold-pl diagnose gradients runs/v13/checkpoints/best.ckpt --data STORE\n"
        "  minifold-pl diagnose gradients runs/contact --depth 3 --json",
    ),
    "ladder": (
        "does a model learn? Seven questions, from the sampler to real chains, each with a number",
        "Train a config's model from fresh weights for minutes: on one chain, on 32, on the synthetic set, on real "
        "chains; and with each of v15's choices switched off. Every number stands beside its goal and what trivial "
        "predictions score. Times are for 2 CPU cores; results are kept in ladder.json of --out.",
        "minifold-pl diagnose ladder --config v15_ladder.yaml --data STORE\n"
        "  minifold-pl diagnose ladder --rungs 5 --out ladder\n"
        "  minifold-pl diagnose ladder --rungs 7 --minutes 10 --threads 1 --jobs 2",
    ),
}
_CHAINS = {"noise": 64, "sequence": 64, "overfit": 1, "gradients": 16}
_BATCH = {"noise": 8, "sequence": 8, "gradients": 2}


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command's parser."""
    parser = subparsers.add_parser(
        "diagnose",
        help="what is wrong with a model, without a training run",
        description="Measure what a checkpoint knows and what it does not. None of them changes anything.",
    )
    add_kinds(parser, _KINDS, _add_arguments, run, dest="diagnose_command", metavar="KIND")
    return parser


def _add_arguments(parser: argparse.ArgumentParser, kind: str) -> None:
    if kind == "ladder":
        ladder.add_arguments(parser)
        return
    overfit = kind == "overfit"
    parser.add_argument(
        "ckpt", metavar="CHECKPOINT", type=Path, nargs="?" if overfit else None,
        help="a checkpoint, or a run folder, whose best one is taken",
    )  # fmt: skip
    if overfit:
        parser.add_argument("--config", "-c", metavar="X", help="fresh weights of a config instead")
        parser.add_argument(
            "--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting of --config"
        )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="a prepared data set (default: that of the run)"
    )
    split = "train" if overfit else "validation"
    parser.add_argument("--split", default=split, help=f"train, validation, test or all (default {split})")
    count = _CHAINS[kind]
    parser.add_argument(
        "--chains", type=positive, default=count, metavar="N", help=f"a random selection (default {count})"
    )
    parser.add_argument(
        "--max-length", type=positive, metavar="L", default=64 if overfit else None,
        help=f"leave longer chains out (default: {'64' if overfit else 'what the model reads'})",
    )  # fmt: skip
    parser.add_argument(
        "--weights", choices=("ema", "raw"), default="ema", help="averaged (default) or raw ones"
    )
    parser.add_argument("--device", default="auto", help="auto (default: a GPU if there is one), cpu, cuda …")
    if kind in _BATCH:
        size = _BATCH[kind]
        parser.add_argument(
            "--batch-size",
            type=positive,
            default=size,
            metavar="N",
            help=f"chains at a time (default {size})",
        )
    parser.add_argument("--seed", type=_seed, default=0, help="seed of chains and noise (default 0)")
    parser.add_argument("--json", action="store_true", help="print JSON, with the numbers of every chain")
    _ADD[kind](parser)


def _add_noise(parser: argparse.ArgumentParser) -> None:
    _add_times(parser, NOISE_TIMES)
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="also draw the curves (.png, .svg, .pdf); needs matplotlib"
    )


def _add_sequence(parser: argparse.ArgumentParser) -> None:
    _add_times(parser, SEQUENCE_TIMES)


def _add_gradients(parser: argparse.ArgumentParser) -> None:
    _add_times(parser, GRADIENT_TIMES)
    parser.add_argument(
        "--depth", type=positive, metavar="N",
        help="parts of a parameter's name that make its module, e.g. 2 for denoiser.blocks (default: its own parts)",
    )  # fmt: skip


def _add_overfit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="time to train (default 60)")
    parser.add_argument("--steps", type=positive, metavar="N", help="end after this many steps at the latest")
    parser.add_argument(
        "--lr", type=float, default=1e-3, metavar="X", help="peak learning rate (default 0.001)"
    )
    parser.add_argument(
        "--draws",
        type=positive,
        default=4,
        metavar="K",
        help="noised copies of a chain in a step (default 4)",
    )


def _add_times(parser: argparse.ArgumentParser, times: Sequence[int]) -> None:
    shown = ",".join(map(str, times))
    parser.add_argument(
        "--times", type=_times, metavar="T,T,…",
        help=f"timesteps of the diffusion process (default {shown} of 1000)",
    )  # fmt: skip


def _times(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of timesteps such as 25,225,725") from error


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {value}")
    return value


def run(args: argparse.Namespace) -> int:
    """Measure and show."""
    # Before torch is imported. Gradients of v13 at full width, one chain of 125 residues: 6.6 GB instead of 12.6.
    return_large_blocks()
    return _RUN[args.diagnose_command](args)


def run_noise(args: argparse.Namespace) -> int:
    """Measure and show."""
    from minifold_pl.cli import diagnose_tables
    from minifold_pl.diagnostics.noise import noise_scores

    if args.plot is not None:
        diagnose_tables.check_plot(args.plot)
    module, content = load_checkpoint(args, "diffusion")
    chains = chains_of(args, module, content)
    times = _timesteps(args, module, NOISE_TIMES)
    with progress("noise", len(chains)) as advance, told_to_the_user(exit_code=2), out_of_memory_told():
        found = noise_scores(
            module, chains, times, seed=args.seed, batch_size=args.batch_size, advance=advance
        )
    told = diagnose_tables.noise_content(found, module.noise_schedule)
    if args.plot is not None:
        diagnose_tables.plot_noise(args.plot, {**content, **told})
    return _tell(args, {**content, **told}, diagnose_tables.show_noise)


def run_sequence(args: argparse.Namespace) -> int:
    """Measure and show."""
    from minifold_pl.cli import diagnose_tables
    from minifold_pl.diagnostics.sequence import sequence_scores

    module, content = load_checkpoint(args, "diffusion")
    chains = chains_of(args, module, content)
    times = _timesteps(args, module, SEQUENCE_TIMES)
    with progress("sequence", len(chains)) as advance, told_to_the_user(exit_code=2), out_of_memory_told():
        found = sequence_scores(
            module, chains, times, seed=args.seed, batch_size=args.batch_size, advance=advance
        )
    told = diagnose_tables.sequence_content(found, p_uncond=module.p_uncond)
    return _tell(args, {**content, **told}, diagnose_tables.show_sequence)


def run_gradients(args: argparse.Namespace) -> int:
    """Measure and show."""
    from minifold_pl.cli import diagnose_tables
    from minifold_pl.diagnostics.gradients import gradient_report

    module, content = load_checkpoint(args, None)
    chains = chains_of(args, module, content)
    times: tuple[int, ...] = ()
    if module.stage == "diffusion":
        times = _timesteps(args, module, GRADIENT_TIMES)
        content["settings"]["times"] = times
    elif args.times is not None:
        raise UserError(f"--times: a {module.stage} checkpoint has no timesteps", exit_code=2)
    with progress("gradients", len(chains)) as advance, told_to_the_user(exit_code=2), out_of_memory_told():
        report = gradient_report(
            module,
            chains,
            times,
            seed=args.seed,
            batch_size=args.batch_size,
            depth=args.depth,
            advance=advance,
        )
    told = diagnose_tables.gradient_content(report)
    return _tell(args, {**content, **told}, diagnose_tables.show_gradients)


def run_overfit(args: argparse.Namespace) -> int:
    """Train, measure and show."""
    from minifold_pl.cli import diagnose_tables
    from minifold_pl.data.collate import collate
    from minifold_pl.diagnostics.overfit import OverfitConfig, overfit

    with told_to_the_user(exit_code=2):
        config = OverfitConfig(
            seconds=args.seconds, steps=args.steps, lr=args.lr, noise_draws=args.draws, seed=args.seed
        )
    module, content = _load_or_build(args)
    chains = chains_of(args, module, content)
    batch = collate([chains[i] for i in range(len(chains))]).to(next(module.parameters()).device)
    content["settings"] = asdict(config)
    with out_of_memory_told():
        result = overfit(module, batch, config, diagnose_tables.say_point)
    told = diagnose_tables.overfit_content(result, batch)
    return _tell(args, {**content, **told}, diagnose_tables.show_overfit)


def _load_or_build(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    if (args.ckpt is None) == (args.config is None):
        raise UserError("give either a CHECKPOINT or --config: what is to learn the chains?", exit_code=2)
    if args.config is None:
        if args.set:
            raise UserError("--set changes a --config; a checkpoint's model is as it is", exit_code=2)
        return load_checkpoint(args, None)
    from minifold_pl.cli.lightning_cli import instantiate_model, resolve_config

    overrides = [f"--{setting.lstrip('-')}" for setting in args.set]
    module = instantiate_model(args.config, overrides)
    if args.data is None:
        path = resolve_config(args.config, overrides)["data"]["path"]
        args.data = Path(path) if path else None
    return module.to(choose_device(args.device)), {"checkpoint": None, "config": args.config, "set": args.set}


def _timesteps(args: argparse.Namespace, module: Any, default: Sequence[int]) -> tuple[int, ...]:
    from minifold_pl.modules.one_step import check_times

    timesteps = module.noise_schedule.timesteps
    if args.times is None:
        # The defaults are those of T = 1000.
        return tuple(sorted({min(max(round(t * timesteps / 1000), 1), timesteps - 1) for t in default}))
    with told_to_the_user(exit_code=2):
        return check_times(args.times, timesteps)


def _tell(args: argparse.Namespace, content: dict[str, Any], show: Callable[[dict[str, Any]], None]) -> int:
    from minifold_pl.export.manifest import manifest_text

    with output_told():
        if args.json:
            print(manifest_text(f"diagnose {args.diagnose_command}", content), end="")
        else:
            show(content)
    return 0


_ADD = {"noise": _add_noise, "sequence": _add_sequence, "overfit": _add_overfit, "gradients": _add_gradients}
_RUN = {
    "noise": run_noise, "sequence": run_sequence, "overfit": run_overfit, "gradients": run_gradients,
    "ladder": ladder.run,
}  # fmt: skip
