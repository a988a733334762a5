"""A checkpoint and whole chains to measure it on: what ``diagnose`` and ``plot`` share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minifold_pl.cli.errors import UserError
from minifold_pl.cli.generation import load_model, told_to_the_user

if TYPE_CHECKING:
    from minifold_pl.data.dataset import ChainDataset


def load_checkpoint(args: argparse.Namespace, stage: str | None) -> tuple[Any, dict[str, Any]]:
    """The module of ``args.ckpt``, of a run folder its best one, and what every result says about it.

    Raises:
        UserError: There is no such checkpoint, or it is of another stage.
    """
    if args.ckpt.is_dir():
        args.ckpt = best_of(args.ckpt)
    module, record = load_model(args, stage)
    return module, {
        "checkpoint": record,
        "settings": {"seed": args.seed, "batch_size": getattr(args, "batch_size", None)},
    }


def best_of(folder: Path) -> Path:
    """The best checkpoint of a run.

    Raises:
        UserError: It has none.
    """
    best = folder / "checkpoints" / "best.ckpt"
    if not best.is_file():
        raise UserError(f"{folder} is a folder without checkpoints/best.ckpt; give a checkpoint", exit_code=2)
    return best


def chains_of(args: argparse.Namespace, module: Any, content: dict[str, Any]) -> ChainDataset:
    """Whole chains of the data set, no longer than the model reads; what they are goes into ``content``.

    ``args`` has ``ckpt``, ``data``, ``split``, ``chains`` (as many at most, None for all), ``max_length``, ``seed``.

    Raises:
        UserError: There is no data set, or no such chains in it.
    """
    from minifold_pl.data.dataset import ChainDataset
    from minifold_pl.data.store import ChainStore

    path = args.data or data_of_the_run(args.ckpt)
    limits = [n for n in (module.max_residues, args.max_length) if n is not None]
    with told_to_the_user(exit_code=2):
        store = ChainStore.open(path)
        chains = ChainDataset(
            store, args.split, max_length=min(limits) if limits else None, long_chains="drop", seed=args.seed,
            limit=args.chains, architectures=tuple(module.architecture_labels) or None,
            needs=module.needs,
        )  # fmt: skip
    module.use_store(path)
    content["data"] = {
        "path": str(path),
        "provenance": dict(store.provenance),
        "split": args.split,
        "chains": len(chains),
        "max_length": min(limits) if limits else None,
    }
    return chains


def data_of_the_run(ckpt: Path | None) -> Path:
    """The data set that a checkpoint's run was trained on, as its ``config.yaml`` says.

    Raises:
        UserError: That is not known, or it is not here.
    """
    import yaml

    from minifold_pl.results.run_data import places_of_data

    unknown = UserError("give a prepared data set with --data", exit_code=2)
    if ckpt is None:
        raise unknown
    folder = ckpt.parent.parent
    try:
        content = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        places = places_of_data(content["data"]["path"], folder)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        raise unknown from None
    for path in places:
        if path.is_dir():
            return path
    raise UserError(f"the run's data set {places[-1]} is not here: give one with --data", exit_code=2)
