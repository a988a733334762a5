"""The files that a user names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from minifold_pl.data.chain_set import SourceError, is_called_chain_set
from minifold_pl.data.store_format import is_store
from minifold_pl.data.structure_content import is_structure


@dataclass(frozen=True)
class SourceFile:
    """A file as it is now."""

    path: str
    """Absolute."""
    size: int
    mtime_ns: int


def find_files(paths: Sequence[str | Path]) -> list[SourceFile]:
    """All files among ``paths`` and in folders among them, each once, in the order of their absolute paths.

    Hidden files and folders are left out unless named, and so are stores, which a user may well make beside their
    sources; links to folders are followed, once each. A folder inside that cannot be listed and
    a link that leads nowhere are given as files: reading them says what is wrong.

    Raises:
        SourceError: a path does not exist or cannot be listed, or nothing is there.
    """
    found: dict[str, SourceFile] = {}
    for path in paths:
        if not os.path.exists(path):
            raise SourceError(f"{path} does not exist; give a chain set, structure files or a folder of them")
        names = _in_folder(str(path)) if os.path.isdir(path) else iter([str(path)])
        for name in names:
            absolute = os.path.abspath(name)
            try:
                status = os.stat(absolute)
            except OSError:  # a link to nothing, or removed meanwhile: reading it will say so
                found[absolute] = SourceFile(absolute, -1, -1)
            else:
                found[absolute] = SourceFile(absolute, status.st_size, status.st_mtime_ns)
    if not found:
        raise SourceError(f"{', '.join(map(str, paths))} holds no file")
    return [found[path] for path in sorted(found)]


def are_structures(paths: Sequence[str | Path]) -> bool:
    """Whether ``paths`` are structure files or folders of them; a chain set is a single file."""
    if len(paths) != 1 or os.path.isdir(paths[0]):
        return True
    return not is_called_chain_set(paths[0]) and is_structure(paths[0])


def _in_folder(folder: str) -> Iterator[str]:
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        try:
            if here != folder and is_store(here):
                continue
            entries = list(os.scandir(here))
        except OSError as error:
            if here == folder:
                raise SourceError(f"folder {here} cannot be listed: {error.strerror}") from None
            yield here
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _leads_to_folder(entry):
                waiting.append(entry.path)
            else:
                yield entry.path


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that is closed
        return False


def common_root(files: Sequence[SourceFile]) -> str:
    """The folder that all files are in."""
    return os.path.commonpath([os.path.dirname(file.path) for file in files])
