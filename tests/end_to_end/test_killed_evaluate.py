"""``evaluate`` that is killed leaves whole files or none, and gives the same when it is run again."""

from __future__ import annotations

import csv
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = [sys.executable, "-c", "from minifold_pl.cli.main import entry_point; entry_point()"]


@pytest.mark.slow
def test_killed_at_any_moment_its_results_are_whole_or_absent(
    diffusion_run: Path, store: Path, tmp_path: Path
) -> None:
    command = [
        *PROGRAM, "evaluate", "--ckpt", str(diffusion_run / "checkpoints" / "best.ckpt"), "--data", str(store),
        "--split", "all", "--limit", "6", "--steps", "2", "--batch-size", "2", "--overwrite", "--out",
    ]  # fmt: skip
    begun = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    took = time.monotonic() - begun
    whole = _contents(tmp_path / "whole")
    assert len(whole) >= 3
    draw = random.Random(0)
    # The end of the work is where files are written: half of the kills go there.
    moments = [draw.uniform(0, took) for _ in range(4)] + [
        draw.uniform(0.9 * took, 1.02 * took) for _ in range(4)
    ]
    for number, moment in enumerate(moments):
        out = tmp_path / f"killed-{number}"
        with subprocess.Popen(
            [*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.kill()
        for name, content in _contents(out).items():
            assert content == whole[name], f"{name} after a kill at {moment:.2f} s"
    subprocess.run([*command, str(out)], check=True, capture_output=True)
    assert _contents(out) == whole
    assert not list(out.rglob(".*")), "temporary files"
    shutil.rmtree(tmp_path)


def _contents(folder: Path) -> dict[str, object]:
    """What the files say, without where and when; parsing it is the check that they are whole."""
    found: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix == ".json":
            content = json.loads(path.read_text())
            found[name] = {
                k: content[k] for k in sorted(content) if k not in ("created", "command", "seconds")
            }
        elif path.suffix == ".csv":
            with path.open(newline="") as file:
                found[name] = list(csv.reader(file))
        else:
            found[name] = path.read_bytes()
    return found
