"""The structures that an evaluation wrote, with the scores that its tables count."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SUMMARY: Final = "summary.json"


@dataclass(frozen=True, kw_only=True)
class EvaluatedFile:
    """One file of ``summary.json``."""

    path: Path
    chain: str
    """The chain's own name, which a file's name may not be able to say."""
    truth: Path
    made: str
    """``test split``, with its rank where there are several."""
    best: bool
    scores: dict[str, float]
    """Untouched."""


def evaluated_files(folder: Path) -> list[EvaluatedFile]:
    """Those of the evaluation in ``folder`` that are there; none of one that wrote no structures.

    Files outside of ``folder`` are none of its own.
    """
    try:
        content = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        split, listed = content["data"]["split"], content.get("structures") or ()
        found = [
            EvaluatedFile(
                path=folder / one["file"],
                chain=one["chain"],
                truth=folder / one["truth"],
                made=f"{folder.name}: {split} split"
                + (f", rank {one['rank']}" if _several(listed, one) else ""),
                best=one["rank"] == 1,
                scores={name: float(value) for name, value in one["scores"].items() if value is not None},
            )
            for one in listed
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    inside = folder.resolve()
    return [
        one
        for one in found
        if one.path.is_file() and all(inside in path.resolve().parents for path in (one.path, one.truth))
    ]


def _several(listed: Iterable[Mapping[str, object]], one: Mapping[str, object]) -> bool:
    return sum(other["chain"] == one["chain"] for other in listed) > 1
