"""``minifold-pl describe``: what a config builds, before any data."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from minifold_pl.cli.errors import UserError
from minifold_pl.cli.generation import positive

_GIB = 1 << 30


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command's parser."""
    parser = subparsers.add_parser(
        "describe",
        help="what a config builds: parameters, operations, memory",
        description="Build the model of a config without data, and count its parameters by module, the "
        "operations of a step and the memory of training.",
    )
    parser.add_argument("--config", "-c", required=True, metavar="X", help="path or name of a shipped config")
    parser.add_argument(
        "--batch", type=positive, default=4, metavar="B", help="chains in a batch (default 4)"
    )
    parser.add_argument("--length", type=positive, default=128, metavar="L", help="residues (default 128)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="change a setting, e.g. model.init_args.pair_stack.init_args.blocks=4; may be repeated",
    )  # fmt: skip
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Build, count and print."""
    from minifold_pl.cli.lightning_cli import instantiate_model

    module = instantiate_model(args.config, [f"--{setting.lstrip('-')}" for setting in args.set])
    description = describe(module, batch_size=args.batch, length=args.length)
    description = {"config": args.config, **description}
    if args.json:
        print(json.dumps(description, indent=2))
    else:
        _show(description)
    return 0


def describe(module: Any, *, batch_size: int, length: int) -> dict[str, Any]:
    """Parameters, cost of a step and memory of ``module``.

    Raises:
        UserError: The model cannot read chains of ``length``.
    """
    from minifold_pl.cli.costs import parameter_counts, state_bytes, step_cost

    if module.max_residues is not None and length > module.max_residues:
        raise UserError(
            f"--length {length}: this model reads up to {module.max_residues} residues", exit_code=2
        )
    modules = parameter_counts(module)
    cost = step_cost(module, batch_size, length)
    memory = {**state_bytes(module), "activations": cost.activation_bytes}
    return {
        "stage": module.stage,
        **{kind: sum(part[kind] for part in modules.values()) for kind in ("total", "trainable", "frozen")},
        "modules": modules,
        "batch": batch_size,
        "length": length,
        "flops": {"forward": cost.flops_forward, "step": cost.flops_step, "measured_on": cost.measured_on},
        "memory_bytes": {**memory, "total": sum(memory.values())},
        "max_residues": module.max_residues,
        "optimizer": asdict(module.optimizer_config) if hasattr(module, "optimizer_config") else None,
    }


def _show(description: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    parameters = Table("module", title=f"{description['config']} ({description['stage']} stage)")
    for kind in ("total", "trainable", "frozen"):
        parameters.add_column(kind, justify="right")
    for name, part in description["modules"].items():
        parameters.add_row(name, *(f"{part[kind]:,}" for kind in ("total", "trainable", "frozen")))
    parameters.add_section()
    parameters.add_row(
        "all", *(f"{description[kind]:,}" for kind in ("total", "trainable", "frozen")), style="bold"
    )
    console.print(parameters)

    flops, memory = description["flops"], description["memory_bytes"]
    costs = Table("one step", title=f"batch {description['batch']}, {description['length']} residues")
    costs.add_column("", justify="right")
    costs.add_row("forward", f"{flops['forward'] / 1e9:,.1f} GFLOP")
    costs.add_row("forward + backward", f"{flops['step'] / 1e9:,.1f} GFLOP")
    costs.add_section()
    for name, size in memory.items():
        costs.add_row(name, f"{size / _GIB:.3f} GiB", style="bold" if name == "total" else None)
    console.print(costs)
    console.print(
        "Estimates: float32 throughout; matrix products and attention only; temporary buffers are left out."
    )
