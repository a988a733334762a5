"""What became of one source file, or of some lines of a chain set: chains, and what was wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, NamedTuple, Self

from minifold_pl.data.chain_set import shortened
from minifold_pl.data.packed_chain import PackedChain

Action = Literal["dropped", "repaired", "noted"]
ACTIONS: Final[tuple[Action, ...]] = ("noted", "repaired", "dropped")
DUPLICATE: Final = "duplicate name"


class Problem(NamedTuple):
    """Something that is to be told of a chain, or of a file as a whole."""

    action: Action
    """What was done: a dropped chain is not in the store, the others are; a noted one is unchanged."""
    reason: str
    """Short and the same for every chain with this problem: a row of the report's table."""
    detail: str = ""
    name: str | None = None
    """The chain's name, where there is one."""

    def told(self, place: str) -> str:
        """One line, beginning with where it was found."""
        who = place + (f" ({shortened(self.name)})" if self.name is not None else "")
        what = f"{self.reason}: {self.detail}" if self.detail else self.reason
        return f"{who}: {what} ({self.action})"


@dataclass(frozen=True)
class Entry:
    """A chain, or the place where there might have been one."""

    problems: tuple[Problem, ...]
    chain: PackedChain | None = None
    line: int | None = None
    """Line of the source, from 1; None where the source is a file of its own."""
    parent: str | None = None
    """The chain that a domain was cut from."""
    absent: str | None = None
    """Name of a chain that is not here, since another of that name came before it."""


@dataclass(frozen=True)
class Outcome:
    """What one item of a source gave."""

    entries: tuple[Entry, ...]
    sha256: str = ""
    """Of the file's bytes, where the item is a file."""

    def encoded(self) -> bytes:
        """As bytes: the length of a JSON text, the text, and the contents of the chains in their order."""
        contents: list[bytes] = []
        rows = []
        for entry in self.entries:
            row: dict[str, Any] = {"problems": entry.problems, "line": entry.line, "parent": entry.parent}
            if entry.chain is not None:
                contents.append(entry.chain.content)
                row["chain"] = {**_fields(entry.chain), "content": len(entry.chain.content)}
            rows.append(row)
        head = json.dumps({"sha256": self.sha256, "entries": rows}, separators=(",", ":")).encode()
        return b"".join([len(head).to_bytes(4, "little"), head, *contents])

    @classmethod
    def decoded(cls, data: bytes) -> Self:
        """The outcome that was encoded."""
        place = 4 + int.from_bytes(data[:4], "little")
        head = json.loads(data[4:place])
        entries = []
        for row in head["entries"]:
            chain = None
            if "chain" in row:
                values = row["chain"]
                stop = place + values["content"]
                chain = PackedChain(
                    **{**values, "content": data[place:stop], "cath": tuple(values["cath"])},
                )
                place = stop
            problems = tuple(Problem(*problem) for problem in row["problems"])
            entries.append(Entry(problems, chain, row["line"], row["parent"]))
        return cls(tuple(entries), head["sha256"])


def _fields(chain: PackedChain) -> dict[str, Any]:
    # dataclasses.asdict would copy the content
    return {field.name: getattr(chain, field.name) for field in fields(chain)}
