"""Where results go: a file in a folder that is there, or standard output."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from minifold_pl.cli.errors import UserError


def check_folder(option: str, path: Path) -> None:
    """See before the work begins that ``path`` can be written.

    Raises:
        UserError: Its folder is missing or not writable, or it is a folder itself.
    """
    folder = path.parent
    if not folder.is_dir():
        why = "is no folder" if folder.exists() else "does not exist; make it first"
        raise UserError(f"{option} {path}: {folder} {why}", exit_code=2)
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder; give a file", exit_code=2)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{option} {path}: the folder {folder} cannot be written", exit_code=2)


@contextlib.contextmanager
def output_told() -> Iterator[None]:
    """Print inside; a full disk behind standard output is told in a line.

    Raises:
        UserError: Standard output cannot be written. A reader that has enough is none of that.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is left in the buffer would be tried again when the program ends.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise UserError(f"cannot write to standard output: {error.strerror or error}") from error
