from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from minifold_pl.checkpoint.atomic import sha256
from minifold_pl.cli.main import main


def test_show_tells_what_the_checkpoint_holds(
    untrained: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = untrained["diffusion"]
    assert main(["ckpt", "show", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["stage"], told["step"], told["epoch"]) == ("diffusion", 7, 1)
    assert told["ema"] is True
    assert told["file"] == {"sha256": sha256(path), "size": path.stat().st_size, "step": 7, "manifest": True}
    assert {"encoder", "pair_stack", "denoiser", "aux", "rg_head"} <= told["parameters"].keys()
    assert told["total"] == sum(told["parameters"].values())
    assert told["model_config"]["class_path"].endswith("DiffusionModule")

    assert main(["ckpt", "show", str(path)]) == 0
    shown = capsys.readouterr().out
    for word in ("diffusion", "checksum", "EMA", "denoiser"):
        assert word in shown


def test_a_checkpoint_of_another_program_is_shown_for_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": {"layer.weight": torch.zeros(3)}, "global_step": 5}, tmp_path / "x.ckpt")
    assert main(["ckpt", "show", str(tmp_path / "x.ckpt")]) == 0
    shown = capsys.readouterr().out
    assert "not a minifold-pl checkpoint" in shown
    assert "no manifest beside it" in shown


class _Bomb:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.touched}",)


def test_code_damage_and_absence_are_told_in_one_line_and_nothing_is_run(
    untrained: dict[str, Path], tmp_path: Path, told: Callable[[], str]
) -> None:
    torch.save({"state_dict": {}, "x": _Bomb(tmp_path / "touched")}, tmp_path / "evil.ckpt")
    whole = bytearray(untrained["diffusion"].read_bytes())
    whole[len(whole) // 2] ^= 4
    (tmp_path / "flipped.ckpt").write_bytes(whole)
    for name, said in (
        ("evil.ckpt", "carries code"),
        ("flipped.ckpt", "damaged checkpoint"),
        ("absent.ckpt", "no checkpoint at"),
    ):
        assert main(["ckpt", "show", str(tmp_path / name)]) == 1
        assert said in told()
    assert not (tmp_path / "touched").exists()
