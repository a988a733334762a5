import importlib.util
import json

import pytest

from minifold_pl.checkpoint import atomic
from minifold_pl.cli.main import main


@pytest.fixture
def store(tmp_path):
    """A store of one chain."""
    row = [[3.8 * i, 0.0, 0.0] for i in range(6)]
    (tmp_path / "c.jsonl").write_text(
        json.dumps({"name": "a", "seq": "ACDEFG", "coords": {"CA": row}}) + "\n"
    )
    assert main(["data", "prepare", str(tmp_path / "c.jsonl"), "--out", str(tmp_path / "store")]) == 0
    return tmp_path / "store"


@pytest.mark.parametrize("kind", ["pdb", "cif", "png"])
def test_a_file_that_cannot_be_written_is_named(store, tmp_path, capsys, monkeypatch, kind):
    if kind == "png" and importlib.util.find_spec("matplotlib") is None:
        pytest.skip("needs matplotlib")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    path = tmp_path / f"a.{kind}"
    assert main(["data", "show", str(store), "a", f"--{kind}", str(path)]) == 1
    assert capsys.readouterr().err == f"error: {path}: No space left on device\n"
    assert not path.exists()
