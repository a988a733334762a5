"""Which prediction belongs to which reference: by file name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from minifold_pl.cli.errors import UserError
from minifold_pl.data.structure_content import structure_name

ENDINGS: Final = (".cif", ".mmcif", ".pdb", ".ent")
"""Of structure files, ``.gz`` aside. Of a name that is there twice, the first ending holds."""


@dataclass(frozen=True, kw_only=True)
class FilePair:
    """A prediction and its reference."""

    name: str
    pred: Path
    ref: Path


@dataclass(frozen=True, kw_only=True)
class FoundPairs:
    """What there is to score, and what has no partner."""

    pairs: tuple[FilePair, ...]
    several: bool
    """Folders were given: there may be many pairs, or one."""
    lonely_preds: tuple[str, ...] = ()
    """File names of predictions without a reference."""
    lonely_refs: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def find_pairs(pred: Path, ref: Path, suffix: str = "") -> FoundPairs:
    """Pair two files, two folders by the names of their files, or every file of a folder with one reference.

    A name counts without its endings (``.pdb``, ``.ent``, ``.cif``, ``.mmcif``, ``.gz``), four-letter PDB codes
    in any case and with the archive's ``pdb`` before them.

    Args:
        pred: File or folder of predictions.
        ref: File or folder of references.
        suffix: What the predictions' names end in and the references' do not; others are not predictions.

    Raises:
        UserError: A path does not exist, the two cannot be paired, or no names agree.
    """
    for path in (pred, ref):
        if not path.exists():
            raise UserError(f"{path} does not exist", exit_code=2)
    if not pred.is_dir():
        if ref.is_dir():
            raise UserError(
                f"{pred} is a file and {ref} a folder; give two files, two folders, or a folder and its reference",
                exit_code=2,
            )
        return FoundPairs(pairs=(FilePair(name=structure_name(pred), pred=pred, ref=ref),), several=False)
    preds, notes = _by_name(pred, suffix)
    if not ref.is_dir():
        pairs = tuple(FilePair(name=name, pred=path, ref=ref) for name, path in sorted(preds.items()))
        return FoundPairs(pairs=pairs, several=True, notes=tuple(notes))
    refs, more = _by_name(ref)
    common = sorted(preds.keys() & refs.keys())
    if not common:
        raise UserError(
            f"no file of {pred} has the name of one of {ref} ({_examples(preds)}; {_examples(refs)}); "
            "--suffix leaves out an ending",
            exit_code=2,
        )
    return FoundPairs(
        pairs=tuple(FilePair(name=name, pred=preds[name], ref=refs[name]) for name in common),
        several=True,
        lonely_preds=tuple(preds[name].name for name in sorted(preds.keys() - refs.keys())),
        lonely_refs=tuple(refs[name].name for name in sorted(refs.keys() - preds.keys())),
        notes=(*notes, *more),
    )


def _by_name(folder: Path, suffix: str = "") -> tuple[dict[str, Path], list[str]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for path in _structure_files(folder):
        name = structure_name(path)
        if name.endswith(suffix) and len(name) > len(suffix):
            found[structure_name(name.removesuffix(suffix))].append(path)
    if not found:
        ending = f" ending in {suffix!r}" if suffix else ""
        raise UserError(f"{folder} holds no structure files{ending} ({', '.join(ENDINGS)}, .gz)", exit_code=2)
    doubles = {name: paths for name, paths in found.items() if len(paths) > 1}
    notes = []
    if doubles:
        name, paths = next(iter(doubles.items()))
        notes.append(
            f"{folder}: {len(doubles)} name{'s' * (len(doubles) > 1)} with several files, of each the first is "
            f"scored, as in {', '.join(path.name for path in paths)}"
        )
    return {name: paths[0] for name, paths in found.items()}, notes


def _structure_files(folder: Path) -> Iterator[Path]:
    """In the order in which the first of one name is taken."""
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}", exit_code=2) from error
    for ending in ENDINGS:
        for path in files:
            if path.name.lower().removesuffix(".gz").endswith(ending) and path.is_file():
                yield path


def _examples(files: dict[str, Path]) -> str:
    path = files[min(files)]
    return f"{path.parent.name}/{path.name}" + (f" and {len(files) - 1} more" if len(files) > 1 else "")
