"""``minifold-pl data embed``: what a language model makes of a store's sequences, before a training needs it."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from minifold_pl.cli.errors import UserError
from minifold_pl.cli.progress import progress

if TYPE_CHECKING:
    from minifold_pl.data.store import ChainStore

_DESCRIPTION = """\
Have ESM-2 read every sequence of a store and keep its embeddings there, in embeddings/, where an encoder that is a
language model looks for them. What is there already is checked, and made again where it is damaged; a run that was
cut off goes on when the same command is given again. Needs the extra plm.
"""


def add_parser(commands: Any) -> None:
    """Add ``data embed``."""
    parser = commands.add_parser(
        "embed",
        help="keep a language model's embeddings in a store",
        description=_DESCRIPTION,
        allow_abbrev=False,
    )
    parser.add_argument("store", metavar="D", help="a store")
    parser.add_argument(
        "--model", required=True, type=Path, metavar="DIR", help="folder that ESM-2 was saved to"
    )
    parser.add_argument(
        "--split", default="all", metavar="S", help="train, validation, test, none, or all (default)"
    )
    parser.add_argument(
        "--max-length",
        type=int,
        metavar="L",
        help="leave longer chains out: data.max_length of the training, which reads pieces of these",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, … (default auto)")
    parser.set_defaults(work=_work)


def _work(args: argparse.Namespace) -> int:
    import torch

    from minifold_pl.cli.generation import choose_device
    from minifold_pl.data.store import ChainStore
    from minifold_pl.modules.embedding_cache import EmbeddingCache
    from minifold_pl.modules.language_model import LanguageModel, store_cache, with_ends

    if args.max_length is not None and args.max_length < 1:
        raise UserError(f"--max-length {args.max_length}: give at least 1 residue", exit_code=2)
    started = time.monotonic()
    store = ChainStore.open(args.store)
    chosen = _chosen(store, args)
    device = choose_device(args.device)
    model = LanguageModel(args.model.expanduser())
    cache: EmbeddingCache = store_cache(Path(args.store), model, model.fingerprint)
    made = there = 0
    size = 0
    with progress("embedding", len(chosen.sequences)) as advance, torch.inference_mode():
        for chain in chosen.sequences:
            sequence = with_ends(store.tokens(chain))
            if cache.read(sequence) is None:
                cache.write(sequence, model.embed(sequence, device))
                made += 1
            else:
                there += 1
            size += cache.path(sequence).stat().st_size
            advance(1)
    told = [f"{made:,} sequences embedded", f"{there:,} there already"]
    if cache.damaged:
        told[0] += f" ({cache.damaged:,} of them damaged and made again)"
    if chosen.too_long:
        told.append(f"{chosen.too_long:,} chains longer than {args.max_length} left out")
    print(f"{', '.join(told)}; {size / 1e6:,.1f} MB in {cache.folder}, {time.monotonic() - started:.1f} s")
    return 0


class _Chosen(NamedTuple):
    sequences: list[int]
    """One chain of each sequence, shortest first: memory grows at the end, where it may be short."""
    too_long: int


def _chosen(store: ChainStore, args: argparse.Namespace) -> _Chosen:
    chains = store.indices(args.split)
    if not len(chains):
        raise UserError(f"store {args.store} has no chain in split {args.split!r}")
    short = chains if args.max_length is None else chains[store.lengths[chains] <= args.max_length]
    first: dict[bytes, int] = {}
    for chain in sorted(short.tolist(), key=lambda chain: (int(store.lengths[chain]), chain)):
        first.setdefault(store.tokens(chain).tobytes(), chain)
    return _Chosen(list(first.values()), len(chains) - len(short))
