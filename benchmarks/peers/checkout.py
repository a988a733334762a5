"""Imports parts of another project's checkout without installing it, and without leaving its names behind."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

PEERS = {
    "openfold": "https://github.com/aqlaboratory/openfold",
    "genie2": "https://github.com/aqlaboratory/genie2",
    "frameflow": "https://github.com/microsoft/protein-frame-flow",
    "lucidrains-ipa": "https://github.com/lucidrains/invariant-point-attention",
    "lucidrains-triangle": "https://github.com/lucidrains/triangle-multiplicative-module",
}
"""Names for ``--peer NAME=PATH``, and where a checkout comes from."""


@contextmanager
def importable(root: Path, packages: Sequence[str] = (), empty: Sequence[str] = ()) -> Iterator[None]:
    """Within it, modules below ``root`` can be imported; afterwards their names are free again.

    Two projects have a package ``openfold``, and all of them import much that their modules do not need.

    Args:
        root: the checkout.
        packages: packages whose ``__init__`` is not run; what is imported below them is found as usual.
        empty: modules that exist but hold nothing, such as compiled extensions that the timed code never calls.
    """
    roots = {name.partition(".")[0] for name in (*packages, *empty)} | {
        p.name for p in root.iterdir() if p.is_dir()
    }
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in roots}
    before = set(sys.modules)
    sys.path.insert(0, str(root))
    try:
        for name in packages:
            module = ModuleType(name)
            module.__path__ = [str(root.joinpath(*name.split(".")))]
            sys.modules[name] = module
        for name in empty:
            sys.modules[name] = ModuleType(name)
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, sys.modules[name])
        importlib.invalidate_caches()
        yield
    finally:
        sys.path.remove(str(root))
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in roots:
                del sys.modules[name]
        sys.modules.update(hidden)
