"""A command whose first word says which of several things it does."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Mapping


def add_kinds(
    parser: argparse.ArgumentParser,
    kinds: Mapping[str, tuple[str, str, str]],
    add_arguments: Callable[[argparse.ArgumentParser, str], None],
    run: Callable[[argparse.Namespace], int],
    *,
    dest: str,
    metavar: str,
) -> None:
    """Give a parser its kinds.

    Args:
        parser: Of the command.
        kinds: Summary, description and examples of each kind.
        add_arguments: Gives a kind's parser, with the kind's name, its arguments.
        run: Does any of them.
        dest: Where the kind's name stands in the arguments.
        metavar: What the help calls it.
    """
    choices = parser.add_subparsers(dest=dest, metavar=metavar, required=True)
    for kind, (summary, description, examples) in kinds.items():
        one = choices.add_parser(
            kind,
            help=summary,
            description=textwrap.fill(description, 80),
            epilog=f"examples:\n  {examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_arguments(one, kind)
        one.set_defaults(run=run)
