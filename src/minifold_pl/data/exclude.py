"""Which chains may not be trained on, because chains that are held out elsewhere would not be new to the model then."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

from minifold_pl.data.alignment import align
from minifold_pl.data.cath import topologies
from minifold_pl.data.cluster import IDENTITY, Search, candidate_pairs
from minifold_pl.data.leakage import Progress
from minifold_pl.data.outcome import Problem
from minifold_pl.data.records import TEST, TRAIN, VALIDATION
from minifold_pl.data.store import ChainStore
from minifold_pl.data.store_format import read_header
from minifold_pl.data.tokenizer import decode

Topologies = Literal["all", "unseen", "none"]
SAME_TOPOLOGY: Final = "CATH topology of a held-out chain"
SIMILAR: Final = "similar to a held-out chain"


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """Relatives of held-out chains that are left out."""

    stores: tuple[Path, ...]
    """Stores whose validation and test chains are held out."""
    topology: Topologies = "all"
    """``all``: what has a CATH topology of a held-out chain; ``unseen``: of these, only topologies that no training
    chain of the stores has, since the others are no news there; ``none``: topologies do not count."""
    identity: float = IDENTITY
    """Share of identical residues with a held-out chain from which on a sequence is left out."""

    def __post_init__(self) -> None:
        if self.topology not in get_args(Topologies):
            raise ValueError(
                f"topologies to exclude: {self.topology!r} is none of {', '.join(get_args(Topologies))}"
            )
        if not 0 < self.identity <= 1:
            raise ValueError(f"identity is {self.identity}; give a share above 0 and at most 1")

    def as_dict(self) -> dict[str, Any]:
        """What a store remembers of it: contents, not places.

        Raises:
            StoreError: one of the stores is none.
        """
        digests = sorted(read_header(path)[1] for path in self.stores)
        return {"stores": digests, "topology": self.topology, "identity": self.identity}


class Candidate(NamedTuple):
    """A chain that is to be trained on."""

    name: str
    sequence: str
    cath: tuple[str, ...]


@dataclass(frozen=True)
class _HeldOut:
    """What the stores hold out."""

    sequences: dict[str, str]
    """Sequence → a chain that has it, and its split."""
    topologies: dict[str, str]
    """Topology → a chain that has it, and its split."""
    unlabelled: int
    """Held-out chains of which no topology is known: for these similarity alone speaks."""


def relatives(
    candidates: Sequence[Candidate],
    exclusion: Exclusion,
    *,
    search: Search = "auto",
    threads: int = 1,
    progress: Progress,
) -> tuple[dict[int, Problem], list[str]]:
    """Places of the candidates that are related to held-out chains, each with what is to be said of it, and notes.

    The same sequence counts as similar. Those of a forbidden topology are not looked at any further.

    Raises:
        StoreError: one of the stores is none, or damaged.
        SearchError: mmseqs2 is asked for and absent, or it failed.
    """
    held_out = _held_out(exclusion)
    found: dict[int, Problem] = {}
    places: dict[str, list[int]] = defaultdict(list)
    for place, candidate in enumerate(candidates):
        shared = [code for code in topologies(candidate.cath) if code in held_out.topologies]
        if shared:
            why = f"{shared[0]} is that of {held_out.topologies[shared[0]]}"
            found[place] = Problem("dropped", SAME_TOPOLOGY, why, candidate.name)
        else:
            places[candidate.sequence].append(place)
    similar = _similar(places, held_out, exclusion.identity, search, threads, progress)
    for sequence, (other, share) in similar.items():
        for place in places[sequence]:
            found[place] = Problem("dropped", SIMILAR, f"{share:.0%} of {other}", candidates[place].name)
    return found, [_note(exclusion, held_out, found)]


def _held_out(exclusion: Exclusion) -> _HeldOut:
    sequences: dict[str, str] = {}
    held: dict[str, str] = {}
    trained: set[str] = set()
    unlabelled = 0
    for path in exclusion.stores:
        store = ChainStore.open(path)
        for split in (VALIDATION, TEST):
            for chain in store.indices(split).tolist():
                told = f"{store.name(chain)} ({split})"
                sequences.setdefault(decode(store.tokens(chain)), told)
                codes = topologies(store.cath_codes(chain))
                unlabelled += not codes
                for code in codes:
                    held.setdefault(code, told)
        for chain in store.indices(TRAIN).tolist():
            trained.update(topologies(store.cath_codes(chain)))
    if exclusion.topology == "none":
        held = {}
    elif exclusion.topology == "unseen":
        held = {code: told for code, told in held.items() if code not in trained}
    return _HeldOut(sequences, held, unlabelled)


def _similar(
    sequences: Collection[str],
    held_out: _HeldOut,
    identity: float,
    search: Search,
    threads: int,
    progress: Progress,
) -> dict[str, tuple[str, float]]:
    """Sequences that are similar to a held-out one: that one's chain, and their identity."""
    found = {
        sequence: (held_out.sequences[sequence], 1.0)
        for sequence in sequences
        if sequence in held_out.sequences
    }
    every = list(dict.fromkeys([*sequences, *held_out.sequences]))
    asked = [place for place, sequence in enumerate(every) if sequence in held_out.sequences]
    with progress("looking for relatives of held-out chains", len(asked)) as advance:
        pairs, _ = candidate_pairs(every, asked, search=search, threads=threads, advance=advance)
        # What is not held out is a candidate.
        wanted = sorted(
            {
                pair
                for pair in pairs
                if (every[pair[0]] in held_out.sequences) != (every[pair[1]] in held_out.sequences)
            }
        )
    with progress("aligning", len(wanted)) as advance:
        for one, other in wanted:
            mine, theirs = (other, one) if every[one] in held_out.sequences else (one, other)
            if every[mine] not in found:
                share = align(every[mine], every[theirs]).identity
                if share >= identity:
                    found[every[mine]] = held_out.sequences[every[theirs]], share
            advance(1)
    return found


def _note(exclusion: Exclusion, held_out: _HeldOut, found: Mapping[int, Problem]) -> str:
    by_topology = sum(problem.reason == SAME_TOPOLOGY for problem in found.values())
    which = {"all": "", "unseen": " that no training chain there has", "none": " (not asked for)"}
    told = f"; {held_out.unlabelled:,} held-out chains have no topology" if held_out.unlabelled else ""
    return (
        f"{len(held_out.sequences):,} sequences held out, {len(held_out.topologies):,} topologies"
        f"{which[exclusion.topology]}: {by_topology:,} chains left out for their topology, "
        f"{len(found) - by_topology:,} of the others for {exclusion.identity:.0%} and more identical residues{told}"
    )
