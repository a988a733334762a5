"""What ``sample`` and ``evaluate`` share: options, the model on its device, batches of sequences."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minifold_pl.cli.errors import UserError

if TYPE_CHECKING:
    import torch

    from minifold_pl.modules.sampling import SamplerConfig
    from minifold_pl.modules.structures import SampledChain
    from minifold_pl.types import ProteinBatch


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which checkpoint, which of its weights, where."""
    parser.add_argument(
        "--ckpt", required=True, type=Path, metavar="FILE", help="checkpoint of a trained model"
    )
    parser.add_argument(
        "--weights",
        choices=("ema", "raw"),
        default="ema",
        help="averaged weights (default) or the last raw ones",
    )
    parser.add_argument(
        "--device", default="auto", help="auto (default: a GPU if there is one), cpu, cuda, cuda:1, mps …"
    )
    parser.add_argument(
        "--batch-size", type=positive, default=8, metavar="N", help="chains at a time (default 8)"
    )


_NUMBERS = (
    ("sigma-max", "S", "heun, euler: noise σ to begin at, in model units (80 unless configured)"),
    ("sigma-min", "S", "heun, euler: σ before the last step (0.002 unless configured)"),
    ("rho", "P", "heun, euler: the higher, the more of the steps are at little noise (7 unless configured)"),
    ("churn", "X", "heun, euler: fresh noise over all steps, S_churn; 0 (unless configured): none"),
    ("churn-min", "S", "heun, euler: no fresh noise below this σ (0 unless configured)"),
    ("churn-max", "S", "heun, euler: no fresh noise above this σ (no limit unless configured)"),
    ("noise-scale", "X", "heun, euler: factor of the fresh noise (1 unless configured)"),
    ("step-scale", "X", "ddim, euler: factor of each step but the last (1 unless configured)"),
)


def add_sampler_arguments(parser: argparse.ArgumentParser) -> None:
    """Settings of the sampler; those left out are the checkpoint's own."""
    group = parser.add_argument_group("sampler", "What is left out is as the checkpoint's config says.")
    group.add_argument(
        "--sampler", choices=("ddim", "heun", "euler"),
        help="ddim (unless configured), or heun or euler, second and first order, of Karras et al. 2022",
    )  # fmt: skip
    group.add_argument(
        "--steps", type=positive, metavar="N",
        help="denoising steps (50 unless configured); each calls the network once, of heun twice but for the last: "
        "2N - 1 calls a sample",
    )  # fmt: skip
    group.add_argument(
        "--eta", type=float, metavar="X", help="ddim: fresh noise at each step, 0 to 1 (0 unless configured)"
    )
    for name, letter, text in _NUMBERS:
        group.add_argument(f"--{name}", type=float, metavar=letter, help=text)
    group.add_argument(
        "--guidance", type=float, metavar="W", help="classifier-free guidance weight (1 unless configured)"
    )
    group.add_argument("--guidance-space", choices=("eps", "x0"), help="what guidance combines")
    group.add_argument(
        "--compile", choices=("off", "graphs"),
        help="graphs: on a GPU, compile the denoiser and replay it as a CUDA graph; for many chains of few lengths",
    )  # fmt: skip
    group.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")


def positive(text: str) -> int:
    """An argparse type: a whole number from 1."""
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from error
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


@contextmanager
def told_to_the_user(*, exit_code: int = 1) -> Iterator[None]:
    """Turn the :class:`ValueError` of a room below into a line for the user."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error), exit_code=exit_code) from error


def choose_device(name: str) -> torch.device:
    """The device that ``--device`` means.

    Raises:
        UserError: There is no such device, or not on this machine.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"--device {name} cannot be used here: {first}", exit_code=2) from error
    return device


def load_model(args: argparse.Namespace, stage: Any = None) -> tuple[Any, dict[str, Any]]:
    """The module of ``--ckpt`` on its device, and what every result says about its checkpoint."""
    from minifold_pl.checkpoint.contents import load_unverified, summary, verify
    from minifold_pl.modules.load import load_module

    device = choose_device(args.device)
    with told_to_the_user():
        verified = verify(args.ckpt)
        module = load_module(args.ckpt, stage, weights=args.weights)
        told = summary(load_unverified(args.ckpt, mmap=True))
    record = {
        "path": str(args.ckpt),
        "sha256": verified.sha256,
        "stage": told.stage,
        "step": told.step,
        "epoch": told.epoch,
        "weights": args.weights if told.ema else "raw",
        "parameters": sum(p.numel() for p in module.parameters()),
    }
    return module.to(device).eval(), record


def sampler_settings(module: Any, args: argparse.Namespace) -> SamplerConfig:
    """The checkpoint's own sampler settings, with those of the command line put in their place."""
    from minifold_pl.modules.sampling import OWN_SETTINGS

    flags = {name: name for name in ("steps", *OWN_SETTINGS, "guidance", "guidance_space", "compile")}
    flags["kind"] = "sampler"
    given = {name: value for name, flag in flags.items() if (value := getattr(args, flag)) is not None}
    with told_to_the_user(exit_code=2):
        sampler: SamplerConfig = module.sampler.changed(**given)
        # Before the work begins: how many steps there can be is known to the schedule alone.
        sampler.times(module.noise_schedule)
    return sampler


def sequence_batch(names: Sequence[str], sequences: Sequence[str]) -> ProteinBatch:
    """A batch of whole chains that have a sequence and no coordinates."""
    import numpy as np

    from minifold_pl.constants import BACKBONE_ATOMS, NO_LABEL
    from minifold_pl.data.collate import collate
    from minifold_pl.data.dataset import ChainItem
    from minifold_pl.data.tokenizer import encode

    items = []
    for name, sequence in zip(names, sequences, strict=True):
        length = len(sequence)
        bonded = np.ones(length, dtype=bool)
        bonded[-1:] = False
        items.append(
            ChainItem(
                name=name,
                tokens=encode(sequence),
                coords=np.zeros((length, len(BACKBONE_ATOMS), 3), dtype=np.float32),
                atom_mask=np.zeros((length, len(BACKBONE_ATOMS)), dtype=bool),
                bonded=bonded,
                start=0,
                cath_class=NO_LABEL,
                cath_architecture=NO_LABEL,
            )
        )
    return collate(items)


_SPREAD = 1.5
"""The longest chain of a batch of like lengths is at most so many times as long as its shortest."""


def like_lengths(lengths: Sequence[int], batch_size: int) -> list[int]:
    """Where to cut chains in order of their lengths into batches: 0, the start of each further one, the end.

    A batch costs what its longest chain does for every one of its chains: 40 residues beside 500 would be paid for
    more than a hundred times over.
    """
    cuts = [0]
    for place, length in enumerate(lengths):
        if place - cuts[-1] == batch_size or length > _SPREAD * max(lengths[cuts[-1]], 32):
            cuts.append(place)
    return [*cuts, len(lengths)]


def draw(
    module: Any, batch: ProteinBatch, sampler: SamplerConfig, *, seed: int, keys: Sequence[str]
) -> list[SampledChain]:
    """One structure of each chain of ``batch``, as it is written."""
    import torch

    from minifold_pl.modules.structures import final_structures

    device = next(module.parameters()).device
    with torch.inference_mode(), out_of_memory_told():
        drawn = module.sample(batch.to(device), sampler, seed=seed, keys=list(keys))
    return final_structures(drawn, batch)


@contextmanager
def out_of_memory_told() -> Iterator[None]:
    """Say what helps where a GPU's memory is not enough."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError("the GPU's memory is full: lower --batch-size, or use --device cpu") from error


def refuse_overwriting(out: Path, names: Sequence[str], *, overwrite: bool) -> None:
    """See that ``out`` can become a folder, and that none of ``names`` is in it already.

    Raises:
        UserError: It is a file, or holds results that would be replaced and ``--overwrite`` was not given.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; give a folder", exit_code=2)
    present = [name for name in names if (out / name).exists()]
    if present and not overwrite:
        more = f" and {len(present) - 1} more" if len(present) > 1 else ""
        raise UserError(
            f"--out {out} already holds {present[0]}{more}: give another folder, or --overwrite", exit_code=2
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {out}: {error.strerror}") from error
