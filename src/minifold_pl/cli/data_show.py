"""``minifold-pl data show``: one chain of a store as text, as a structure file, as a picture."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minifold_pl.cli.errors import UserError

if TYPE_CHECKING:
    from minifold_pl.data.records import ChainRecord

_PICTURES = (".png", ".svg", ".pdf")
_DESCRIPTION = """\
Show one chain: its labels, what is observed of it, its breaks and its sequence, with a dash below each residue that
has no Cα. --pdb and --cif write it as a structure file, --png draws its Cα trace and its contact map.
"""


def add_parser(commands: Any) -> None:
    """Add ``data show``."""
    parser = commands.add_parser(
        "show", help="one chain as text, structure or picture", description=_DESCRIPTION, allow_abbrev=False
    )
    parser.add_argument("store", metavar="D", help="a store")
    parser.add_argument("name", metavar="NAME", help="name of a chain, or its place as #0, #1, …")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--pdb", type=Path, metavar="FILE", help="write the chain as PDB")
    parser.add_argument("--cif", type=Path, metavar="FILE", help="write the chain as mmCIF")
    parser.add_argument(
        "--png", type=Path, metavar="FILE", help="draw the chain (.png, .svg or .pdf); needs matplotlib"
    )
    parser.set_defaults(work=_work)


def _work(args: argparse.Namespace) -> int:
    import numpy as np

    from minifold_pl.checkpoint.atomic import atomic_write_text
    from minifold_pl.constants import CA_ATOM
    from minifold_pl.data.show import chain_facts, chain_text, find_chain
    from minifold_pl.data.store import ChainStore, is_store

    if args.png:
        _check_picture(args.png)
    if not is_store(args.store) and is_store(args.name):
        raise UserError(
            f"the store comes first: minifold-pl data show {args.name} {shlex.quote(args.store)}", exit_code=2
        )
    store = ChainStore.open(args.store)
    place = _place(args.name, len(store))
    place = find_chain(store, args.name) if place is None else place
    store.check(place)
    facts, record = chain_facts(store, place), store[place]
    observed = ~np.isnan(record.coords[:, CA_ATOM]).any(-1)
    if args.json:
        print(json.dumps(facts.as_dict(), indent=1))
    else:
        print(chain_text(facts, observed))
    for path, kind in ((args.pdb, "pdb"), (args.cif, "cif")):
        if path:
            with _written(path):
                atomic_write_text(path, _structure(record, kind))
    if args.png:
        with _written(args.png):
            _draw(record, args.png)
    return 0


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    """Name the file that cannot be written: a full disk says nothing of it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def _place(name: str, chains: int) -> int | None:
    number = name.removeprefix("#")
    if name == number or not number.isdecimal():
        return None
    if int(number) >= chains:
        raise UserError(f"chain {name}: the store has {chains:,} chains, #0…#{chains - 1}")
    return int(number)


def _structure(record: ChainRecord, kind: str) -> str:
    from minifold_pl.export.observed import ObservedChain, observed_mmcif_text, observed_pdb_text

    _, dot, chain = record.name.rpartition(".")
    letter = (
        chain if dot and chain.isalnum() and (len(chain) == 1 or (kind == "cif" and len(chain) <= 4)) else "A"
    )
    observed = ObservedChain(
        name=record.name,
        sequence=record.sequence,
        coords=record.coords,
        residue_ids=record.residue_ids,
        chain=letter,
        title=f"chain {record.name} as a store of minifold-pl holds it",
    )
    return observed_pdb_text(observed) if kind == "pdb" else observed_mmcif_text(observed)


def _check_picture(path: Path) -> None:
    if path.suffix.lower() not in _PICTURES:
        raise UserError(f"--png {path}: give a name that ends in one of {', '.join(_PICTURES)}", exit_code=2)
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(
            "--png needs matplotlib: pip install 'minifold-pl[plots]', or leave --png out", exit_code=2
        )


def _draw(record: ChainRecord, path: Path) -> None:
    from minifold_pl.checkpoint.atomic import HashingWriter, atomic_write
    from minifold_pl.constants import CA_ATOM
    from minifold_pl.data.records import peptide_bonds
    from minifold_pl.plots.chain import chain_figure

    bonded = peptide_bonds(record.coords, record.breaks)
    title = f"{record.name}, {len(record)} residues"
    figure = chain_figure(record.coords[:, CA_ATOM], bonded, title, record.residue_ids)
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:].lower(), dpi=120, bbox_inches="tight")

    def write(file: HashingWriter) -> None:
        file.write(picture.getbuffer())

    atomic_write(path, write)
