from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from minifold_pl.checkpoint.atomic import sha256
from minifold_pl.checkpoint.io import save
from minifold_pl.checkpoint.manifest import Content, Manifest, write_manifest
from minifold_pl.cli.main import main
from minifold_pl.modules.load import load_module


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


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two checkpoints that differ in one weight of one part, a moment, a count, a key and a shape."""

    def content(step: int) -> dict[str, Any]:
        weights = {
            "encoder.layer.weight": torch.ones(2, 2),
            "denoiser.blocks.0.weight": torch.full((3,), 2.0),
            "denoiser.blocks.1.weight": torch.tensor([1.0, float("nan")]),
        }
        return {
            "global_step": step,
            "epoch": 1,
            "state_dict": weights,
            "current_model_state": {name: value.clone() for name, value in weights.items()},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}],
            "loops": {"fit_loop": {"epoch_progress": {"current": {"ready": 2, "processed": 1}}}},
        }

    first, second = content(7), content(7)
    save(first, tmp_path / "first.ckpt")
    second["global_step"] = 8
    second["state_dict"]["denoiser.blocks.0.weight"][1] += 0.25
    second["optimizer_states"][0]["state"][0]["exp_avg"][0] = float("nan")
    second["optimizer_states"][0]["param_groups"][0]["lr"] = 0.05
    second["current_model_state"]["encoder.layer.weight"] = torch.ones(2, 3)
    second["current_model_state"]["head.bias"] = torch.zeros(1)
    second["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] = 2
    save(second, tmp_path / "second.ckpt")
    return tmp_path / "first.ckpt", tmp_path / "second.ckpt"


def test_diff_tells_keys_shapes_values_by_module_moments_and_loops(pair: tuple[Path, Path], capsys) -> None:
    assert main(["ckpt", "diff", *map(str, pair), "--depth", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["same"] is False
    groups = {(group["section"], group["name"]): group for group in told["groups"]}
    assert groups["weights", "encoder.layer"]["different"] == 0
    blocks = groups["weights", "denoiser.blocks"]
    assert (blocks["tensors"], blocks["different"], blocks["max_abs"], blocks["largest"]) == (2, 1, 0.25, 2.0)
    assert groups["raw weights", "encoder.layer"]["unlike"] == [
        "encoder.layer.weight: [2, 2] float32 and [2, 3] float32"
    ]
    assert groups["raw weights", "head.bias"]["only_second"] == ["head.bias"]
    # NaN on one side only: infinitely far, which JSON has no word for.
    assert groups["optimizer", "exp_avg"]["different"] == 1
    assert groups["optimizer", "exp_avg"]["max_abs"] is None
    assert {(v["path"], v["first"], v["second"]) for v in told["values"]} == {
        ("global_step", "7", "8"),
        ("optimizer_states/0/param_groups/0/lr", "0.1", "0.05"),
        ("loops/fit_loop/epoch_progress/current/processed", "1", "2"),
    }

    assert main(["ckpt", "diff", *map(str, pair)]) == 0
    shown = capsys.readouterr().out
    for words in ("denoiser", "0.25", "only in the second: head.bias", "global_step: 7 → 8"):
        assert words in shown


def test_diff_of_a_checkpoint_with_itself_finds_nothing_not_even_in_nan(
    pair: tuple[Path, Path], capsys
) -> None:
    assert main(["ckpt", "diff", str(pair[0]), str(pair[0]), "--exit-code"]) == 0
    assert "the same, bit for bit" in capsys.readouterr().out
    assert main(["ckpt", "diff", *map(str, pair), "--exit-code"]) == 1


def test_verify_tells_what_is_whole_and_where_a_run_goes_on(
    pair: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    assert main(["ckpt", "verify", str(tmp_path)]) == 0
    assert "goes on from second.ckpt" in capsys.readouterr().out
    pair[1].write_bytes(pair[1].read_bytes()[:-1])
    assert main(["ckpt", "verify", str(tmp_path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [(Path(c["path"]).name, c["whole"]) for c in told["checkpoints"]] == [
        ("first.ckpt", True), ("second.ckpt", False),
    ]  # fmt: skip
    assert told["newest"] == {str(tmp_path): "first.ckpt"}
    assert main(["ckpt", "verify", str(pair[1]), str(pair[0])]) == 1
    shown = capsys.readouterr().out
    assert "DAMAGED" in shown
    assert "whole    " in shown
    # Looking changes nothing.
    assert pair[1].exists()


@pytest.mark.parametrize("manifest", [False, True])
def test_verify_refuses_a_whole_file_that_carries_code_and_runs_none(
    tmp_path: Path, capsys, manifest: bool
) -> None:
    evil = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "global_step": 3, "x": _Bomb(tmp_path / "touched")}, evil)
    if manifest:
        write_manifest(
            evil,
            Manifest(content=Content(sha256=sha256(evil), size=evil.stat().st_size, step=3, epoch=0)),
        )
    assert main(["ckpt", "verify", str(evil)]) == 1
    shown = capsys.readouterr().out
    assert "REFUSED" in shown
    assert "carries code (posix.system) where only tensors and plain values are allowed" in shown
    assert main(["ckpt", "verify", str(tmp_path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    (found,) = told["checkpoints"]
    assert (found["whole"], found["plain"], found["manifest"]) == (True, False, manifest)
    assert told["newest"] == {str(tmp_path): None}
    assert not (tmp_path / "touched").exists()


def test_verify_of_a_folder_without_checkpoints_is_wrong_use(tmp_path: Path, told: Callable[[], str]) -> None:
    assert main(["ckpt", "verify", str(tmp_path)]) == 2
    assert "no checkpoint" in told()


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_exported_weights_are_those_of_the_checkpoint_and_can_be_sampled_with(
    untrained: dict[str, Path], tmp_path: Path, weights: str, capsys
) -> None:
    source = torch.load(untrained["diffusion"], weights_only=True)
    expected = source["state_dict" if weights == "ema" else "current_model_state"]

    out = tmp_path / "weights.safetensors"
    assert main(["ckpt", "export", str(untrained["diffusion"]), "--out", str(out), "--weights", weights]) == 0
    assert f"{len(expected)} tensors" in capsys.readouterr().out
    with safe_open(out, "pt") as file:
        assert set(file.keys()) == set(expected)
        assert all(torch.equal(file.get_tensor(name), expected[name]) for name in expected)
        config = json.loads(file.metadata()["config"])
    assert (config["step"], config["weights"]) == (7, weights)
    assert config["minifold_pl"]["model_config"] == source["minifold_pl"]["model_config"]

    out = tmp_path / "weights.pt"
    assert main(["ckpt", "export", str(untrained["diffusion"]), "--out", str(out), "--weights", weights]) == 0
    module = load_module(out, "diffusion")
    assert all(torch.equal(module.state_dict()[name], expected[name]) for name in expected)
    assert out.stat().st_size < untrained["diffusion"].stat().st_size
    assert main(["ckpt", "verify", str(out)]) == 0


def test_exporting_overwrites_nothing_unasked_and_never_its_source(
    untrained: dict[str, Path], tmp_path: Path, told: Callable[[], str]
) -> None:
    source = tmp_path / "a.ckpt"
    shutil.copy(untrained["contact"], source)
    (tmp_path / "b.pt").write_text("mine")
    for out, more, said in (
        ("b.pt", [], "--overwrite"),
        ("b.onnx", [], ".safetensors"),
        ("a.ckpt", ["--overwrite"], "the checkpoint itself"),
    ):
        assert main(["ckpt", "export", str(source), "--out", str(tmp_path / out), *more]) == 2
        assert said in told()
    assert (tmp_path / "b.pt").read_text() == "mine"
    assert main(["ckpt", "export", str(source), "--out", str(tmp_path / "c.pt"), "--weights", "raw"]) == 1
    assert "one set of weights only" in told()
    assert main(["ckpt", "export", str(source), "--out", str(tmp_path / "b.pt" / "in_a_file.pt")]) == 1
    assert "cannot write --out" in told()
    assert main(["ckpt", "export", str(source), "--out", str(tmp_path / "b.pt"), "--overwrite"]) == 0


def test_exporting_what_is_not_there_onto_what_is_leaves_it(tmp_path: Path, told: Callable[[], str]) -> None:
    (tmp_path / "b.pt").write_text("mine")
    absent = str(tmp_path / "absent.ckpt")
    assert main(["ckpt", "export", absent, "--out", str(tmp_path / "b.pt"), "--overwrite"]) == 1
    assert "no checkpoint at" in told()
    assert (tmp_path / "b.pt").read_text() == "mine"


def test_tied_weights_can_be_exported(tmp_path: Path) -> None:
    weight = torch.arange(4.0)
    save({"state_dict": {"a": weight, "b": weight}, "global_step": 1, "epoch": 0}, tmp_path / "tied.ckpt")
    assert (
        main(["ckpt", "export", str(tmp_path / "tied.ckpt"), "--out", str(tmp_path / "w.safetensors")]) == 0
    )


@pytest.mark.parametrize("command", ["show", "diff", "verify", "export"])
def test_rubbish_of_every_kind_is_told_in_a_line_by_every_command(
    untrained: dict[str, Path], tmp_path: Path, capsys, command: str
) -> None:
    whole = untrained["contact"].read_bytes()
    torch.save({"state_dict": {}, "x": _Bomb(tmp_path / "touched")}, tmp_path / "evil.ckpt")
    (tmp_path / "legacy.ckpt").write_bytes(pickle.dumps({"state_dict": {}, "x": _Bomb(tmp_path / "touched")}))
    (tmp_path / "empty.ckpt").write_bytes(b"")
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "noise.ckpt").write_bytes(random.Random(0).randbytes(5000))
    (tmp_path / "headed.ckpt").write_bytes(b"PK\x03\x04" + random.Random(1).randbytes(5000))
    with zipfile.ZipFile(tmp_path / "zip.ckpt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    torch.save([1, 2], tmp_path / "list.ckpt")
    ring: dict[str, Any] = {"state_dict": {}, "callbacks": {"a": {"b": []}}}
    ring["callbacks"]["a"]["b"].append(ring["callbacks"])
    torch.save(ring, tmp_path / "ring.ckpt")
    (tmp_path / "folder.ckpt").mkdir()
    os.mkfifo(tmp_path / "pipe.ckpt")
    names = [*sorted(path.name for path in tmp_path.iterdir()), "absent.ckpt"]
    for name in names:
        if command == "verify" and name == "folder.ckpt":
            continue  # is searched
        path = str(tmp_path / name)
        more = {"diff": [str(untrained["contact"])], "export": ["--out", str(tmp_path / "out.pt")]}.get(
            command, []
        )
        assert main(["ckpt", command, path, *more]) == 1, name
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        line = captured.out if command == "verify" else captured.err
        assert name in line, (name, line)
        assert len(line.strip().splitlines()) <= 2
    assert not (tmp_path / "touched").exists()
    assert not (tmp_path / "out.pt").exists()


def test_show_tells_where_the_weights_came_from_generation_by_generation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    origin = {
        "ckpt": "v13.ckpt", "sha256": "ab" * 32, "step": 70, "weights": "ema",
        "modules": {"denoiser": {"matched": {"tensors": 3, "elements": 9}, "fresh": {"tensors": 2, "elements": 4}}},
        "before": [{"ckpt": "v12b.ckpt", "sha256": "cd" * 32, "step": 30, "weights": "only"}],
    }  # fmt: skip
    about = {"stage": "diffusion", "initialised": origin, "encoder_origin": "contact.ckpt"}
    path = tmp_path / "v14.ckpt"
    torch.save({"state_dict": {}, "minifold_pl": about}, path)
    assert main(["ckpt", "show", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["initialised"] == origin
    assert main(["ckpt", "show", str(path)]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in (
        "v13.ckpt (averaged weights, step 70",
        "3 matched, 2 left fresh",
        "v12b.ckpt",
        "contact.ckpt",
    ):
        assert words in shown, words


@pytest.mark.parametrize("origin", [3, {"modules": 3, "before": 4}, {"modules": {"a": 1}, "before": [1, {}]}])
def test_show_tells_what_it_can_of_an_origin_that_makes_no_sense(tmp_path: Path, origin: Any) -> None:
    torch.save(
        {"state_dict": {}, "minifold_pl": {"stage": "diffusion", "initialised": origin}}, tmp_path / "x.ckpt"
    )
    assert main(["ckpt", "show", str(tmp_path / "x.ckpt")]) == 0
