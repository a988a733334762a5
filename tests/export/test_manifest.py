from __future__ import annotations

import json

import torch

import minifold_pl
from minifold_pl.export.manifest import manifest_text, versions


def test_it_is_strict_json_with_versions() -> None:
    text = manifest_text("sample", {"a": (1, {"b": float("nan"), "c": float("inf")}), "name": "Å"})
    read = json.loads(text, parse_constant=lambda token: (_ for _ in ()).throw(ValueError(token)))
    assert read["a"] == [1, {"b": None, "c": None}]
    assert read["name"] == "Å"
    assert read["command"] == "sample"
    assert read["versions"] == versions()
    assert read["versions"]["minifold-pl"] == minifold_pl.__version__
    assert read["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
