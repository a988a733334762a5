"""Which parameters of a model are in another model's weights, tensor by tensor, told as a table by module."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

Fate = Literal["matched", "shape", "missing", "unexpected", "fresh"]
FATES: Final[tuple[Fate, ...]] = ("matched", "shape", "missing", "unexpected", "fresh")
"""What becomes of a tensor: taken over; in both with another shape or kind, and skipped; only in this model; only in
the other weights; left to start at random because the config says so."""

_KINDS: Final = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_SHOWN: Final = 3
_MODULES: Final = 40
_LONGEST_NAME: Final = 100


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Tensors and elements of one fate in one module."""

    tensors: int = 0
    elements: int = 0


@dataclass(frozen=True, kw_only=True)
class Matching:
    """What of a model's parameters is in other weights."""

    fates: Mapping[str, Fate]
    """By tensor name, this model's in its own order, then the unexpected ones."""
    sizes: Mapping[str, int]
    """Elements of each tensor, as this model has it where it has it."""
    unlike: Mapping[str, str]
    """How the skipped tensors differ, in words."""

    def names(self, *fates: Fate) -> list[str]:
        """The tensors of these fates."""
        return [name for name, fate in self.fates.items() if fate in fates]

    def modules(self) -> dict[str, dict[Fate, Tally]]:
        """Counts by top-level module; where a module is mixed, those of its parts that are not wholly matched too.

        The modules of this model come first.
        """
        tallies = self._tallies()
        found: dict[str, dict[Fate, Tally]] = {}
        for top in dict.fromkeys(name.split(".")[0] for name in self.fates):
            found[top] = tallies[top]
            if len(tallies[top]) > 1:
                parts = (part for part in tallies if part.startswith(f"{top}."))
                found |= {part: tallies[part] for part in parts if tallies[part].keys() != {"matched"}}
        return found

    def _tallies(self) -> dict[str, dict[Fate, Tally]]:
        """Counts under "" (everything), each first part of the names, and each first two parts."""
        tallies: dict[str, dict[Fate, Tally]] = {"": {}}
        for name, fate in self.fates.items():
            parts = name.split(".")
            for prefix in dict.fromkeys(("", parts[0], ".".join(parts[:2]))):
                own = tallies.setdefault(prefix, {})
                before = own.get(fate, Tally())
                own[fate] = Tally(tensors=before.tensors + 1, elements=before.elements + self.sizes[name])
        return {prefix: {f: own[f] for f in FATES if f in own} for prefix, own in tallies.items()}

    def table(self) -> str:
        """The counts by module as lines of text, tensors with their elements, then the first skipped ones."""
        head = ["module", "matched", "other shape", "missing", "unexpected", "left fresh"]
        rows = [head]
        modules = list(self.modules().items())
        for module, tallies in [*modules[:_MODULES], ("all", self._tallies()[""])]:
            label = f"  {shown(module)}" if "." in module else shown(module)
            rows.append([label, *(_cell(tallies.get(fate)) for fate in FATES)])
        widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
        lines = [
            "  ".join(
                cell.ljust(width) if k == 0 else cell.rjust(width)
                for k, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        if len(modules) > _MODULES:
            lines.append(f"{len(modules) - _MODULES} more modules are not shown")
        skipped = self.names("shape")
        lines += [f"other shape: {shown(name)} ({self.unlike[name]})" for name in skipped[:_SHOWN]]
        return "\n".join(
            [*lines, *([f"other shape: {len(skipped) - _SHOWN} more"] if len(skipped) > _SHOWN else [])]
        )

    def differing(self, prefix: str) -> list[str]:
        """Tensors under ``prefix`` in which the two are not the same, each with the reason; fresh ones left out."""
        told: dict[Fate, str] = {"missing": "absent there", "unexpected": "absent here"}
        return [
            f"{shown(name)} ({self.unlike.get(name) or told[fate]})"
            for name, fate in self.fates.items()
            if fate in ("shape", *told) and lies_under(name, (prefix,))
        ]


def match_weights(
    own: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    fresh: Collection[str] = (),
    ignored: Collection[str] = (),
) -> Matching:
    """Find the tensors of ``own`` in ``theirs`` by name and shape.

    Args:
        own: This model's parameters.
        theirs: The other weights.
        fresh: Name prefixes under which nothing is taken over.
        ignored: Names in ``theirs`` that are no parameters, such as buffers.
    """
    fates: dict[str, Fate] = {}
    unlike: dict[str, str] = {}
    for name, tensor in own.items():
        if lies_under(name, fresh):
            fates[name] = "fresh"
        elif name not in theirs:
            fates[name] = "missing"
        else:
            why = _difference(tensor, theirs[name])
            fates[name] = "shape" if why else "matched"
            if why:
                unlike[name] = why
    extra = [
        name for name in theirs if name not in own and name not in ignored and not lies_under(name, fresh)
    ]
    fates |= dict.fromkeys(extra, "unexpected")
    sizes = {name: (own[name] if name in own else theirs[name]).numel() for name in fates}
    return Matching(fates=fates, sizes=sizes, unlike=unlike)


def lies_under(name: str, prefixes: Collection[str]) -> bool:
    """Whether ``name`` is one of the prefixes or begins with one and a dot; everything lies under the empty one."""
    return any(not p or name == p or name.startswith(f"{p}.") for p in prefixes)


def shown(name: str) -> str:
    """A name from a file as it may be printed."""
    printable = "".join(c if c.isprintable() else "?" for c in name[: _LONGEST_NAME + 1])
    return printable if len(printable) <= _LONGEST_NAME else f"{printable[: _LONGEST_NAME - 1]}…"


def _difference(own: Tensor, theirs: Tensor) -> str | None:
    if own.shape != theirs.shape:
        return f"{list(theirs.shape)} there, {list(own.shape)} here"
    if theirs.dtype not in _KINDS or theirs.layout != torch.strided or theirs.is_meta:
        return f"{theirs.dtype} on {theirs.device}, {theirs.layout} there: no weights"
    return None


def _cell(tally: Tally | None) -> str:
    return "–" if tally is None else f"{tally.tensors} ({_count(tally.elements)})"


def _count(elements: int) -> str:
    for size, unit in ((1_000_000, " M"), (1_000, " k")):
        if elements >= size:
            return f"{elements / size:.2f}{unit}"
    return str(elements)


def prefixes_without_parameters(own: Collection[str], prefixes: Collection[str]) -> Iterator[str]:
    """Those of ``prefixes`` under which there is nothing."""
    return (prefix for prefix in prefixes if not any(lies_under(name, (prefix,)) for name in own))
