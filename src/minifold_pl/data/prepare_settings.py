"""How a source becomes a store."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from minifold_pl.data.chain_set import MIN_LENGTH
from minifold_pl.data.exclude import Exclusion
from minifold_pl.data.read_source import MIN_COMPLETE
from minifold_pl.data.shards import shard_range
from minifold_pl.data.split import SplitFractions, SplitMethod


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """How a source becomes a store."""

    splits: str | Path | None = None
    """A splits file in Ingraham's form; by default the one beside a chain set, else the chains' own."""
    split_by: SplitMethod | None = None
    """Make splits: by ``cluster`` of similar sequences or by CATH ``topology``."""
    fractions: SplitFractions = field(default_factory=SplitFractions)
    """Shares of the splits that are made."""
    seed: int = 0
    """Of the splits that are made."""
    cath_domains: tuple[str | Path, ...] = ()
    """CATH's lists of domains: labels for the chains that they name."""
    domains: bool = False
    """Keep the domains of ``cath_domains`` as chains of their own, instead of the chains."""
    exclude: Exclusion | None = None
    """Held-out chains whose relatives are left out, unless they are in a split that is not trained on."""
    min_length: int = MIN_LENGTH
    """Fewest residues, and fewest observed Cα, of a chain."""
    min_complete: float = MIN_COMPLETE
    """Least share of residues with a whole backbone, from a structure file's first observed residue to its last."""
    shard: tuple[int, int] | None = None
    """(k, n): only the k-th of n parts of the source; :func:`minifold_pl.data.shards.merge_stores` joins them."""
    processes: int | None = None
    """How many read at once; by default as many as there are processors for this program."""
    timeout: float = 30.0
    """Seconds that a file may take, and one more for each of its megabytes."""
    overwrite: bool = False
    """Replace a store that is there. Without it, a store of structure files is added to."""

    def __post_init__(self) -> None:
        if self.min_length < MIN_LENGTH:
            raise ValueError(
                f"min_length is {self.min_length}; fewer than {MIN_LENGTH} residues have no handedness"
            )
        if not 0.0 <= self.min_complete <= 1.0:
            raise ValueError(f"min_complete is {self.min_complete}; give a share in 0…1")
        if self.processes is not None and self.processes < 1:
            raise ValueError(f"processes is {self.processes}; give at least 1")
        if not (self.timeout > 0 and math.isfinite(self.timeout)):
            raise ValueError(f"timeout is {self.timeout} s; give more than 0")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; give 0 or more")
        if self.splits is not None and self.split_by is not None:
            raise ValueError(f"splits is {self.splits} and split_by is {self.split_by!r}; give one of them")
        if self.domains and not self.cath_domains:
            raise ValueError(
                "domains are to be cut, and cath_domains is empty; give the lists that name them"
            )
        if self.shard is not None and self.exclude is not None:
            raise ValueError(
                "relatives of held-out chains are left out of a whole source; give exclude or shard"
            )
        if self.shard is not None:
            shard_range(0, *self.shard)  # refuses a shard that cannot be

    @property
    def workers(self) -> int:
        """Processes that read."""
        return self.processes or len(os.sched_getaffinity(0))
