"""File names from whatever a sequence is called."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

LONGEST: Final = 100
"""Characters of a name; leaves room for suffixes below the 255 bytes of common file systems."""

_RESERVED: Final = {
    "con", "prn", "aux", "nul", *(f"com{i}" for i in range(10)), *(f"lpt{i}" for i in range(10)),
}  # fmt: skip
"""Device names on Windows, with any extension."""


def safe_file_name(name: str, taken: set[str]) -> str:
    """A file name, without extension, that says ``name`` as far as a file name can.

    Only ASCII letters, digits, ``.``, ``_``, ``-`` stay; it never is a path, hidden, or longer than
    :data:`LONGEST`, and differs from every name in ``taken`` on file systems that fold case, too.

    Args:
        name: Anything: a FASTA header, a path, nothing at all.
        taken: Names given so far, case-folded; the new one is added.
    """
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    # Runs of dots never stay: no ".." anywhere, whatever the name is joined to later.
    plain = re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._-]+", "_", ascii_only))
    plain = plain.lstrip("._-")[:LONGEST].rstrip("._-") or "chain"
    if plain.split(".")[0].lower() in _RESERVED:
        plain = f"chain_{plain}"[:LONGEST]
    unique, number = plain, 1
    while unique.lower() in taken:
        number += 1
        suffix = f"-{number}"
        unique = plain[: LONGEST - len(suffix)] + suffix
    taken.add(unique.lower())
    return unique
